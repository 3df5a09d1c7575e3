from itertools import pairwise

import pytest

from demur.core.decision import decide_many
from demur.core.threshold import NEVER
from demur.stats.thresholds.curve import MOST_POINTS, with_curves
from tests.builders import labelled, log_softmax, policy, simulated_rows, with_category


@pytest.mark.parametrize("rule", ["heaviest", "sum", "any"])
def test_every_point_is_what_decide_many_does_at_its_threshold(rule):
    rows = simulated_rows(400, 3, seed=1)
    base = policy(3, rule, [0.4] * 3)
    curved = with_curves(base, rows)
    for column, name in enumerate(base.taxonomy.names, start=1):
        for point in curved.category(name).curve[::10]:
            moved = base.taxonomy.names if rule == "sum" else (name,)
            choice_N = decide_many(
                base.with_thresholds(dict.fromkeys(moved, point.threshold)), rows.table.logp_NC
            ).choice_N
            emitted_N, own_N = choice_N == column, rows.label_N == column
            assert (point.refusal_rate.hits, point.refusal_rate.of) == (emitted_N.sum(), 400)
            assert (point.false_refusal.hits, point.false_refusal.of) == (
                (emitted_N & (rows.label_N == 0)).sum(),
                rows.to_answer,
            )
            assert (point.missed_refusal.hits, point.missed_refusal.of) == (
                (~emitted_N & own_N).sum(),
                own_N.sum(),
            )


@pytest.mark.parametrize("rule", ["heaviest", "sum", "any"])
def test_curves_run_from_never_to_the_last_cut_in_at_most_101_points(rule):
    for name, n in (("few", 30), ("many", 2000)):
        curve = with_curves(policy(2, rule), simulated_rows(n, 2, seed=2)).categories[0].curve
        assert len(curve) <= MOST_POINTS, name
        assert curve[0].threshold == NEVER
        assert curve[0].refusal_rate.hits == 0
        assert all(a.threshold > b.threshold for a, b in pairwise(curve))
        assert all(a.refusal_rate.hits <= b.refusal_rate.hits for a, b in pairwise(curve))
    assert len(curve) > 90


def test_a_rate_asked_of_the_curve_is_kept_on_the_calibration_rows():
    rows = simulated_rows(1000, 3, seed=3)
    curved = with_curves(policy(3, thresholds=[0.4] * 3), rows)
    moved = curved.with_thresholds({"safety": curved.threshold_at_rate("safety", 0.05)})
    assert 0.04 <= (decide_many(moved, rows.table.logp_NC).choice_N == 1).mean() <= 0.05


def test_rules_without_thresholds_and_categories_that_cannot_be_emitted_get_no_curve():
    rows = simulated_rows(50, 2, seed=4)
    assert [c.curve for c in with_curves(policy(2, "natural"), rows).categories] == [(), ()]
    half = with_curves(with_category(policy(2), 0, active=False), rows)
    assert [bool(c.curve) for c in half.categories] == [False, True]


def test_limits_do_not_keep_the_curve_from_its_ends():
    limited = with_category(policy(2, "any", [0.5, 0.5]), 0, limits=(0.4, 0.6))
    assert (
        with_curves(limited, simulated_rows(50, 2, seed=5)).categories[0].curve[0].threshold
        == NEVER
    )


def test_without_rows_of_a_class_its_rates_are_undefined():
    curve = (
        with_curves(policy(2), labelled(log_softmax([[0, 2, 1], [0, 1, 0]]), [1, 1]))
        .categories[0]
        .curve
    )
    assert not curve[0].false_refusal.defined
