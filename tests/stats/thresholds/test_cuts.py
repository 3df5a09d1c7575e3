import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from demur.core.decision import decide_many
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.cuts import cut_above, cut_below, cut_between
from tests.builders import policy, undoubted

LOGQ = (
    st.floats(-1000, 0, width=32) | st.floats(-1, 0, width=32) | st.floats(-(2.0**-20), 0, width=32)
)
EDGES = (0.0, -0.0, -1e-45, -(2.0**-53), -1e-12, -(2.0**-27), -1.0, -(2.0**-20), -700.0, -800.0)


def refuses(logq, threshold):
    logp_NC = np.array([[-2000.0, logq]], dtype=np.float32)
    return bool(
        decide_many(undoubted(policy(1, thresholds=[float(threshold)])), logp_NC).refuses_N[0]
    )


def shaken(threshold):
    """The threshold moved by up to two float64 steps: more than log differs between platforms,
    whose ends are exact.
    """
    threshold = float(threshold)
    if threshold in (0.0, 1.0, np.inf):
        return [threshold]
    down, up = (np.nextafter(threshold, towards) for towards in (0.0, 1.0))
    return [float(t) for t in (np.nextafter(down, 0.0), down, threshold, up, np.nextafter(up, 1.0))]


def edges(test):
    for value in EDGES:
        test = example(value)(test)
    return test


@edges
@given(LOGQ)
def test_cut_below_includes_the_observed_value_whatever_exp_rounds_to(logq):
    assert all(refuses(logq, t) for t in shaken(cut_below(np.float32(logq))))


@edges
@given(LOGQ)
def test_cut_above_excludes_the_observed_value_whatever_exp_rounds_to(logq):
    assert not any(refuses(logq, t) for t in shaken(cut_above(np.float32(logq))))


@given(st.floats(-699, -(2.0**-26), width=32))
def test_the_neighbouring_float32_values_fall_on_the_other_side(logq):
    value = np.float32(logq)
    assert not any(
        refuses(np.nextafter(value, np.float32(-np.inf)), t) for t in shaken(cut_below(value))
    )
    assert all(refuses(np.nextafter(value, np.float32(0)), t) for t in shaken(cut_above(value)))


@given(LOGQ, LOGQ)
def test_two_values_with_ordered_cuts_are_told_apart_and_neighbours_have_ordered_cuts(a, b):
    low, high = sorted((np.float32(a), np.float32(b)))
    if cut_above(low) <= cut_below(high):
        assert refuses(high, cut_below(high))
        assert not refuses(low, cut_below(high))
    else:
        assert high - low <= 2e-15 or low < -700


@given(st.lists(LOGQ, min_size=1, max_size=20))
def test_cuts_keep_the_order_of_the_values(values):
    ordered = np.sort(np.array(values, dtype=np.float32))
    for cut in (cut_below, cut_above):
        assert (np.diff(cut(ordered)[np.isfinite(cut(ordered))]) >= 0).all()


def test_the_ends_of_the_scale():
    assert cut_above(np.float32(0.0)) == NEVER
    assert cut_below(np.float32(0.0)) < 1.0
    assert cut_above(np.float32(-1e-45)) == 1.0
    assert cut_below(np.float32(-np.inf)) == ALWAYS
    assert 0.0 < cut_above(np.float32(-np.inf)) < 1e-300
    # a log-softmax may end a hair above 0
    assert cut_below(np.float32(5e-5)) == cut_below(np.float32(0.0))


@given(LOGQ, LOGQ)
def test_a_cut_between_includes_one_value_and_excludes_the_other_wherever_a_threshold_can(a, b):
    low, high = sorted((np.float32(a), np.float32(b)))
    cut = cut_between(high, low)
    assert all(refuses(high, t) for t in shaken(cut))
    if cut_above(low) <= cut_below(high):
        assert not any(refuses(low, t) for t in shaken(cut))


def test_a_cut_between_lies_halfway_in_log_odds_also_beside_q_of_1():
    low, high = np.log(np.float32(0.1)), np.log(np.float32(0.9))
    assert abs(cut_between(high, low) - 0.5) < 1e-6
    assert 0.99 < cut_between(np.float32(0.0), low) < 0.9999
