"""Trying again on the same rows: what the ledger says remains, remains. 2,000 seeded draws each.

A promise at the lenient edge is broken exactly where the rows show no more errors than their test
allows at a threshold whose true rate is the level: so draws of such errors are all that is needed.
"""

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.goals.attempts import parse_spend, together
from demur.core.goals.parse import parse_goals
from demur.core.rates import most_errors
from demur.core.score import ScoreTable
from demur.stats.judging.any_look import most_errors_anytime
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.problem import Arrived
from tests.core.goals.test_attempts import attempt
from tests.validity.population import DENSE, population

DRAWS = 2000
LEVEL = 0.1


# draws with whole certifications, ten or more of them each
WHOLE, LIVES_OF_ROWS = 800, 400


def most_broken(delta, draws=DRAWS):
    """Delta plus the slack of counting so many draws."""
    return binom.ppf(0.999, draws, delta)


def broken(error_DN, looks, deltas):
    """Whether any look at the first n rows certifies a rate that is the level itself, per draw."""
    found_D = np.zeros(len(error_DN), dtype=bool)
    count_DN = error_DN.cumsum(axis=1)
    for n, delta in zip(looks, deltas, strict=True):
        most = most_errors(n, LEVEL, delta)
        found_D |= count_DN[:, n - 1] <= (-1 if most is None else most)
    return found_D.sum()


LOOKS = range(100, 1300, 100)


@pytest.fixture(scope="module")
def error_DN():
    return np.random.default_rng(1).random((DRAWS, LOOKS[-1])) < LEVEL


def test_looking_again_with_more_rows_breaks_delta_and_the_ledger_says_what_remains(error_DN):
    # before the ledger, each look had its own confidence and nothing said what it cost
    assert broken(error_DN, LOOKS, [0.1] * 12) > most_broken(0.1)
    remains = together([attempt(str(n), 0.98) for n in range(11)], attempt("11", 0.98)).confidence
    assert remains == 0.76
    assert broken(error_DN, LOOKS, [0.02] * 12) <= most_broken(1 - remains)


@pytest.mark.parametrize("plan", [12, "releases"])
def test_looks_that_were_planned_keep_delta(error_DN, plan):
    shares = [0.1 * parse_spend(plan).share(n) for n in range(1, 13)]
    assert broken(error_DN, LOOKS, shares) <= most_broken(0.1)


def test_six_policies_from_one_split_keep_delta_if_they_were_planned():
    """Each speaks of another category, so that their errors are all but independent."""
    rng = np.random.default_rng(2)
    six = [rng.random((DRAWS, 400)) < LEVEL for _ in range(6)]

    def any_broken(delta):
        most = most_errors(400, LEVEL, delta)
        return np.any([errors.sum(axis=1) <= most for errors in six], axis=0).sum()

    assert any_broken(0.1) > most_broken(0.1)
    assert any_broken(0.1 * parse_spend(6).share(1)) <= most_broken(0.1)


TRIES = [("shared", 0), ("even", 0), *(("path", seed) for seed in range(8))]


def broken_by_the_best(delta):
    """Of methods and seeds on the same rows, each at delta, take the one that catches most of those
    that certify: how often its promise is false.
    """
    people, (goal,) = population(signal=3.0), parse_goals("false_refusal <= 0.05")
    rng, broken = np.random.default_rng(6), 0
    for _ in range(WHOLE):
        rows, found = people.draw(rng, DENSE), []
        for method, seed in TRIES:
            how = CertifyOptions(method=method, seed=seed, confidence=1 - delta, explained=False)
            one = certify([goal], people.template, rows, how)
            found += [one.certified.thresholds] if isinstance(one, Granted) else []
        best = max(found, key=people.caught, default=None)
        broken += best is not None and people.rate(goal, best) > goal.level
    return broken


@pytest.mark.slow
def test_the_best_of_methods_and_seeds_breaks_delta_and_keeps_what_remains_over_all_of_them():
    assert broken_by_the_best(0.1) > most_broken(0.1, WHOLE)  # each had its own confidence
    each = [attempt(str(n), 0.99) for n in range(len(TRIES))]
    remains = together(each[:-1], each[-1]).confidence
    planned = 0.1 * parse_spend(len(TRIES)).share(1)
    assert (remains, planned) == pytest.approx((0.9, 0.01))
    assert broken_by_the_best(planned) <= most_broken(1 - remains, WHOLE)


@pytest.mark.parametrize("level", [0.02, 0.1])
def test_a_look_after_every_25_labels_keeps_delta_with_evidence_that_allows_it(level):
    error_DN = np.random.default_rng(4).random((DRAWS, 1500)) < level
    count_DN, looks = error_DN.cumsum(axis=1), range(25, 1501, 25)

    def broken_by(most_of):
        """Draws in which some look certifies a rate that is the level itself."""
        found_D = np.zeros(DRAWS, dtype=bool)
        for n in looks:
            most = most_of(n, level, 0.1)
            found_D |= count_DN[:, n - 1] <= (-1 if most is None else most)
        return found_D.sum()

    assert broken_by(most_errors) > most_broken(0.1)  # the test of one look, looked at again
    assert 0 < broken_by(most_errors_anytime) <= most_broken(0.1)


LIVES = {
    "false refusals": "false_refusal <= 0.08",
    "missed refusals": "missed_refusal <= 0.25",
    "both sides": "false_refusal <= 0.15; missed_refusal <= 0.3",
}


def broken_lives(goals, draws, rows=500, first=200):
    """Whole lives of a calibration that is looked at after every 25 labels: how many ever granted a
    false promise, and how many ever granted one.
    """
    people, asked = population(signal=3.0), parse_goals(goals)
    rng = np.random.default_rng(5)
    how = CertifyOptions(
        method="anytime",
        confidence=0.9,
        arrived=Arrived(learn=int(0.4 * first), first=first),
        explained=False,
    )
    broken = granted = 0
    for _ in range(draws):
        at = rng.integers(len(people.label_N), size=rows)
        table = ScoreTable(ids=tuple(map(str, range(rows))), logp_NC=people.logp_NC[at])
        thresholds = []
        for n in range(first, rows + 1, 25):
            looked = LabelledScores(
                table=table.select(table.ids[:n]), label_N=people.label_N[at[:n]]
            )
            found = certify(asked, people.template, looked, how)
            if isinstance(found, Granted):
                thresholds.append(found.certified.thresholds)
        broken += any(people.rate(g, t) > g.level for t in thresholds for g in asked)
        granted += bool(thresholds)
    return broken, granted


@pytest.mark.slow
@pytest.mark.parametrize("name", LIVES)
def test_a_calibration_that_is_looked_at_all_its_life_keeps_delta(name):
    broken, granted = broken_lives(LIVES[name], LIVES_OF_ROWS)
    assert broken <= most_broken(0.1, LIVES_OF_ROWS)
    assert granted > LIVES_OF_ROWS / 3
