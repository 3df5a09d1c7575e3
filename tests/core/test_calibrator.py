from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import PolicyError, ScoreError
from demur.core.calibrator import IDENTITY, Fitted, closed
from demur.core.decision import decide_many
from demur.core.maps import binary as binary_maps
from demur.core.maps import multiclass as maps
from demur.core.maps.correctness import CorrectnessAware
from tests.builders import log_softmax, logp, policy, taxonomy
from tests.core.calibrators import any_map, ensembles, isotonics, temperatures


def fitted(map_, k):
    return Fitted(tokens=taxonomy(k).tokens, map=map_)


@st.composite
def cases(draw, most=3):
    k = draw(st.integers(1, most))
    return (
        k,
        draw(any_map(k + 1)),
        draw(logp(k)) - np.float32(draw(st.sampled_from((0.0, 0.3, 8.0)))),
    )


@given(cases())
def test_calibrated_rows_are_finite_float32_probabilities_that_sum_to_one(case):
    k, map_, logp_NC = case
    logq_NC = fitted(map_, k).apply(logp_NC)
    assert logq_NC.dtype == np.float32
    assert logq_NC.shape == logp_NC.shape
    assert np.isfinite(logq_NC).all()
    assert (logq_NC <= 0.0).all()
    assert np.abs(np.exp(logq_NC.astype(np.float64)).sum(axis=1) - 1.0).max() < 2e-6


@given(cases())
def test_a_prompt_alone_and_in_a_batch_gets_the_same_bits(case):
    k, map_, logp_NC = case
    batch_NC = np.tile(logp_NC, (9, 1))
    together_NC = fitted(map_, k).apply(batch_NC)
    for n in (0, len(logp_NC) - 1, len(batch_NC) - 1):
        assert np.array_equal(fitted(map_, k).apply(batch_NC[n : n + 1])[0], together_NC[n])


@given(cases())
def test_leftover_mass_is_shared_out_a_shift_of_the_row_changes_nothing(case):
    _, map_, logp_NC = case
    shifted_NC = logp_NC.astype(np.float64) - 2.0
    assert np.allclose(map_.logq(closed(shifted_NC)), map_.logq(closed(logp_NC)), atol=1e-9)


@given(
    case=cases(), rule=st.sampled_from(("natural", "heaviest", "released", "sum", "any", "bias"))
)
@settings(max_examples=50)
def test_every_calibrator_decides_even_where_maps_say_zero_or_one(case, rule):
    k, map_, logp_NC = case
    strict, lenient = (policy(k, rule, [t] * k) for t in (1.0, 0.0))
    decided = [
        decide_many(replace(p, calibrator=fitted(map_, k)), logp_NC) for p in (strict, lenient)
    ]
    assert not any(np.isnan(d.margin_N).any() for d in decided)
    if rule in ("heaviest", "released", "sum", "any"):
        assert decided[1].refuses_N.all()  # threshold 0 always refuses, whatever was mapped to 0


@given(st.one_of(temperatures(), ensembles()), logp(1, min_rows=2))
def test_temperatures_never_reorder_a_pair(map_, logp_N2):
    """Neither within a row, nor, with two control tokens, between rows."""
    odds_N = closed(logp_N2) @ np.array([-1.0, 1.0])
    logq_N2 = map_.logq(closed(logp_N2))
    after_N = logq_N2 @ np.array([-1.0, 1.0])
    order = np.argsort(odds_N, kind="stable")
    assert (np.diff(after_N[order]) >= -1e-9).all()
    assert (after_N[odds_N > 0] >= -1e-12).all()


@given(isotonics(), st.lists(st.floats(-40.0, 40.0), min_size=2, max_size=20))
def test_isotonic_maps_never_reverse_two_scores(map_, odds):
    assert (np.diff(map_.log_odds(np.sort(odds))) >= -1e-12).all()


def test_zero_and_one_come_out_as_the_least_and_the_most_a_float_can_tell():
    certain = binary_maps.Isotonic(score_J=(0.2, 0.8), calibrated_J=(0.0, 1.0))
    logq_N2 = fitted(maps.Pair(map=certain), 1).apply(log_softmax([[3.0, 0.0], [0.0, 3.0]]))
    assert logq_N2[0, 1] == pytest.approx(np.log(binary_maps.EPSILON))
    assert -3e-16 < logq_N2[1, 1] < 0.0


