"""Promises about answers that a monitor stops: kept at the length that was calibrated, whatever
rows share, and broken where somebody calibrates steps, or answers that are shorter than served.

The log-odds of a refusal token follow a process over the positions of an answer, the same in
answers of every length; true rates are counts over many answers.
"""

from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pytest
from scipy.stats import binom

from demur.base.errors import DataError
from demur.core.goals.parse import parse_goals
from demur.core.midway.compared import with_thresholds
from demur.core.midway.followed import AnswerScoring
from demur.core.midway.monitor import AnswerSampling, first_stop
from demur.core.midway.peaks import AnswerPeaks
from demur.core.score import ENGINE_TOLERANCE, ScoreTable
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores, join_answers
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from tests.builders import policy

SLOW = pytest.mark.slow
DRAWS = 2000
DELTA = 0.1
ANSWERS = 30_000
LENGTH = 64
REFERENCE = 0.01  # of a sum
REFERENCE_ODDS = float(np.log(REFERENCE / (1 - REFERENCE)))
SAMPLING = AnswerSampling(most_tokens=LENGTH, temperature=0.0)


@dataclass(frozen=True)
class Answers:
    """Peaks of many answers, by whether they should have been written: natural log, or nats of a
    sum.
    """

    benign_N: np.ndarray
    harmful_N: np.ndarray
    statistic: str = "maximum"
    asked_N: np.ndarray | None = None  # share of requests that each benign answer is to

    def rate(self, goal, threshold):
        """The true rate of a goal at a threshold, in the peaks' own unit."""
        if goal.name == "false_stop":
            return float(np.average(self.benign_N >= threshold, weights=self.asked_N))
        return float((self.harmful_N < threshold).mean())


@cache
def answers(most=LENGTH, rho=0.9, seed=0, statistic="maximum"):
    """Answers of up to `most` tokens, of any length alike; a quarter of the harmful ones never
    rises.
    """
    rng = np.random.default_rng(seed)
    found = []
    for harmful in (False, True):
        tokens_N = rng.integers(1, most + 1, ANSWERS)
        rise_N = np.where(harmful & (rng.random(ANSWERS) > 0.25), 5.0, 0.0)
        start_N = rng.integers(0, tokens_N)
        state_N, peak_N = rng.normal(size=ANSWERS), np.full(ANSWERS, -np.inf)
        sum_N = np.zeros(ANSWERS)
        for t in range(most):
            state_N = rho * state_N + np.sqrt(1 - rho**2) * rng.normal(size=ANSWERS)
            value_N = state_N + np.where(t >= start_N, rise_N, 0.0)
            if statistic == "cusum":
                value_N = sum_N = np.maximum(0.0, sum_N + 1.5 * value_N - 6.0 - REFERENCE_ODDS)
            peak_N = np.where(t < tokens_N, np.maximum(peak_N, value_N), peak_N)
        found.append(peak_N if statistic == "cusum" else log_odds_to_log(1.5 * peak_N - 6.0))
    return Answers(*found, statistic=statistic)


@cache
def asked_often(statistic):
    """Answers to prompts that are asked again and again, most often those whose answers peak
    high.
    """
    people = answers(statistic=statistic)
    rng = np.random.default_rng(4)
    benign_N = np.sort(rng.choice(people.benign_N, 2000, replace=False))[::-1]
    odds_N = 1.0 / (np.arange(2000) + 20.0)
    return replace(people, benign_N=benign_N, asked_N=odds_N / odds_N.sum())


def log_odds_to_log(value_N):
    return -np.logaddexp(0.0, -value_N).astype(np.float32)


def template(statistic="maximum"):
    """A policy of three categories, the first of which may stop an answer."""
    made = policy(3)
    scoring = AnswerScoring(answers=SAMPLING, statistic=statistic, reference=REFERENCE)
    return replace(made, monitor=scoring.monitor((1.0, NEVER, NEVER)))


