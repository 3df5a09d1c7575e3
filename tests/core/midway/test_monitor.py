import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import PolicyError, ScoreError
from demur.core.decision import decide
from demur.core.midway.followed import AnswerScoring, scored_answer
from demur.core.midway.monitor import (
    MOST_CERTAIN,
    AnswerSampling,
    Monitor,
    Stop,
    excess,
    first_stop,
    peaks,
    statistics,
)
from demur.core.threshold import NEVER
from tests.builders import log_softmax, policy

ANSWERS = AnswerSampling(most_tokens=64)


def monitor(*thresholds, **fields):
    return Monitor(thresholds=thresholds, answers=ANSWERS, **fields)


@st.composite
def answers(draw, k=2):
    """Position scores of an answer of 0 to 12 tokens over k categories, (T, 1 + k)."""
    length = draw(st.integers(0, 12))
    logits = draw(
        st.lists(
            st.lists(st.floats(-12, 12, width=32), min_size=k + 2, max_size=k + 2),
            min_size=length,
            max_size=length,
        )
    )
    # the last column is all other tokens of the vocabulary
    return log_softmax(np.reshape(logits, (length, k + 2)))[:, : k + 1]


def thresholds(statistic):
    return (
        st.sampled_from([0.0, 1e-4, 0.05, 0.5, 1.0, NEVER])
        if statistic == "maximum"
        else st.sampled_from([1e-3, 0.5, 3.0, 20.0, NEVER])
    )


@st.composite
def monitors(draw, k=2):
    statistic = draw(st.sampled_from(["maximum", "cusum"]))
    values = draw(st.tuples(*[thresholds(statistic)] * k).filter(lambda v: min(v) != NEVER))
    return monitor(*values, statistic=statistic, reference=draw(st.sampled_from([1e-3, 0.3])))


@given(monitor=monitors(), logp_TC=answers())
def test_an_answer_is_stopped_exactly_where_a_peak_reaches_its_threshold(monitor, logp_TC):
    peak_K, _ = peaks(monitor, logp_TC)
    reached = bool((excess(monitor, peak_K) >= 0).any()) and len(logp_TC) > 0
    assert (first_stop(monitor, logp_TC) is not None) == reached


@given(monitor=monitors(), logp_TC=answers(), at=st.integers(0, 1), higher=st.data())
def test_a_higher_threshold_never_stops_an_answer_that_went_on_or_stops_it_earlier(
    monitor, logp_TC, at, higher
):
    values = list(monitor.thresholds)
    values[at] = max(values[at], higher.draw(thresholds(monitor.statistic)))
    if min(values) == NEVER:
        return
    before = first_stop(monitor, logp_TC)
    after = first_stop(replace(monitor, thresholds=tuple(values)), logp_TC)
    assert after is None or (before is not None and before.position <= after.position)


@given(monitor=monitors(), logp_TC=answers(), cut=st.integers(0, 12))
def test_a_stop_does_not_depend_on_what_comes_after_it(monitor, logp_TC, cut):
    stop, early = first_stop(monitor, logp_TC), first_stop(monitor, logp_TC[:cut])
    assert early == (stop if stop is not None and stop.position < cut else None)


@given(logp_TC=answers(k=1))
def test_a_cusum_is_the_largest_sum_of_log_odds_that_ends_at_a_position(logp_TC):
    cusum = monitor(1.0, statistic="cusum", reference=0.2)
    p_T = np.minimum(np.exp(logp_TC[:, 1].astype(float)), MOST_CERTAIN)
    odds_T = np.log(p_T) - np.log1p(-p_T) - math.log(0.25)
    sums = [odds_T[a:b].sum() for b in range(1, len(p_T) + 1) for a in range(b)]
    peak_K, _ = peaks(cusum, logp_TC)
    assert peak_K[0] == pytest.approx(max([0.0, *sums]), rel=1e-4, abs=1e-4)


def test_one_position_alone_adds_a_bounded_sum_however_engines_round_it():
    certain_TC = np.array([[-20.0, 0.0], [-20.0, -5e-5]], dtype=np.float32)
    cusum = monitor(1.0, statistic="cusum", reference=0.5)
    apart = [statistics(cusum, certain_TC[[t]])[0, 0] for t in range(2)]
    assert apart == pytest.approx([math.log(99.0)] * 2)
    scored = scored_answer(
        AnswerScoring(answers=cusum.answers, statistic="cusum", reference=0.5),
        "a",
        certain_TC,
        finished=True,
    )
    assert scored.high[0] - scored.low[0] < 0.03


