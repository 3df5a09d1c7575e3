"""Labels by an erring judge, a part checked by hand: promises hold by the hand's labels, catch no
less than hand labels alone would, and intervals cover.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import binom, norm

from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.rates import Rate
from demur.core.score import ScoreTable
from demur.stats.judging.betting import upper_mean
from demur.stats.judging.judged import rogan_gladen
from demur.stats.labelled import UNCHECKED, LabelledScores
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.losses import grouped_scores, losses_by_hand
from demur.stats.thresholds.problem import Objective
from demur.stats.thresholds.procedures.corrected import certify_corrected
from demur.stats.thresholds.procedures.task import CertifyTask
from demur.stats.thresholds.results import Certified
from tests.builders import binary_rows, corrected_rate, policy
from tests.validity.population import DELTA, Population, Tally, population

DRAWS = 2000
ROWS = (300, 150, 90, 60)
CHECKED = 250


def judged(rows, rng, flips, hands=CHECKED):
    """The judge takes some requests to be answered for safety and some to be refused for
    answerable; hands check.
    """
    hand_N, u_N = rows.label_N, rng.random(len(rows.label_N))
    judge_N = np.where(
        (hand_N == 0) & (u_N < flips[0]), 1, np.where((hand_N > 0) & (u_N < flips[1]), 0, hand_N)
    )
    checked_N = np.full(len(hand_N), UNCHECKED)
    at = rng.permutation(len(hand_N))[:hands]
    checked_N[at] = hand_N[at]
    return replace(rows, label_N=judge_N), checked_N


@cache
def unlike_categories():
    """Categories that differ in size, in sharpness and in the scale of their scores."""
    rng = np.random.default_rng(0)
    label_N = rng.choice(4, size=60_000, p=(0.5, 0.25, 0.15, 0.1))
    logits_NC = rng.normal(size=(60_000, 4)) * (1.0, 1.0, 1.3, 1.6)
    logits_NC[np.arange(60_000), label_N] += np.array([3.5, 5.5, 3.0, 2.5])[label_N]
    logits_NC += (0.0, 1.0, -1.0, -1.0)
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    return Population(np.minimum(logp_NC, 0.0).astype(np.float32), label_N, policy(3))


UNLIKE = {"people": unlike_categories, "rows": (1500, 750, 450, 300), "hands": 300}


def corrected_promises(
    draws, text="false_refusal <= 0.2", flips=(0.05, 0.1), *, alone=False, seed=5, **given
):
    """Certify on draws whose labels a judge gave and a hand checked in part; the truth is the
    hand's. alone: on the rows checked by hand and no others. given: other people, or numbers of
    rows and hands.
    """
    people = given.get("people", lambda: population(signal=4.0))()
    sizes, hands = given.get("rows", ROWS), given.get("hands", CHECKED)
    rng = np.random.default_rng(seed)
    goals = parse_goals(text)
    promised = [goal for goal in goals if goal.promised]
    granted, broken, caught = 0, 0, 0.0
    for draw in range(draws):
        rows, checked_N = judged(people.draw(rng, sizes), rng, flips, hands)
        how = CertifyOptions(confidence=1 - DELTA, seed=draw, explained=False)
        labelled = only(rows, checked_N) if alone else replace(rows, hand_N=checked_N)
        found = certify(goals, policy(3), labelled, how)
        if isinstance(found, Granted):
            granted += 1
            thresholds = found.certified.thresholds
            broken += any(people.rate(goal, thresholds) > goal.level for goal in promised)
            caught += people.caught(thresholds)
    return Tally(draws, granted, broken, caught / max(granted, 1))


def only(rows, checked_N):
    """The rows checked by hand, with the hand's labels."""
    at = np.flatnonzero(checked_N != UNCHECKED)
    table = ScoreTable(ids=tuple(map(str, at)), logp_NC=rows.table.logp_NC[at])
    return LabelledScores(table=table, label_N=checked_N[at])