def rows(peak_N, label_N, statistic="maximum", **linked):
    """Labelled rows with followed answers; their first scores play no part."""
    ids = tuple(map(str, range(len(peak_N))))
    summed = statistic == "cusum"
    peak_NK = np.full((len(ids), 3), 0.0 if summed else -30.0)
    peak_NK[:, 0] = peak_N
    # A sum may differ by the tolerance of each position.
    apart, low, high = (2 * LENGTH, 0.0, np.inf) if summed else (1, -np.inf, 0.0)
    ends = [
        np.clip(peak_NK + by * apart, low, high) for by in (-ENGINE_TOLERANCE, ENGINE_TOLERANCE)
    ]
    flat_NC = np.full((len(ids), 4), np.log(0.25), dtype=np.float32)
    return LabelledScores(
        table=ScoreTable(ids=ids, logp_NC=flat_NC),
        label_N=np.asarray(label_N, dtype=np.int64),
        answers=AnswerPeaks(
            ids=ids,
            tokens_N=np.ones(len(ids), dtype=np.int64),
            peak_NK=peak_NK,
            low_NK=ends[0],
            high_NK=ends[1],
        ),
        **linked,
    )


def independent(people, rng, benign=300, harmful=120):
    peak_N = np.concatenate(
        [rng.choice(people.benign_N, benign), rng.choice(people.harmful_N, harmful)]
    )
    return rows(peak_N, np.repeat([0, 1], [benign, harmful]), people.statistic)


def families(people, rng, units=60, size=5, alike=0.9):
    """Units whose answers are mostly those of their first row."""
    first_U = rng.choice(people.benign_N, units)
    fresh = rng.choice(people.benign_N, (units, size))
    benign_N = np.where(rng.random((units, size)) < alike, first_U[:, None], fresh).ravel()
    harmful = 60
    peak_N = np.concatenate([benign_N, rng.choice(people.harmful_N, harmful)])
    group_N = np.concatenate([np.repeat(np.arange(units), size), units + np.arange(harmful)])
    label_N = np.repeat([0, 1], [units * size, harmful])
    return rows(peak_N, label_N, people.statistic, group_N=group_N)


def counted(people, rng, requests=600, harmful=60):
    """Requests drawn one by one; those with one prompt are one row with a count."""
    drawn = rng.choice(len(people.benign_N), requests, p=people.asked_N)
    at, count_N = np.unique(drawn, return_counts=True)
    peak_N = np.concatenate([people.benign_N[at], rng.choice(people.harmful_N, harmful)])
    count_N = np.concatenate([count_N, np.ones(harmful, dtype=np.int64)])
    label_N = np.repeat([0, 1], [len(at), harmful])
    return rows(peak_N, label_N, people.statistic, count_N=count_N)


def uncounted(people, rng):
    """The same rows without their counts."""
    return replace(counted(people, rng), count_N=None)


DRAWS_OF_ONE = 50  # answers that a prompt may get, each as likely


@cache
def sampled():
    """Answers that are drawn. One prompt is 30 % of requests, and a fifth of its answers peak above
    all thresholds; those to the others are as to anything.
    """
    people, prompts = answers(), 400
    rng = np.random.default_rng(6)
    benign_PD = rng.choice(people.benign_N, (prompts, DRAWS_OF_ONE))
    benign_PD[0] = np.where(np.arange(DRAWS_OF_ONE) < 0.2 * DRAWS_OF_ONE, -1e-3, -9.0)
    asked_P = np.where(np.arange(prompts) == 0, 0.3, 0.7 / (prompts - 1))
    return replace(
        people,
        benign_N=benign_PD.ravel(),
        asked_N=np.repeat(asked_P / DRAWS_OF_ONE, DRAWS_OF_ONE),
    )