def test_a_row_in_which_every_token_is_impossible_comes_out_uniform():
    never = binary_maps.Histogram(edge_J=(), value_B=(0.0,))
    logq_NC = fitted(maps.OneVsRest(maps=(never,) * 3), 2).apply(log_softmax([[1.0, 0.0, 0.0]]))
    assert np.allclose(np.exp(logq_NC), 1 / 3)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_extreme_scores_stay_finite(scale):
    scores_NC = (np.array([[0.0, -1.0, -2.0]]) * scale).astype(np.float32)
    for map_ in (
        maps.Temperature(temperature=0.1),
        maps.Vector(weights=(4.0, 4.0, 4.0), offsets=(0.0, 1.0, 2.0)),
        maps.Ensemble(inverse_temperatures=(2.0, 0.0), weights=(0.5, 0.5)),
        maps.PiecewiseLinear(width=10.0, slopes=(1.0, 0.5)),
        maps.OneVsRest(maps=(binary_maps.Platt(slope=1.0, offset=0.0),) * 3),
    ):
        assert np.isfinite(fitted(map_, 2).apply(scores_NC)).all()


def test_identity_leaves_the_leftover_mass_outside():
    logp_NC = log_softmax([[0.0, 0.0]]) - np.float32(1.0)
    assert np.array_equal(IDENTITY.apply(logp_NC), logp_NC)


def test_a_calibrator_of_another_taxonomy_is_refused_by_policies_and_scores():
    two = fitted(maps.Temperature(temperature=2.0), 2)
    with pytest.raises(PolicyError, match="the calibrator was fitted on") as e:
        replace(policy(3), calibrator=two)
    assert "fit it again" in e.value.hint
    with pytest.raises(ScoreError, match="for 3 control tokens"):
        two.apply(log_softmax([[0.0, 1.0]]))
    with pytest.raises(PolicyError, match="a calibrator for 2 control tokens"):
        fitted(maps.Pair(map=binary_maps.Platt(slope=1.0, offset=0.0)), 2)


@pytest.mark.parametrize(
    "broken",
    [
        lambda: maps.Temperature(temperature=0.0),
        lambda: maps.Vector(weights=(1.0,), offsets=(1.0, 2.0)),
        lambda: maps.Matrix(weights=((1.0, 0.0),), offsets=(0.0, 0.0)),
        lambda: maps.BetaSoftmax(a=(1.0,), b=(1.0, 1.0), c=(0.0,)),
        lambda: maps.Ensemble(inverse_temperatures=(1.0,), weights=(0.5,)),
        lambda: maps.Ensemble(inverse_temperatures=(), weights=()),
        lambda: maps.PiecewiseLinear(width=1.0, slopes=(-1.0,)),
        lambda: maps.Umnn(mean=0.0, deviation=1.0, weights=(((1.0,),),), offsets=((0.0,),)),
        lambda: binary_maps.Beta(a=-1.0, b=1.0, c=0.0),
        lambda: binary_maps.Isotonic(score_J=(0.5, 0.1), calibrated_J=(0.1, 0.2)),
        lambda: binary_maps.Histogram(edge_J=(0.5,), value_B=(0.1,)),
        lambda: binary_maps.VennAbers(score0_J=(0.5,), p0_J=(), score1_J=(), p1_J=()),
    ],
)
def test_records_that_cannot_be_are_refused(broken):
    with pytest.raises(PolicyError, match="calibrator:") as e:
        broken()
    assert e.value.hint


def test_a_correctness_aware_network_of_the_wrong_shape_is_refused():
    with pytest.raises(PolicyError, match="does not take 4 features"):
        CorrectnessAware(
            tokens=taxonomy(1).tokens,
            rewrites=("case",),
            own=True,
            top=2,
            hidden_weights=((1.0, 2.0),),
            hidden_offsets=(0.0,),
            output_weights=(1.0,),
            output_offset=1.0,
        )
