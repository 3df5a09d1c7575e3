"""Every engine of ours decides as decide_many: 10,000 random rows x 100 random policies, no
disagreement at all.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from demur.core.calibrator import IDENTITY, Fitted
from demur.core.decision import decide, decide_many
from demur.core.maps.multiclass import Temperature
from demur.core.policy import RULES, CategoryPolicy, DoubtRule, Policy
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.gate import forced_ids
from demur.engines.heads import control_scores
from demur.engines.hf.gate import RefusalGate
from demur.engines.vllm.batch_rows import force_decisions

ROWS, POLICIES, V, WIDTH = 10_000, 100, 24, 3
IDS = np.array([5, 3, 20, 11, 0, 17])  # of the control tokens, respond first
RNG = np.random.default_rng(0)


class Said(torch.nn.Module):
    """A model that says what it is given."""

    def forward(self, logits_RV, attention_mask=None):
        return type("Output", (), {"logits": logits_RV[:, None]})()


def random_policy(seed, p_NC):
    """Any rule, with thresholds in the range of the probabilities, some of them exactly at one:
    ties refuse.
    """
    rng, rule, names = np.random.default_rng(seed), RULES[seed % len(RULES)], coconot().names
    level = rng.choice(p_NC[:, 1:].ravel(), len(names))
    threshold_K = np.where(rng.random(len(names)) < 0.1, NEVER, level)
    forced = rng.integers(0, len(names)) if rng.random() < 0.05 else None
    categories = tuple(
        CategoryPolicy(
            threshold=float(min(1.0, 2 * level[0]) if rule == "sum" else threshold_K[k]),
            active=bool(rng.random() < 0.8),
            bias=rng.normal() if rule == "bias" else 0.0,
            override="force" if k == forced else "suppress" if rng.random() < 0.1 else None,
            locked=bool(rng.random() < 0.2),
        )
        for k in range(len(names))
    )
    fitted = Fitted(tokens=coconot().tokens, map=Temperature(temperature=rng.uniform(0.5, 2.0)))
    calibrator = fitted if seed % 4 == 0 else IDENTITY
    return Policy(
        name=f"{seed}",
        taxonomy=coconot(),
        rule=rule,
        categories=categories,
        calibrator=calibrator,
        doubt=DoubtRule(most_leftover=float(rng.choice([0.3, 0.7, 0.95, 1.0]))),
    )


@pytest.fixture(scope="module")
def case():
    """Logits (R, V), scores (R, C), policies, and the control id that each policy decides on for
    each row, (P, R).
    """
    logits_RV = torch.from_numpy(RNG.normal(size=(ROWS, V)).astype(np.float32) * 3)
    logp_RC = control_scores(logits_RV, IDS.tolist())
    policies = [random_policy(seed, np.exp(logp_RC)) for seed in range(POLICIES)]
    id_PR = np.stack([IDS[decide_many(policy, logp_RC).choice_N] for policy in policies])
    return logits_RV, logp_RC, policies, id_PR


def rounds(case):
    """Each row once under each policy, the rows of one round under 100 different ones: their
    policies, their ids.
    """
    _, _, policies, id_PR = case
    for turn in range(POLICIES):
        at_R = (np.arange(ROWS) + turn) % POLICIES
        yield [policies[at] for at in at_R], id_PR[at_R, np.arange(ROWS)]


def test_the_policies_tell_the_rows_apart(case) -> None:
    _, _, policies, id_PR = case
    assert {p.rule for p in policies} == set(RULES)
    assert all((id_PR == control_id).sum() > 10_000 for control_id in IDS)
    assert sum(len(np.unique(id_R)) > 1 for id_R in id_PR) > 0.8 * POLICIES


def test_doubt_and_locks_decide_some_of_the_rows_and_no_engine_is_shown_easy_ones_only(
    case,
) -> None:
    _, logp_RC, policies, id_PR = case
    doubt_PR = np.stack([decide_many(policy, logp_RC).doubt_N for policy in policies])
    assert 0.2 < doubt_PR.mean() < 0.8
    assert (id_PR[doubt_PR] != IDS[0]).all()
    free = [
        replace(p, categories=tuple(replace(c, locked=False) for c in p.categories))
        for p in policies
    ]
    moved = sum(
        int((IDS[decide_many(p, logp_RC).choice_N] != i).sum())
        for p, i in zip(free, id_PR, strict=True)
    )
    assert moved > 1000


def test_scores_in_torch_are_log_probabilities_over_the_whole_vocabulary(case) -> None:
    logits_RV, logp_RC, _, _ = case
    exact_RV = torch.log_softmax(logits_RV.double(), dim=1).numpy()
    np.testing.assert_allclose(logp_RC, exact_RV[:, IDS], atol=1e-5)


def test_the_gate_of_every_engine(case) -> None:
    _, logp_RC, policies, id_PR = case
    forced_PR = np.stack([forced_ids(policy, IDS.tolist(), logp_RC) for policy in policies])
    assert int((forced_PR != id_PR).sum()) == 0


def test_one_request_at_a_time_as_in_the_servers(case) -> None:
    _, logp_RC, _, _ = case
    policies_R, id_R = next(rounds(case))
    decided_R = [
        IDS[decide(p, logp_C).column] for p, logp_C in zip(policies_R, logp_RC, strict=True)
    ]
    assert int((np.array(decided_R) != id_R).sum()) == 0


def test_transformers_logits_processor(case) -> None:
    logits_RV, prompt_RT, model, differ = (
        case[0],
        torch.zeros(ROWS, WIDTH, dtype=torch.long),
        Said(),
        0,
    )
    for policies_R, id_R in rounds(case):
        with RefusalGate(model, policies_R, IDS.tolist(), prompt_length=WIDTH) as gate:
            model(logits_RV)
            differ += int((gate(prompt_RT, logits_RV).argmax(dim=1).numpy() != id_R).sum())
    assert differ == 0


def test_vllms_plug_in(case) -> None:
    differ = 0
    for policies_R, id_R in rounds(case):
        logits_RV = case[0].clone()
        force_decisions(logits_RV, list(enumerate(policies_R)), (), None, torch.from_numpy(IDS))
        differ += int((logits_RV.argmax(dim=1).numpy() != id_R).sum())
    assert differ == 0