def one_a_request(people, rng, requests=600, harmful=60, *, first=False):
    """Requests drawn one by one; those with one prompt are one row, with an answer for each, or
    with the first one for all.
    """
    drawn = rng.choice(len(people.benign_N), requests, p=people.asked_N)
    _, at, row_R = np.unique(drawn // DRAWS_OF_ONE, return_index=True, return_inverse=True)
    count_N = np.concatenate([np.bincount(row_R), np.ones(harmful, dtype=np.int64)])
    label_N = np.repeat([0, 1], [len(at), harmful])
    harmful_M = rng.choice(people.harmful_N, harmful)
    peak_N = np.concatenate([people.benign_N[drawn[at]], harmful_M])
    made = rows(peak_N, label_N, count_N=count_N)
    if first:
        return made
    each = rows(
        np.concatenate([people.benign_N[drawn[np.argsort(row_R, kind="stable")]], harmful_M]),
        np.repeat([0, 1], [requests, harmful]),
    ).answers
    ids = tuple(np.repeat(made.table.ids, count_N).tolist())
    return join_answers(made, replace(each, ids=ids), sampled=True).by_answer()


def found(goals, drawn, seed, delta=DELTA, statistic="maximum"):
    """The certified threshold, in the unit of the peaks; None where nothing is granted."""
    how = CertifyOptions(confidence=1 - delta, seed=seed, explained=False)
    made = certify(goals, template(statistic), drawn, how)
    if not isinstance(made, Granted):
        return None
    monitor = with_thresholds(template(statistic).monitor, made.certified.thresholds)
    threshold = monitor.thresholds[0]
    return float(np.log(threshold)) if statistic == "maximum" else threshold


def tally(goals, people, draw, *, live=None, seed=3, delta=DELTA, draws=DRAWS):
    """(draws with a promise, of these broken, the mean true rate of the first goal)."""
    rng = np.random.default_rng(seed)
    asked, live = parse_goals(goals), live or people
    granted, broke, rates = 0, 0, []
    for n in range(draws):
        threshold = found(asked, draw(people, rng), n, delta, people.statistic)
        if threshold is not None:
            granted += 1
            broke += any(live.rate(g, threshold) > g.level for g in asked)
            rates.append(live.rate(asked[0], threshold))
    return granted, broke, float(np.mean(rates)) if rates else 0.0


@pytest.mark.parametrize(
    ("goals", "draw"),
    [
        ("false_stop <= 0.05", independent),
        ("missed_stop <= 0.35", independent),
        ("false_stop <= 0.15; missed_stop <= 0.4", independent),
        ("false_stop <= 0.1", families),
    ],
)
def test_promises_about_stops_are_broken_in_at_most_delta_of_the_draws(goals, draw):
    granted, broke, _ = tally(goals, answers(), draw)
    assert broke <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


@pytest.mark.parametrize(
    ("goals", "draw"),
    [
        ("false_stop <= 0.05", independent),
        pytest.param("false_stop <= 0.15; missed_stop <= 0.4", independent, marks=SLOW),
        pytest.param("false_stop <= 0.1", families, marks=SLOW),
    ],
)
def test_promises_about_sums_are_kept_likewise(goals, draw):
    granted, broke, _ = tally(goals, answers(statistic="cusum"), draw)
    assert broke <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


@pytest.mark.parametrize("statistic", ["maximum", pytest.param("cusum", marks=SLOW)])
def test_promises_about_stops_are_of_requests_however_often_a_prompt_is_asked(statistic):
    granted, broke, _ = tally("false_stop <= 0.1", asked_often(statistic), counted)
    assert broke <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


def test_prompts_counted_once_each_would_break_the_promise():
    granted, broke, _ = tally("false_stop <= 0.1", asked_often("maximum"), uncounted, draws=200)
    assert granted > 150
    assert broke > 0.25 * granted  # promised at .1


def test_promises_hold_where_each_request_of_a_popular_prompt_gets_another_answer():
    granted, broke, _ = tally("false_stop <= 0.1", sampled(), one_a_request)
    assert broke <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


def test_one_draw_counted_for_all_requests_of_a_prompt_breaks_the_promise_and_is_refused():
    first = partial(one_a_request, first=True)
    granted, broke, mean = tally("false_stop <= 0.05", sampled(), first, draws=200)
    assert granted > 100
    assert broke > 0.6 * granted  # promised at .1
    assert mean > 0.06
    made = first(sampled(), np.random.default_rng(0))
    with pytest.raises(DataError, match="requests, and 1 answers to it were drawn"):
        join_answers(made, made.answers, sampled=True)


def test_the_realised_rate_is_near_what_was_promised():
    """At 1 % promised the mean of the true rates is above .3 % and below 1 %."""

    def many(people, rng):
        return independent(people, rng, benign=1500, harmful=500)

    granted, broke, mean = tally("false_stop <= 0.01", answers(), many, delta=0.05)
    assert granted == DRAWS
    assert broke <= binom.ppf(0.999, DRAWS, 0.05)
    assert 0.003 <= mean <= 0.01


def test_another_engine_within_the_tolerance_keeps_the_promise():
    """A tenth of the answers to be written peak at one value, where thresholds come to stand."""
    people = answers()
    atom = float(np.quantile(people.benign_N, 0.94))
    rng = np.random.default_rng(8)
    benign_N = np.where(rng.random(ANSWERS) < 0.1, np.float32(atom), people.benign_N)
    scored = replace(people, benign_N=benign_N)
    moved = rng.uniform(0.0, ENGINE_TOLERANCE, ANSWERS)
    live = replace(scored, benign_N=np.minimum(benign_N + moved, 0.0))
    granted, broke, _ = tally("false_stop <= 0.05", scored, independent, live=live)
    assert broke <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


def test_a_threshold_of_steps_stops_far_more_answers_than_it_says():
    """A step's rate a becomes 1 - (1 - a)^T over an answer of T independent steps."""
    rng, level, length = np.random.default_rng(5), 0.01, 64
    step_NT = rng.normal(size=(20_000, length))
    threshold = np.quantile(rng.normal(size=2_000_000), 1 - level)
    overshoot = float((step_NT.max(axis=1) >= threshold).mean())
    assert overshoot == pytest.approx(1 - (1 - level) ** length, abs=0.012)
    # the same answers, with the threshold that is certified on their peaks
    people = Answers(log_odds_to_log(step_NT.max(axis=1)), np.zeros(10, dtype=np.float32))
    chosen = found(parse_goals("false_stop <= 0.01"), independent(people, rng, 3000), 0)
    assert people.rate(parse_goals("false_stop <= 0.01")[0], chosen) < 0.01


def test_answers_longer_than_calibrated_break_the_promise_and_are_not_covered():
    longer = answers(most=4 * LENGTH)
    granted, broke, mean = tally(
        "false_stop <= 0.05",
        answers(),
        lambda people, rng: independent(people, rng, harmful=300),
        live=longer,
        draws=300,
    )
    assert granted > 150
    assert broke > 0.6 * granted  # promised at .1
    assert mean > 0.07
    served = replace(SAMPLING, most_tokens=4 * LENGTH)
    assert not SAMPLING.covers(served)


def test_a_trace_is_stopped_exactly_where_its_peak_reaches_the_threshold():
    rng = np.random.default_rng(2)
    monitor = template().monitor
    for _ in range(200):
        logp_TC = np.full((int(rng.integers(1, 40)), 4), -20.0, dtype=np.float32)
        logp_TC[:, 1] = log_odds_to_log(rng.normal(-3.0, 2.0, len(logp_TC)))
        own = replace(monitor, thresholds=(float(rng.random()), NEVER, NEVER))
        stopped = bool(logp_TC[:, 1].astype(np.float64).max() >= np.log(own.thresholds[0]))
        assert (first_stop(own, logp_TC) is not None) == stopped
