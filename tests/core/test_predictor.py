import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import PolicyError, ScoreError, TaxonomyError
from demur.core.example import Message
from demur.core.fingerprint import LOGPROB_CONVENTION
from demur.core.policy import natural
from demur.core.predictor import predictor_fingerprint, predictor_scores, prompt_text
from demur.core.score import check_scores
from demur.core.taxonomy import coconot, single

DIGEST = "sha256:" + "a" * 64
TOKENS = single().tokens


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_every_probability_becomes_a_finite_score_that_sums_to_one(
    probabilities: list[float],
) -> None:
    logp_NC = predictor_scores(probabilities)
    check_scores(logp_NC)
    assert logp_NC.shape == (len(probabilities), 2)
    assert logp_NC.dtype == np.float32
    assert np.exp(logp_NC[:, 1]) == pytest.approx(probabilities, abs=1e-6)
    assert np.exp(logp_NC.astype(np.float64)).sum(axis=1) == pytest.approx(1.0, abs=1e-6)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_likelier_refusal_never_has_a_lower_score(one: float, other: float) -> None:
    low, high = predictor_scores(sorted([one, other]))[:, 1]
    assert low <= high


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1, float("inf")])
def test_what_is_no_probability_is_named(bad: float) -> None:
    with pytest.raises(ScoreError, match="row 1 has probability"):
        predictor_scores([0.5, bad])


def test_no_prompts_have_no_scores() -> None:
    assert predictor_scores([]).shape == (0, 2)


def test_the_text_is_what_the_user_said_in_all_turns() -> None:
    said = (
        Message(role="system", content="Be kind."),
        Message(role="user", content="How do I pick"),
        Message(role="assistant", content="What?"),
        Message(role="user", content="a lock?"),
    )
    assert prompt_text(said) == "How do I pick\na lock?"


def test_the_fingerprint_is_never_that_of_control_token_scores() -> None:
    made = predictor_fingerprint(DIGEST, TOKENS, "prompts")
    assert made.logprobs == "predicted/prompts/float32" != LOGPROB_CONVENTION
    assert made.predicted
    assert made.as_scored == made
    assert made == predictor_fingerprint("a" * 64, TOKENS, "prompts")


def test_a_policy_of_one_kind_of_predictor_is_not_for_another() -> None:
    policy = natural(single(), predictor_fingerprint(DIGEST, TOKENS, "prompts"))
    with pytest.raises(PolicyError, match="logprobs differ"):
        policy.require_model(predictor_fingerprint(DIGEST, TOKENS, "guard-hf"))


def test_one_probability_cannot_serve_five_categories() -> None:
    with pytest.raises(TaxonomyError, match="5 categories"):
        predictor_fingerprint(DIGEST, coconot().tokens, "prompts")
