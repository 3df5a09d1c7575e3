"""Promises over populations of which a part is in doubt, with a bound that is measured on the same
rows.
"""

from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import GoalInfeasible
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal
from demur.stats.doubt import measured_rule
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.solve import solve
from tests.builders import MODEL, labelled, log_softmax, policy

DRAWS, ROWS, DELTA, LEVEL = 2000, 600, 0.1, 0.05
TRUTH = 60_000
OURS = replace(MODEL, token_ids=(0, 1, 2))


def population(rng, n, tail):
    """Rows whose leftover mass has a heavy tail: many quantiles beyond the usual one there is still
    something.
    """
    label_N = rng.integers(0, 3, n) * (rng.random(n) < 0.5)
    logits_NC = rng.normal(size=(n, 3)) * 1.5
    logits_NC[np.arange(n), label_N] += 3.0
    left_N = np.clip(0.002 * (rng.pareto(tail, n) + 1.0), 0.0, 0.99)
    logp_NC = log_softmax(logits_NC) + np.log1p(-left_N).astype(np.float32)[:, None]
    return logp_NC.astype(np.float32), label_N


@pytest.mark.slow
@pytest.mark.parametrize("tail", [0.7, 1.2])
@pytest.mark.parametrize("text", [f"false_refusal <= {LEVEL}", "missed_refusal <= 0.15"])
def test_a_promise_holds_where_the_bound_is_measured_on_its_own_rows(text, tail):
    goal, rng, broken, granted = parse_goal(text), np.random.default_rng(7), 0, 0
    truth_NC, truth_N = population(np.random.default_rng(8), TRUTH, tail)
    for _ in range(DRAWS):
        rows = labelled(*population(rng, ROWS, tail))
        template = replace(policy(2), doubt=measured_rule(rows.table, OURS, "refuse"))
        try:
            found = solve(
                [goal],
                template,
                rows,
                CertifyOptions(confidence=1 - DELTA, method="shared"),
                data_digest="d",
            )
        except GoalInfeasible:
            continue
        granted += 1
        refused_N = decide_many(replace(found, promises=()), truth_NC).refuses_N
        rate = (
            refused_N[truth_N == 0].mean()
            if goal.name == "false_refusal"
            else (~refused_N)[truth_N > 0].mean()
        )
        broken += rate > goal.level
    assert granted > DRAWS / 2
    slack = 2.33 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)  # 99 % of binomial draws
    assert broken / DRAWS <= DELTA + slack, f"{broken} of {DRAWS} broken, {granted} granted"
