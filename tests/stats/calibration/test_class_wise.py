import numpy as np
import pytest

from demur.stats.calibration.binned import cells
from demur.stats.calibration.class_wise import adaptive, class_errors, class_wise, thresholded, thresholded_adaptive
from demur.stats.calibration.metrics import BINS
from demur.stats.calibration.views import all_classes, view
from tests.stats.calibration.material import GOLDEN, STAGES, golden_forecast


def classes(stage):
    return all_classes(golden_forecast(stage))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("bins", BINS)
def test_class_wise_errors_are_the_golden_ones_at_every_number_of_bins(stage, bins):
    own = GOLDEN["own"][stage]
    assert class_wise(classes(stage), "width", bins) == pytest.approx(own[f"cwCE_{bins}"], abs=1e-10)
    assert class_wise(classes(stage), "mass", bins) == pytest.approx(own[f"cwCE_em_{bins}"], abs=1e-10)


@pytest.mark.parametrize("stage", STAGES)
def test_the_published_class_wise_variants_are_the_golden_ones(stage):
    own, repository, c = GOLDEN["own"][stage], GOLDEN["h_calibration"][stage], classes(stage)
    assert adaptive(c) == pytest.approx(own["ACE_nixon_R15"], abs=1e-10)
    assert thresholded_adaptive(c) == pytest.approx(own["TACE_nixon_R15_eps1e-3"], abs=1e-10)
    found = {
        "CWECE_s": sum(class_errors(c, "width", 14)),
        "CWECE_a": class_wise(c, "width", 15),
        "CWECE_r2": class_wise(c, "width", 15, "l2"),
        "tCWECE": thresholded(c),
    }
    assert found == pytest.approx({k: repository[k] for k in found}, abs=1e-7)


@pytest.mark.parametrize("stage", STAGES)
def test_marginal_errors_are_those_of_uncertainty_calibration(stage):
    golden, mass = GOLDEN["uncertainty_calibration"][stage], [cells(v, "mass", 15) for v in classes(stage)]
    debiased = np.mean([max(c.debiased_l2_squared(), 0.0) for c in mass]) ** 0.5
    plug_in = np.mean([c.error("l2") ** 2 for c in mass]) ** 0.5
    assert debiased == pytest.approx(golden["marginal_l2_debiased_em15"], abs=1e-10)
    assert plug_in == pytest.approx(golden["marginal_l2_plugin_em15"], abs=1e-10)


def test_a_class_without_rows_above_the_cut_counts_0():
    never, always = view("never", [0.0, 0.0], [1, 0]), view("always", [1.0, 1.0], [1, 0])
    assert thresholded_adaptive([never, always], ranges=1) == pytest.approx(0.25)
    assert thresholded([never, always], bins=10) == pytest.approx(0.25)
