"""Plans of labels keep the probability that they state, and "more rows will hardly help" is wrong
in at most its stated share.
"""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.goals.parse import parse_goals
from demur.core.score import ScoreTable
from demur.stages import plan_labels
from demur.stats.judging.any_look import log_evidence_below
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.explain import infeasible
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.plan import GoalTest, MethodPlan
from demur.stats.thresholds.problem import LearnTestSplit
from demur.stats.thresholds.results import Infeasible, Uncertified
from tests.builders import policy, simulated_rows
from tests.validity.population import population
from tests.validity.test_deferral import deferring, drawn

DRAWS, WHOLE = 2000, 200  # draws of errors, and of rows with whole certifications on them
SUCCESS = 0.8
LEARN = 0.4


@pytest.mark.parametrize(
    ("method", "texts"),
    [
        ("shared", "false_refusal <= 0.05"),
        ("shared", "false_refusal <= 0.1; missed_refusal <= 0.15"),
        ("path", "missed_refusal <= 0.1"),
        ("path", "false_refusal <= 0.1; missed_refusal <= 0.15"),
        ("vectors", "false_refusal <= 0.1; missed_refusal <= 0.15"),
        ("budgets", "false_refusal <= 0.1"),
        ("graphical", "false_refusal <= 0.1; wrong_category <= 0.1"),
        ("anytime", "false_refusal <= 0.05"),
        ("anytime", "false_refusal <= 0.1; missed_refusal <= 0.15"),
        ("ordered", "precision >= 0.9; missed_refusal <= 0.2"),
        ("band", "false_refusal <= 0.05; missed_refusal <= 0.1; deferral <= 0.2"),
    ],
)
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_thresholds_of_the_stated_rate_pass_as_often_as_the_plan_says(method, texts, part):
    """The tests of a procedure, at thresholds whose true rates are the plan's: errors of each
    category, and the rows that are tested, drawn anew.
    """
    goals, rng = parse_goals(texts), np.random.default_rng(5)
    shares = [[0.5, 0.3, 0.2]] * len(goals)
    plan = MethodPlan(method=method, delta=0.1, learn_share=LEARN)
    tests = plan.tests(goals, shares, [1.0] * len(goals))
    one = 1 - (1 - SUCCESS) / len(goals)
    passed = np.ones(DRAWS, dtype=bool)
    for goal, test in zip(goals, tests, strict=True):
        rows = test.rows_likely(part * goal.level, one)
        tested = rng.binomial(rows, test.tested, size=DRAWS)
        for share in shares[0] if test.tests > 1 else [1.0]:
            level, delta = goal.level * share, test.delta * share
            errors = rng.binomial(tested, part * level)
            if method == "anytime":
                passed &= log_evidence_below(errors, tested, level) >= -np.log(delta)
            else:
                passed &= binom.cdf(errors, tested, level) <= delta
    assert passed.sum() >= binom.ppf(0.001, DRAWS, SUCCESS)
    if len(goals) == 1 and test.tests == 1:  # nothing is given away where nothing is added up
        assert passed.mean() <= SUCCESS + 0.06


def test_rows_without_an_error_are_certified_as_often_as_the_plan_says():
    """A path tests a random part of the rows: rows_needed / 0.6 of them would do in every second
    draw.
    """
    test = GoalTest(level=0.1, delta=0.1, tested=1 - LEARN)
    rows, rng = test.rows_without_errors(SUCCESS), np.random.default_rng(2)
    enough = rng.binomial(rows, 1 - LEARN, size=DRAWS) >= test.needed
    assert enough.sum() >= binom.ppf(0.001, DRAWS, SUCCESS)


@dataclass(frozen=True)
class Planned:
    """Goals at twice the true rates of some thresholds."""

    method: str
    risks: tuple[str, ...]
    signal: float = 4.0
    at: float = 0.5
    held: float = 0.5  # from where on is deferred


BOTH = ("false_refusal", "missed_refusal")
PLANNED = {
    "auto, both sides": Planned("auto", BOTH),
    "anytime, both sides": Planned("anytime", BOTH),
    "path, both sides": Planned("path", BOTH),
    "vectors, both sides": Planned("vectors", BOTH),
    "precision": Planned("auto", ("false_discovery",)),
    "precision where few are refused": Planned("auto", ("false_discovery",), signal=3.0, at=0.8),
    "precision beside missed refusals": Planned("auto", ("false_discovery", "missed_refusal")),
    "deferral": Planned("auto", (*BOTH, "deferral"), signal=3.5, at=0.7, held=0.4),
}


