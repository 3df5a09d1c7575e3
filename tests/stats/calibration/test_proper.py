import numpy as np
import pytest
from hypothesis import given
from sklearn.metrics import average_precision_score, roc_auc_score

from demur.stats.calibration.proper import (
    binary_score,
    brier,
    nll,
    view_auroc,
    view_average_precision,
)
from demur.stats.calibration.views import all_classes, binary_view, forecast, refusal
from tests.stats.calibration.material import (
    GOLDEN,
    STAGES,
    golden_binary,
    golden_forecast,
    golden_top,
    views,
)


@pytest.mark.parametrize("stage", STAGES)
def test_areas_are_scikit_learns(stage):
    f, golden = golden_forecast(stage), GOLDEN["sklearn"][stage]
    for column, v in enumerate(all_classes(f)):
        assert view_auroc(v).value == pytest.approx(golden[f"auroc_ovr_{column}"], abs=1e-12)
        assert view_average_precision(v).value == pytest.approx(
            golden[f"average_precision_{column}"], abs=1e-12
        )
    assert view_auroc(refusal(f)).value == pytest.approx(golden["auroc_refuse_any"], abs=1e-12)
    assert view_average_precision(refusal(f)).value == pytest.approx(
        golden["average_precision_refuse_any"], abs=1e-12
    )
    assert view_auroc(golden_top(stage)).value == pytest.approx(
        golden["auroc_correctness"], abs=1e-12
    )


def test_the_tied_binary_problem_has_the_golden_scores():
    v, golden = golden_binary(), GOLDEN["sklearn_binary"]
    assert view_auroc(v).value == pytest.approx(golden["auroc"], abs=1e-12)
    assert view_average_precision(v).value == pytest.approx(golden["average_precision"], abs=1e-12)
    assert binary_score(v) == pytest.approx(golden["brier"], abs=1e-12)
    assert binary_score(v, "log") == pytest.approx(golden["log_loss_clip1e15"], abs=1e-12)


@given(views())
def test_areas_are_unchanged_by_a_strictly_increasing_map(v):
    moved = binary_view("moved", v.p_N**3 / 2, v.event_N)
    assert view_auroc(moved) == view_auroc(v)
    assert view_average_precision(moved) == view_average_precision(v)


@given(views())
def test_mirroring_leaves_the_area_under_roc_unchanged(v):
    mirrored = view_auroc(binary_view("mirrored", 1 - v.p_N, 1 - v.event_N))
    assert mirrored.number == pytest.approx(view_auroc(v).number)


@pytest.mark.parametrize("stage", STAGES)
def test_scores_of_the_whole_vector_are_the_golden_ones(stage):
    f, own, sklearn = golden_forecast(stage), GOLDEN["own"][stage], GOLDEN["sklearn"][stage]
    assert nll(f).value == pytest.approx(own["NLL"], abs=1e-10)
    assert nll(f).value == pytest.approx(sklearn["log_loss"], abs=1e-12)
    assert brier(f) == pytest.approx(own["Brier_multiclass"], abs=1e-10)
    assert brier(f) == pytest.approx(sklearn["brier_multiclass_sum"], abs=1e-12)


@given(views())
def test_areas_equal_scikit_learns_on_tied_scores_or_are_undefined(v):
    if 0 < v.base_rate < 1:
        assert view_auroc(v).value == pytest.approx(roc_auc_score(v.event_N, v.p_N), abs=1e-12)
        assert view_average_precision(v).value == pytest.approx(
            average_precision_score(v.event_N, v.p_N), abs=1e-12
        )
    else:
        assert not view_auroc(v).defined
        assert not view_average_precision(v).defined


def test_a_label_of_probability_0_makes_the_nll_undefined():
    with np.errstate(divide="ignore"):
        f = forecast(np.log([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0]))
    assert not nll(f).defined