@pytest.mark.parametrize(
    ("goals", "flips"),
    [
        # all of delta goes to the path
        pytest.param("false_refusal <= 0.05", (0.05, 0.1), marks=pytest.mark.slow),
        ("false_refusal <= 0.1", (1.0, 1.0)),  # wrong about every row
        pytest.param("false_refusal <= 0.1", (0.05, 0.1), marks=pytest.mark.slow),
        pytest.param("missed_refusal <= 0.2; f1 max", (0.05, 0.1), marks=pytest.mark.slow),
        pytest.param("wrong_category <= 0.1", (0.05, 0.1), marks=pytest.mark.slow),
        pytest.param(
            "false_refusal <= 0.15; missed_refusal <= 0.2", (0.05, 0.1), marks=pytest.mark.slow
        ),
    ],
)
def test_promises_beside_a_judge_are_broken_in_at_most_delta_of_the_draws(goals, flips):
    seen = corrected_promises(DRAWS, goals, flips)
    assert seen.broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert seen.granted > DRAWS / 2


@pytest.mark.parametrize("goals", ["false_refusal <= 0.1", "false_refusal <= 0.05"])
def test_a_judge_takes_nothing_from_what_hand_labels_alone_would_catch(goals):
    """Nor does a judge that is wrong about every row: a share of delta is all that it costs."""
    alone = corrected_promises(100, goals, alone=True)
    for flips, least in (((0.05, 0.1), 0.0), ((0.3, 0.3), -0.01), ((1.0, 1.0), -0.015)):
        beside = corrected_promises(100, goals, flips)
        assert beside.granted >= alone.granted
        assert beside.caught > alone.caught + least


def test_what_a_judge_teaches_is_worth_most_of_delta_where_categories_differ():
    """300 of 3,000 labels by hand: rows that no goal is tested on say that a path per category is
    worth more than one threshold. Before it was chosen so, .836 were caught, beside .831 alone.
    """
    alone = corrected_promises(60, "false_refusal <= 0.05", alone=True, **UNLIKE)
    beside = corrected_promises(60, "false_refusal <= 0.05", **UNLIKE)
    assert beside.granted >= alone.granted
    assert beside.caught > alone.caught + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("goals", ["false_refusal <= 0.05", "missed_refusal <= 0.2"])
def test_promises_of_the_procedure_that_a_judge_chose_are_kept(goals):
    seen = corrected_promises(DRAWS, goals, **UNLIKE)
    assert seen.broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert seen.granted > DRAWS / 2