def true_rates(people, at, held):
    """Rates at one threshold for all, and the part of all requests that each is counted among."""
    refused, kept = people.emitted((at,) * 3), people.emitted((held,) * 3)
    everyone, to_answer = len(people.label_N), len(people.of_class[0])
    of_refused, wrong = sum(refused.values()), sum(n for (_, c), n in refused.items() if c == 0)
    caught = sum(n for (_, c), n in kept.items() if c)
    return {
        "false_refusal": (wrong / to_answer, to_answer / everyone),
        "missed_refusal": (1 - caught / (everyone - to_answer), 1 - to_answer / everyone),
        "deferral": ((sum(kept.values()) - of_refused) / everyone, 1.0),
        "false_discovery": (wrong / of_refused, of_refused / everyone),
    }


def certified_as_planned(case, draws, seed):
    """How often rows as many as the plan says certify the goals."""
    people, rng = population(signal=case.signal), np.random.default_rng(seed)
    true = true_rates(people, case.at, case.held)
    goals = tuple(f"{risk} <= {2 * true[risk][0]:.6f}" for risk in case.risks)
    plan = plan_labels.run(plan_labels.Config(goals=goals, confidence=0.9, method=case.method))
    # of all labels mixed as in the population: enough for each goal
    count = max(ceil(r.likely / true[risk][1]) for r, risk in zip(plan, case.risks, strict=True))
    template = deferring(people.template) if "deferral" in case.risks else people.template
    how = CertifyOptions(method=case.method, confidence=0.9, explained=False)
    return sum(
        isinstance(
            certify(parse_goals(goals), template, drawn(people, rng, count), replace(how, seed=n)),
            Granted,
        )
        for n in range(draws)
    )


@pytest.mark.parametrize("name", PLANNED)
def test_planned_rows_are_certified_as_often_as_the_plan_says(name):
    draws = 60
    assert certified_as_planned(PLANNED[name], draws, 6) >= binom.ppf(0.001, draws, SUCCESS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANNED)
def test_so_are_they_in_many_draws(name):
    assert certified_as_planned(PLANNED[name], DRAWS, 7) >= binom.ppf(0.001, DRAWS, SUCCESS)


BY_ROWS = {
    "one threshold": ("auto", "false_refusal <= 0.1; missed_refusal <= 0.15", 400, 4.0),
    "path": ("path", "false_refusal <= 0.1; missed_refusal <= 0.15", 400, 4.0),
    "anytime": ("anytime", "false_refusal <= 0.1; missed_refusal <= 0.15", 400, 4.0),
    "precision": ("auto", "precision >= 0.9", 300, 3.5),
}


def planned_by_rows(name, draws, seed):
    """(plans that scored rows allow, those after which as many other rows are certified)."""
    method, goals, count, signal = BY_ROWS[name]
    people, rng = population(signal=signal), np.random.default_rng(seed)
    config = plan_labels.Config(goals=tuple(goals.split("; ")), confidence=0.9, method=method)
    share = np.bincount(people.label_N)[0] / len(people.label_N)
    among = {"to be answered": share, "to be refused": 1 - share, "any": 1.0}
    how = CertifyOptions(method=method, confidence=0.9, explained=False)
    stated = kept = 0
    for n in range(draws):
        rows = drawn(people, rng, count)
        plan = plan_labels.for_scored_rows(config, people.template, rows, (rows, 1.0))
        if any(row.likely is None for row in plan):
            continue
        more = drawn(people, rng, max(ceil(row.likely / among[row.labels]) for row in plan))
        stated += 1
        found = certify(parse_goals(goals), people.template, more, replace(how, seed=n))
        kept += isinstance(found, Granted)
    return stated, kept


@pytest.mark.parametrize("name", BY_ROWS)
def test_rows_planned_by_other_scored_rows_are_certified(name):
    stated, kept = planned_by_rows(name, 30, 5)
    assert stated >= 10
    assert kept >= binom.ppf(0.001, stated, SUCCESS)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_ROWS)
def test_so_are_they_in_2_000_draws(name):
    stated, kept = planned_by_rows(name, DRAWS, 8)
    assert kept >= binom.ppf(0.001, stated, SUCCESS)


@dataclass(frozen=True)
class Setting:
    """Goals, the rows at hand per class, and how well scores tell them apart."""

    method: str
    goals: str
    rows: tuple[int, ...]
    signal: float