def test_a_tie_stops_and_the_category_farthest_above_its_threshold_is_emitted():
    logp_TC = np.log([[0.9, 0.01, 0.02], [0.1, 0.25, 0.5]]).astype(np.float32)
    exact = float(np.exp(logp_TC[1, 1].astype(np.float64)))
    assert first_stop(monitor(exact, NEVER), logp_TC) == Stop(column=1, position=1)
    # log-odds above the threshold: 2.0 for .25 above .04, 0 for .5 at .5
    assert first_stop(monitor(0.04, 0.5), logp_TC) == Stop(column=1, position=1)
    assert first_stop(monitor(0.2, 0.04), logp_TC) == Stop(column=2, position=1)
    assert first_stop(monitor(0.26, 0.51), logp_TC) is None


def test_an_answer_without_a_token_is_never_stopped():
    none_TC = np.zeros((0, 3), dtype=np.float32)
    assert first_stop(monitor(0.0, 0.0), none_TC) is None
    assert peaks(monitor(0.5, 0.5), none_TC)[0].tolist() == [-math.inf, -math.inf]


def test_a_position_without_a_score_is_an_error():
    with pytest.raises(ScoreError, match="not log-probabilities"):
        first_stop(monitor(0.5, 0.5), np.array([[-0.1, np.nan, -3.0]], dtype=np.float32))


@pytest.mark.parametrize(
    ("thresholds", "fields", "message"),
    [
        ((1.5,), {}, "not in \\[0, 1\\]"),
        ((math.nan,), {}, "threshold nan"),
        ((-math.inf,), {}, "threshold -inf"),
        ((0.0,), {"statistic": "cusum"}, "not above 0"),
        ((NEVER, NEVER), {}, "every category"),
        ((0.5,), {"statistic": "median"}, "unknown statistic 'median'"),
        ((0.5,), {"reference": 1.0}, "reference 1.0"),
        ((0.5,), {"held_back": 64}, "64 tokens are held back of answers of at most 64"),
        ((0.5,), {"held_back": -1}, "-1 tokens"),
    ],
)
def test_what_is_no_monitor_is_refused(thresholds, fields, message):
    with pytest.raises(PolicyError, match=message):
        monitor(*thresholds, **fields)


@pytest.mark.parametrize(
    "fields", [{"most_tokens": 0}, {"temperature": -1.0}, {"temperature": math.inf}, {"top_p": 0.0}]
)
def test_sampling_that_no_sampler_takes_is_refused(fields):
    with pytest.raises(PolicyError, match="monitor: answers of"):
        AnswerSampling(**({"most_tokens": 8} | fields))


def test_a_promise_covers_answers_that_are_no_longer_and_sampled_alike():
    greedy = AnswerSampling(most_tokens=64, temperature=0.0)
    assert greedy.covers(AnswerSampling(most_tokens=10, temperature=0.0, top_p=0.5))
    assert not greedy.covers(replace(greedy, most_tokens=65))
    assert not greedy.covers(ANSWERS)
    assert not ANSWERS.covers(replace(ANSWERS, top_p=0.9))


def test_a_policy_wants_one_monitor_threshold_per_category_and_none_for_a_suppressed_one():
    two = policy(2)
    assert replace(two, monitor=monitor(0.5, NEVER)).monitor is not None
    with pytest.raises(PolicyError, match="1 thresholds for 2 categories"):
        replace(two, monitor=monitor(0.5))
    suppressed = replace(two.categories[0], override="suppress")
    with pytest.raises(PolicyError, match="is suppressed and stops answers"):
        replace(two, categories=(suppressed, two.categories[1]), monitor=monitor(0.5, NEVER))
    with pytest.raises(PolicyError, match=r"has a monitor, and some engine stops no answer"):
        replace(two, monitor=monitor(0.5, NEVER)).require_no_monitor("some engine")


def test_a_policy_that_lets_the_first_position_pass_keeps_its_monitor():
    watched = replace(policy(2), monitor=monitor(0.5, NEVER))
    passing = watched.passing()
    assert passing.monitor == watched.monitor
    refusal_C = np.log(np.array([0.01, 0.98, 0.005], dtype=np.float32))
    assert not decide(passing, refusal_C).refuses
