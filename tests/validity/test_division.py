"""A popular prompt is in the part of the rows that teaches, or in the part that tests: promises are
about its requests all the same.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from demur.base.errors import DataError
from demur.core.goals.parse import parse_goals
from demur.core.policy import CategoryPolicy, Policy
from demur.core.score import ScoreTable
from demur.core.taxonomy import single
from demur.stats.labelled import UNCHECKED, LabelledScores
from demur.stats.sample import asked_requests
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify

DELTA, LEVEL = 0.1, 0.05
POPULAR, LOG_ODDS = 0.06, 0.2  # one prompt's part of the requests to be answered, and its score
TEMPLATE = Policy(name="p", taxonomy=single(), rule="heaviest", categories=(CategoryPolicy(),))
AT_ONCE_AND_SLOWLY = (400, pytest.param(2000, marks=pytest.mark.slow))


def draw(rng, requests=800, refuse=100):
    """Requests to be answered, of which one prompt is a large part; others to be refused."""
    popular = max(int(rng.binomial(requests, POPULAR)), 1)
    others = rng.normal(-2.0, 1.0, requests - popular)
    logit_N = np.concatenate([[LOG_ODDS], others, rng.normal(2.0, 1.0, refuse)])
    count_N = np.ones(len(logit_N), dtype=np.int64)
    count_N[0] = popular
    return logit_N, (np.arange(len(logit_N)) >= len(others) + 1).astype(np.int64), count_N


def rows_of(logit_N, label_N, count_N, taught_N=None):
    logp_NC = -np.logaddexp(0.0, np.stack([logit_N, -logit_N], axis=1)).astype(np.float32)
    return LabelledScores(
        table=ScoreTable(ids=tuple(map(str, range(len(label_N)))), logp_NC=logp_NC),
        label_N=label_N,
        group_N=np.arange(len(label_N)),
        count_N=count_N,
        taught_N=taught_N,
    )


def false_refusals(found):
    """The true rate at the thresholds of a certification."""
    threshold = np.log(found.certified.thresholds[0]) - np.log1p(-found.certified.thresholds[0])
    refused = float(threshold <= LOG_ODDS)
    return POPULAR * refused + (1 - POPULAR) * norm.sf(threshold, -2.0, 1.0)


def broken(rows_by_draw, method, draws):
    goals, broke, granted = parse_goals(f"false_refusal <= {LEVEL}"), 0, 0
    rng = np.random.default_rng(7)
    for n in range(draws):
        how = CertifyOptions(confidence=1 - DELTA, method=method, seed=n, explained=False)
        found = certify(goals, TEMPLATE, rows_by_draw(rng), how)
        if isinstance(found, Granted):
            granted += 1
            broke += false_refusals(found) > LEVEL
    return broke, granted


@pytest.mark.parametrize("draws", AT_ONCE_AND_SLOWLY)
def test_an_order_of_thresholds_is_tested_on_requests_of_popular_prompts(draws):
    broke, granted = broken(lambda rng: rows_of(*draw(rng)), "path", draws)
    assert broke <= binom.ppf(0.999, draws, DELTA)
    assert granted > draws / 2


@pytest.mark.parametrize("draws", AT_ONCE_AND_SLOWLY)
def test_a_calibrator_takes_no_popular_prompt_out_of_the_promise(draws):
    def left(rng):
        logit_N, label_N, count_N = draw(rng)
        taught_N = rng.random(len(logit_N)) < 0.4
        asked_N = asked_requests(count_N, taught_N, 0.6, rng.random(len(logit_N)))
        at = np.flatnonzero(asked_N)
        return rows_of(logit_N[at], label_N[at], asked_N[at], taught_N[at])

    broke, granted = broken(left, "shared", draws)
    assert broke <= binom.ppf(0.999, draws, DELTA)
    assert granted > draws / 2


@pytest.mark.parametrize("draws", AT_ONCE_AND_SLOWLY)
def test_hand_labels_speak_for_requests_where_popular_prompts_are_all_labelled(draws):
    """A random sample of rows alone mostly misses the prompt: promises were broken in .28 of
    draws.
    """

    def checked(rng):
        logit_N, label_N, count_N = draw(rng)
        hand_N = np.where((rng.random(len(label_N)) < 0.3) | (count_N > 1), label_N, UNCHECKED)
        return replace(rows_of(logit_N, label_N, count_N), hand_N=hand_N)

    broke, granted = broken(checked, "auto", draws)
    assert broke <= binom.ppf(0.999, draws, DELTA)
    assert granted > draws / 2


def test_a_popular_prompt_without_a_label_by_hand_is_an_error():
    logit_N, label_N, count_N = draw(np.random.default_rng(0))
    hand_N = np.where(np.arange(len(label_N)) % 3 == 1, label_N, UNCHECKED)
    rows = replace(rows_of(logit_N, label_N, count_N), hand_N=hand_N)
    with pytest.raises(DataError, match="1 of the 1 rows that stand for several requests"):
        certify(parse_goals("false_refusal <= 0.1"), TEMPLATE, rows, CertifyOptions())
