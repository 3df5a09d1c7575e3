"""The gate: decisions as token ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import EngineError, ScoreError
from demur.core.decision import decide_many
from demur.core.policy import CategoryPolicy, Policy, natural
from demur.core.taxonomy import coconot
from demur.engines.gate import banned_ids, forced_ids

IDS = (501, 77, 9000, 12, 64000, 333)


def random_scores(seed: int, n: int) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(len(IDS) + 1), n)[:, :-1]).astype(
        np.float32
    )


@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(0, 1))
def test_the_forced_id_is_the_id_of_the_decided_token(seed: int, threshold: float) -> None:
    taxonomy = coconot()
    categories = tuple(CategoryPolicy(threshold=threshold) for _ in taxonomy.names)
    policy = Policy(name="p", taxonomy=taxonomy, rule="heaviest", categories=categories)
    logp_NC = random_scores(seed, 40)
    expected = [IDS[column] for column in decide_many(policy, logp_NC).choice_N]
    assert forced_ids(policy, IDS, logp_NC).tolist() == expected


def test_all_control_ids_are_banned_after_the_first_position() -> None:
    assert banned_ids(IDS).tolist() == list(IDS)


def test_ids_that_do_not_fit_the_taxonomy_are_refused() -> None:
    with pytest.raises(EngineError, match="5 control ids"):
        forced_ids(natural(coconot()), IDS[:5], random_scores(0, 3))


def test_a_repeated_control_id_is_refused() -> None:
    with pytest.raises(EngineError, match="repeat"):
        banned_ids((1, 2, 2))


def test_scores_that_are_no_log_probabilities_never_pass_the_gate() -> None:
    logp_NC = random_scores(0, 3)
    logp_NC[1, 2] = np.nan
    with pytest.raises(ScoreError, match="row 1"):
        forced_ids(natural(coconot()), IDS, logp_NC)
