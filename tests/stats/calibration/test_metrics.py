import numpy as np
import pytest

from demur.stats.calibration.binned import cells
from demur.stats.calibration.metrics import COLUMNS, Column, benchmark, measure
from demur.stats.calibration.views import all_classes, forecast
from tests.stats.calibration.material import GOLDEN, golden_forecast, simulated


def golden_benchmark():
    before, after = golden_forecast("pre"), golden_forecast("post")
    return benchmark(before.logp_NC, after.logp_NC, before.label_N)


def test_one_call_gives_90_binned_and_12_other_measurements():
    found = golden_benchmark()
    binned = [c for stage in (found.raw, found.calibrated) for c in stage if c.bins is not None]
    assert (len(binned), len(found)) == (90, 102)
    assert len({str(c) for c in COLUMNS}) == 50
    assert all(f.defined for f in (*found.raw.values(), *found.calibrated.values(), found.auroc))


def test_every_measurement_of_the_benchmark_is_the_golden_one():
    found = golden_benchmark()
    keys = {"ece": "ECE", "ece_em": "ECE_em", "mce": "MCE", "cwce": "cwCE", "cwce_em": "cwCE_em"}
    others = {"ks": "KS_error", "mmce": "MMCE_phi0.4", "nll": "NLL", "brier": "Brier_multiclass"}
    for stage, figures in (("pre", found.raw), ("post", found.calibrated)):
        own = GOLDEN["own"][stage]
        for column, figure in figures.items():
            if column.family == "kde":
                assert figure.value == pytest.approx(
                    GOLDEN["h_calibration"][stage]["KDE_ECE"], abs=1e-3
                )
                continue
            key = f"{keys[column.family]}_{column.bins}" if column.bins else others[column.family]
            assert figure.value == pytest.approx(own[key], abs=1e-10), column
    golden = GOLDEN["sklearn"]["post"]
    assert found.auroc.value == pytest.approx(golden["auroc_refuse_any"], abs=1e-12)
    assert found.average_precision.value == pytest.approx(
        golden["average_precision_refuse_any"], abs=1e-12
    )


def test_a_missing_class_makes_areas_undefined_and_leaves_the_rest():
    logp_NC, _ = simulated(100, 0)
    found = benchmark(logp_NC, logp_NC, np.zeros(100, dtype=np.int64))
    assert not found.auroc.defined
    assert "one kind" in found.average_precision.why
    assert found.raw[Column(family="cwce", bins=15)].defined


def test_a_perfect_forecast_has_no_error_of_any_kind():
    label_N = np.arange(12) % 3
    with np.errstate(divide="ignore"):
        found = measure(forecast(np.log(np.eye(3)[label_N]), label_N))
    undefined = [c.family for c, f in found.items() if not f.defined]
    assert undefined == ["kde"]  # no spread, no bandwidth
    assert {f.value for f in found.values() if f.defined} == {0.0}


def test_the_class_wise_columns_average_over_the_classes_in_float64():
    f = forecast(*simulated(500, 1))
    found = measure(f)[Column(family="cwce_em", bins=20)].value
    assert found == pytest.approx(
        np.mean([cells(v, "mass", 20).error() for v in all_classes(f)]), abs=1e-15
    )


def test_more_bins_than_a_tenth_of_the_rows_are_called_noisy():
    assert Column(family="ece", bins=100).noisy(999)
    assert not Column(family="ece", bins=100).noisy(1000)
    assert not Column(family="nll").noisy(1)
