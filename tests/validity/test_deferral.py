"""A band between answer and refusal: over many draws few of the joint promises on false refusals,
missed refusals and deferrals are broken, and goals are met that no single threshold meets.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.goals.parse import parse_goals
from demur.core.score import ScoreTable
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.results import Infeasible
from tests.validity.population import DELTA, population

DRAWS = 2000
PAIR = "false_refusal <= 0.05; missed_refusal <= 0.1"
TIGHT = "false_refusal <= 0.02; missed_refusal <= 0.05"  # no threshold keeps both
CASES = {
    "both errors and a budget": f"{PAIR}; deferral <= 0.15",
    # the most that may be deferred is looked at
    "the whole budget": "false_refusal <= 0.05; deferral <= 0.1; cost: false=0.001 missed=1",
}


def deferring(template):
    fields = {"on_defer": "ask", "defer_text": "Could you say more?"}
    categories = tuple(
        replace(c, defer_threshold=c.threshold, **fields) for c in template.categories
    )
    return replace(template, categories=categories)


def drawn(people, rng, count):
    """Requests drawn alike from all of the population: a deferral may be of any."""
    at = rng.integers(len(people.label_N), size=count)
    ids = tuple(map(str, range(count)))
    table = ScoreTable(ids=ids, logp_NC=people.logp_NC[at])
    return LabelledScores(table=table, label_N=people.label_N[at])


def true_rates(people, certified):
    """The true rates of two vectors of thresholds, from counts over the population."""
    refused = people.emitted(certified.thresholds)
    held = people.emitted(certified.held_from or certified.thresholds)
    everyone = len(people.label_N)
    to_answer = len(people.of_class[0])
    return {
        "false_refusal": sum(n for (_, c), n in refused.items() if c == 0) / to_answer,
        "missed_refusal": 1 - sum(n for (_, c), n in held.items() if c) / (everyone - to_answer),
        "deferral": (sum(held.values()) - sum(refused.values())) / everyone,
    }


def outcome(people, goals, template, seed, *, count=1000, explained=False):
    rows = drawn(people, np.random.default_rng([7, seed]), count)
    how = CertifyOptions(confidence=1 - DELTA, seed=seed, explained=explained)
    return certify(parse_goals(goals), template, rows, how)


@pytest.mark.parametrize(
    "name",
    ["both errors and a budget", pytest.param("the whole budget", marks=pytest.mark.slow)],
)
def test_joint_promises_are_broken_in_at_most_delta_of_the_draws(name):
    people = population(signal=3.5)
    template = deferring(people.template)
    granted = broken = 0
    for seed in range(DRAWS):
        found = outcome(people, CASES[name], template, seed)
        if isinstance(found, Granted):
            granted += 1
            true = true_rates(people, found.certified)
            broken += any(true[g.risk] > g.level for g in found.kept)
    assert broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted >= 0.4 * DRAWS


def test_without_the_band_the_same_pair_of_goals_is_infeasible():
    people = population(signal=3.5)
    for seed in range(3):
        found = outcome(people, TIGHT, people.template, seed, count=8000, explained=True)
        assert isinstance(found, Infeasible)
        assert "can go no lower" in found.reason
    goals = f"{TIGHT}; deferral <= 0.2"
    assert isinstance(outcome(people, goals, deferring(people.template), 0, count=8000), Granted)


def test_a_budget_too_small_for_both_errors_is_infeasible_and_says_what_is_in_reach():
    people = population(signal=3.5)
    goals = f"{TIGHT}; deferral <= 0.01"
    found = outcome(people, goals, deferring(people.template), 0, count=8000, explained=True)
    assert isinstance(found, Infeasible)
    reach = {r.goal.risk: r.lowest for r in found.reachable}
    assert 0.01 < reach["deferral"] < 0.15
    assert "'deferral <= 0.01' can go no lower than" in found.reason
