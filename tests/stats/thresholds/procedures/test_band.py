"""Two thresholds per category, certified in pairs."""

from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import GoalError, GoalInfeasible
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goals
from demur.stats.evidence import recount
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.solve import solve
from tests.builders import policy, simulated_rows, with_category

GOALS = "false_refusal <= 0.05; missed_refusal <= 0.1; deferral <= 0.1"
ROWS = simulated_rows(4000, 3, 1, signal=5.0)


def template(k=3, at=None, rule="heaviest", **fields):
    found = policy(k, rule)
    for n in range(k) if at is None else at:
        found = (
            with_category(
                found,
                n,
                **{
                    "defer_threshold": found.categories[n].threshold,
                    "on_defer": "ask",
                    "defer_text": "More?",
                    **fields,
                },
            )
            if rule != "sum"
            else found
        )
    if rule == "sum":
        categories = tuple(
            replace(c, defer_threshold=c.threshold, on_defer="ask", defer_text="More?")
            for c in found.categories
        )
        found = replace(found, categories=categories)
    return found


def solved(goals=GOALS, found=None, rows=ROWS, **options):
    how = CertifyOptions(**options)
    return solve(parse_goals(goals), found or template(), rows, how, data_digest="sha256:x")


@pytest.mark.parametrize("rule", ["heaviest", "sum", "any"])
def test_promises_count_what_decide_many_makes_of_the_rows(rule):
    made = solved(found=template(rule=rule))
    assert [p.status for p in made.promises] == ["certified"] * 3
    assert all(c.held_from <= c.threshold for c in made.categories)
    decided = decide_many(made, ROWS.table.logp_NC)
    for promise in made.promises:
        again = recount(made, promise, ROWS, [0])
        assert again.rate == promise.rate
        assert again.upper <= promise.level
    assert decided.defers_N.any()


def test_a_category_without_a_band_has_one_threshold():
    made = solved(found=template(at=[0, 2]))
    assert made.categories[1].defer_threshold is None
    decided = decide_many(made, ROWS.table.logp_NC)
    assert 2 not in set(decided.defer_N.tolist())


def test_beside_an_optimum_the_refusals_are_the_best():
    made = solved(f"{GOALS}; f1 max")
    assert [p.status for p in made.promises] == ["certified"] * 3 + ["measured"]


def test_locked_categories_are_counted_as_they_are_served():
    made = solved(found=with_category(template(), 1, locked=True))
    for promise in made.promises:
        assert recount(made, promise, ROWS, [0]).rate == promise.rate


def test_a_group_of_copies_is_one_piece_of_evidence():
    few = simulated_rows(400, 3, 1, signal=5.0)
    at = np.repeat(np.arange(400), 10)
    copied = replace(
        few,
        table=replace(few.table, ids=tuple(map(str, range(4000))), logp_NC=few.table.logp_NC[at]),
        label_N=few.label_N[at],
        group_N=at,
    )
    with pytest.raises(GoalInfeasible):
        solved("false_refusal <= 0.01; deferral <= 0.02", rows=copied)
    solved("false_refusal <= 0.02; deferral <= 0.05", rows=simulated_rows(4000, 3, 2, signal=6.0))


@pytest.mark.parametrize(
    ("goals", "found", "options", "said"),
    [
        ("deferral <= 0.1", policy(3), {}, "no category defers"),
        ("deferral[safety] <= 0.1", template(at=[1]), {}, "'safety' does not defer"),
        ("deferral[safty] <= 0.1", template(), {}, "safty"),
        ("false_refusal <= 0.1", template(), {}, "may defer, and no goal says how often"),
        ("f1 max", template(), {}, "may defer, and no goal says how often"),
        (GOALS, template(), {"method": "path"}, "beside method 'path'"),
        (f"{GOALS}; refusal_rate[safety] = 0.1", template(), {}, "beside a target rate"),
        (GOALS, template(at=[0], rule="any"), {}, "'humanizing' does not defer"),
    ],
)
def test_goals_that_no_band_serves_are_one_clear_error(goals, found, options, said):
    with pytest.raises(GoalError, match=said):
        solved(goals, found, **options)