def test_a_random_sample_of_rows_does_not_pass_for_one_of_units():
    """100 families of nine rows that nobody refuses beside 300 rows that stand alone: a sample of
    the rows meets nearly every family, and a third of the others.
    """
    rng, goals = np.random.default_rng(7), parse_goals("false_refusal <= 0.2")
    answer_N = np.arange(1500) < 1200
    group_N = np.where(np.arange(1500) < 900, np.arange(1500) // 9, np.arange(1500))
    granted = broken = 0
    for draw in range(DRAWS):
        logit_N = np.where(group_N < 100, -8.0, rng.normal(0.0, 1.5, 1500))
        logit_N[~answer_N] = rng.normal(1.5, 1.5, 300)
        rows = binary_rows(-np.logaddexp(0.0, -logit_N), 1 - answer_N)
        hand_N = np.full(1500, UNCHECKED)
        at = rng.permutation(1500)[:500]
        hand_N[at] = rows.label_N[at]
        how = CertifyOptions(confidence=1 - DELTA, seed=draw, explained=False)
        found = certify(goals, policy(1), replace(rows, group_N=group_N, hand_N=hand_N), how)
        if isinstance(found, Granted):
            granted += 1
            # by units: three in four stand alone, and are refused above the threshold
            edge = logit(found.certified.thresholds[0])
            broken += 0.75 * norm.sf(edge, scale=1.5) > goals[0].level
    assert broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


@pytest.mark.slow
def test_corrected_promises_are_broken_in_at_most_delta_of_the_draws():
    """The bounds themselves, without the exact tests that are tried beside them."""
    people, rng, broken = population(signal=4.0), np.random.default_rng(6), 0
    goals, granted = parse_goals("false_refusal <= 0.2"), 0
    for draw in range(DRAWS // 2):
        rows, checked_N = judged(people.draw(rng, ROWS), rng, (0.02, 0.0))
        found = corrected(goals, replace(rows, hand_N=checked_N), draw)
        if isinstance(found, Certified):
            granted += 1
            broken += people.rate(goals[0], found.thresholds) > goals[0].level
    assert broken <= binom.ppf(0.999, DRAWS // 2, DELTA)
    assert granted > DRAWS / 4


def corrected(goals, rows, seed):
    """What certify_corrected finds by itself, with the most refused preferred."""
    grouped = grouped_scores(policy(3), rows, shared=False)
    pairs = tuple(losses_by_hand(goal, policy(3), grouped, rows.hand_N) for goal in goals)
    everyone_N = np.ones(len(rows.label_N), dtype=bool)
    task = CertifyTask(
        grouped=grouped,
        losses=tuple(judge for judge, _ in pairs),
        objective=Objective(worth_N=1.0 * everyone_N, should_N=everyone_N),
        delta=DELTA,
        fixed={},
        seed=seed,
        by_hand=pairs,
    )
    return certify_corrected(task)


def test_the_corrected_interval_covers_the_rate_by_hand_and_the_judge_alone_does_not():
    people, rng = population(signal=3.0), np.random.default_rng(6)
    goal, template = parse_goal("false_refusal <= 0.5"), policy(3, thresholds=[0.3, 0.3, 0.3])
    true = people.rate(goal, (0.3, 0.3, 0.3))
    covered = alone = 0
    for _ in range(DRAWS):
        rows, checked_N = judged(people.draw(rng, ROWS), rng, (0.0, 0.15))
        found = corrected_rate(goal, template, rows, checked_N)
        covered += found.low <= true <= found.high
        comply_N = rows.label_N == 0
        refused_N = rows.table.logp_NC[comply_N, 1:].max(axis=1) >= np.log(0.3)
        low, high = Rate(hits=int(refused_N.sum()), of=int(comply_N.sum())).interval()
        alone += low <= true <= high
    assert covered >= binom.ppf(0.001, DRAWS, 0.93)  # a normal interval: nominal 0.95
    assert alone < DRAWS / 2


def test_rogan_gladen_intervals_cover():
    rng, se, sp, true = np.random.default_rng(7), 0.9, 0.85, 0.2
    q = true * se + (1 - true) * (1 - sp)
    covered = 0
    for q_hits, se_hits, sp_hits in zip(
        rng.binomial(400, q, DRAWS),
        rng.binomial(80, se, DRAWS),
        rng.binomial(120, sp, DRAWS),
        strict=True,
    ):
        judged_rate = Rate(hits=int(q_hits), of=400)
        found = rogan_gladen(
            judged_rate, Rate(hits=int(se_hits), of=80), Rate(hits=int(sp_hits), of=120)
        )
        covered += found.low <= true <= found.high
    assert covered >= binom.ppf(0.001, DRAWS, 0.94)


def test_betting_bounds_lie_below_the_mean_in_at_most_delta_of_the_draws():
    rng = np.random.default_rng(8)
    below = {"rare": 0, "spread": 0}
    for _ in range(DRAWS):
        below["rare"] += upper_mean((rng.random(150) < 0.06) - 0.05, -0.05, 0.95, DELTA) < 0.01
        below["spread"] += upper_mean(rng.beta(2, 5, 150), 0.0, 1.0, DELTA) < 2 / 7
    assert max(below.values()) <= binom.ppf(0.999, DRAWS, DELTA)
    assert min(below.values()) > 0
