"""Scores as another engine may give them: their range, and which end a goal is counted at."""

from dataclasses import replace

import numpy as np
import pytest

from demur.core.decision import compared_scores, compared_slack
from demur.core.goals.parse import parse_goals
from demur.core.score import ENGINE_TOLERANCE
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.losses import grouped_scores
from demur.stats.thresholds.problem import AT_WORST
from tests.validity.population import population


def drawn(seed=0, rows=(200, 80, 40, 20)):
    people = population()
    return people.template, people.draw(np.random.default_rng(seed), rows)


@pytest.mark.parametrize("rule", ["heaviest", "sum", "any"])
@pytest.mark.parametrize("family", ["none", "temperature", "platt", "isotonic", "histogram"])
def test_scores_within_the_tolerance_stay_within_the_range(family, rule):
    template, rows = drawn()
    calibrator = fit_calibrator(family, rows, template.taxonomy).calibrator
    own = replace(template, rule=rule, calibrator=calibrator)
    logp_NC, rng = rows.table.logp_NC, np.random.default_rng(1)
    base_N, slack_N = compared_scores(own, logp_NC), compared_slack(own, logp_NC, ENGINE_TOLERANCE)
    for _ in range(50):
        off_NC = rng.uniform(-ENGINE_TOLERANCE, ENGINE_TOLERANCE, logp_NC.shape)
        found_N = compared_scores(own, np.minimum(logp_NC + off_NC, 0).astype(np.float32))
        # to the first order, and to the rounding of float32
        assert (np.abs(found_N - base_N) <= 1.01 * slack_N + 2e-6).all()


def test_a_goal_is_counted_at_the_end_that_errs_the_most():
    template, rows = drawn()
    grouped = grouped_scores(template, rows, shared=False)
    at = [float(np.exp(np.median(grouped.logq_N)))] * len(grouped.groups)
    refused_N = grouped.refused(at)
    most_N, least_N = (grouped.at_worst(when).refused(at) for when in ("refused", "answered"))
    assert (refused_N <= most_N).all()
    assert (least_N <= refused_N).all()
    bare = replace(grouped, low=None, high=None)
    assert (bare.at_worst("refused").refused(at) == refused_N).all()
    assert (bare.method("as named"), grouped.method("as named")) == (
        "as named",
        f"as named; {AT_WORST}",
    )


def test_a_locked_category_is_counted_at_its_own_end():
    template, rows = drawn()
    locked = replace(
        template,
        categories=(replace(template.categories[0], locked=True), *template.categories[1:]),
    )
    grouped = grouped_scores(locked, rows, shared=False)
    own_N = grouped.locked[0]
    assert (grouped.at_worst("refused").locked[0] >= own_N).all()
    assert (grouped.at_worst("answered").locked[0] <= own_N).all()
    assert (grouped.at_worst("refused").locked[0] > own_N).any()


def test_a_promise_says_the_tolerance_that_it_holds_for():
    template, rows = drawn(rows=(400, 200, 100, 60))
    found = certify(parse_goals("false_refusal <= 0.1"), template, rows, CertifyOptions())
    assert isinstance(found, Granted)
    assert "at the worst within 0.0001 of each log-probability" in found.certified.method