FOLLOWED = {
    "shared, both sides": Setting(
        "shared", "false_refusal <= 0.1; missed_refusal <= 0.15", (60, 40, 20, 10), 3.7
    ),
    "path, both sides": Setting(
        "path", "false_refusal <= 0.1; missed_refusal <= 0.15", (150, 60, 30, 15), 3.8
    ),
    "path, missed refusals": Setting("path", "missed_refusal <= 0.1", (60, 10, 8, 6), 4.0),
    "vectors": Setting(
        "vectors", "false_refusal <= 0.1; missed_refusal <= 0.15", (200, 80, 40, 20), 3.7
    ),
    "budgets": Setting("budgets", "false_refusal <= 0.1", (60, 60, 30, 15), 3.0),
    "graphical": Setting("graphical", "false_refusal <= 0.1", (60, 60, 30, 15), 3.0),
    "even": Setting("even", "false_refusal <= 0.05", (40, 60, 30, 15), 3.0),
    "auto": Setting("auto", "false_refusal <= 0.05", (40, 60, 30, 15), 3.0),
    "precision": Setting("auto", "precision >= 0.9", (60, 20, 10, 6), 3.5),
}


def together(one, other):
    ids = tuple(map(str, range(len(one.label_N) + len(other.label_N))))
    logp_NC = np.concatenate([one.table.logp_NC, other.table.logp_NC])
    label_N = np.concatenate([one.label_N, other.label_N])
    return LabelledScores(table=ScoreTable(ids=ids, logp_NC=logp_NC), label_N=label_N)


def asked_for(outlook, rows, rng):
    """Rows of each class when the plan is followed literally: classes to be refused in proportion
    to those at hand.
    """
    found = np.array(rows)
    for wanted in outlook.wanted:
        if wanted.goal.whom == "any":
            found = np.maximum(found, np.ceil(np.array(rows) * wanted.needed / sum(rows)))
        elif wanted.goal.whom == "answer":
            found[0] = max(found[0], wanted.needed)
        else:
            more = max(0, wanted.needed - int(found[1:].sum()))
            found[1:] += rng.multinomial(more, found[1:] / found[1:].sum())
    return found.astype(int)


def followed(case, draws, seed):
    """(plans that were stated from the rows, those that then certified)."""
    people, rng, goals = population(signal=case.signal), np.random.default_rng(seed), case.goals
    stated = kept = 0
    for _ in range(draws):
        rows = people.draw(rng, case.rows)
        how = CertifyOptions(method=case.method, confidence=0.9)
        found = certify(parse_goals(goals), people.template, rows, how)
        if not isinstance(found, Uncertified) or not found.outlook or not found.outlook.bounded:
            continue
        stated += 1
        more = people.draw(rng, asked_for(found.outlook, case.rows, rng) - case.rows)
        again = CertifyOptions(method=case.method, confidence=0.9, explained=False)
        kept += isinstance(
            certify(parse_goals(goals), people.template, together(rows, more), again), Granted
        )
    return stated, kept


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOWED)
def test_rows_that_would_do_do_when_the_plan_is_followed(name):
    stated, kept = followed(FOLLOWED[name], WHOLE, seed=3)
    assert stated >= 30
    assert kept >= binom.ppf(0.001, stated, SUCCESS)


@pytest.mark.parametrize("name", ["shared, both sides", "path, missed refusals", "even"])
def test_a_few_plans_are_followed(name):
    stated, kept = followed(FOLLOWED[name], 60, seed=4)
    assert stated >= 10
    assert kept >= binom.ppf(0.001, stated, SUCCESS)


def called_infeasible(shared, draws):
    """How often goals are called infeasible whose levels are the true rates of thresholds that the
    scores allow.
    """
    people, rng = population(signal=3.5), np.random.default_rng(9)
    asked = parse_goals("false_refusal <= 0.5; missed_refusal <= 0.5")
    levels = [people.rate(goal, (0.45,) * 3) for goal in asked]
    goals = parse_goals(f"false_refusal <= {levels[0]:.6f}; missed_refusal <= {levels[1]:.6f}")
    wrong = 0
    for _ in range(draws):
        rows = people.draw(rng, (200, 80, 40, 20))
        grouped = grouped_scores(people.template, rows, shared=shared)
        losses = losses_of(goals, people.template, grouped, 0)
        everyone_N = np.ones(len(rows.label_N), dtype=bool)
        split = LearnTestSplit(learn_N=everyone_N, test_N=everyone_N)
        wrong += infeasible(grouped, losses, {}, split) is not None
    return wrong


@pytest.mark.parametrize("shared", [True, False])
def test_goals_that_can_just_be_kept_are_seldom_called_infeasible(shared):
    assert called_infeasible(shared, 150) <= binom.ppf(0.999, 150, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_so_it_is_in_many_draws(shared):
    assert called_infeasible(shared, 3 * WHOLE) <= binom.ppf(0.999, 3 * WHOLE, 0.05)


def test_goals_that_are_far_out_of_reach_are_called_infeasible():
    found = certify(
        parse_goals("false_refusal <= 0.02; missed_refusal <= 0.1"),
        policy(3),
        simulated_rows(2000, 3, seed=7),
        CertifyOptions(),
    )
    assert isinstance(found, Infeasible)
    assert "wrongly in at most 5% of draws" in found.reason
