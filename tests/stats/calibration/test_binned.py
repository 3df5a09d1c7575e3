import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.stats.calibration.binned import cells, cells_at
from demur.stats.calibration.metrics import BINS
from demur.stats.calibration.views import binary_view
from tests.stats.calibration.material import (
    GOLDEN,
    STAGES,
    calibrated_view,
    golden_binary,
    golden_top,
    views,
)

SCHEMES = ("width", "mass", "mass_whole_ties")


def test_netcals_interpolated_edges_differ_where_300_rows_meet_200_cells():
    found = {stage: cells(golden_top(stage), "mass", 200).error() for stage in STAGES}
    assert found["pre"] == pytest.approx(GOLDEN["netcal"]["pre"]["ECE_em_200"], abs=0.002)
    # here the two golden files themselves lie 0.009 apart; ours is the definition's to 1e-10, as
    # tested above
    assert found["post"] == pytest.approx(GOLDEN["netcal"]["post"]["ECE_em_200"], abs=0.01)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("scheme", "key"), [("width", "ew"), ("mass", "em")])
def test_the_cells_hold_the_golden_counts(stage, scheme, key):
    golden, c = (
        GOLDEN["own"][stage][f"table_top_label_{key}15"],
        cells(golden_top(stage), scheme, 15),
    )
    assert c.count_B.tolist() == golden["count"]
    assert c.event_B.tolist() == golden["sum_correct"]
    assert c.p_B.tolist() == pytest.approx(golden["sum_confidence"], abs=1e-10)


@given(views(), st.sampled_from(SCHEMES), st.integers(1, 50))
def test_every_row_is_in_exactly_one_cell(v, scheme, bins):
    c = cells(v, scheme, bins)
    assert (c.count_B >= 0).all()
    assert c.count_B.sum() == v.rows


@given(views(), st.sampled_from(SCHEMES))
def test_one_cell_compares_the_means(v, scheme):
    assert cells(v, scheme, 1).error() == pytest.approx(
        abs(v.p_N.mean() - v.event_N.mean()), abs=1e-12
    )


@given(views(), st.integers(1, 20), st.integers(2, 4))
def test_splitting_every_cell_never_lowers_the_l1_error(v, bins, parts):
    assert cells(v, "width", bins * parts).error() >= cells(v, "width", bins).error() - 1e-12


@given(views(ties=False), st.sampled_from(SCHEMES), st.integers(1, 20), st.randoms())
def test_the_order_of_rows_is_irrelevant_without_ties(v, scheme, bins, random):
    order = list(range(v.rows))
    random.shuffle(order)
    shuffled = binary_view("shuffled", v.p_N[order], v.event_N[order])
    assert cells(shuffled, scheme, bins).error() == pytest.approx(
        cells(v, scheme, bins).error(), abs=1e-12
    )


@given(views(), st.integers(1, 20), st.randoms())
def test_whole_ties_make_equal_mass_independent_of_the_order_of_rows(v, bins, random):
    order = list(range(v.rows))
    random.shuffle(order)
    shuffled = binary_view("shuffled", v.p_N[order], v.event_N[order])
    found, wanted = (cells(x, "mass_whole_ties", bins) for x in (shuffled, v))
    assert found.error() == pytest.approx(wanted.error(), abs=1e-12)
    assert (np.diff(v.p_N)[wanted.cut_J[1:-1][wanted.cut_J[1:-1] < v.rows] - 1] > 0).all()


@given(st.integers(0, 100), st.integers(1, 20), st.sampled_from(["l1", "l2", "max"]))
def test_mirroring_probabilities_and_events_changes_no_norm(seed, bins, norm):
    # continuous scores, on no edge; cells of equal mass divide them
    v = calibrated_view(20 * bins, seed)
    mirrored = binary_view("mirrored", 1 - v.p_N, 1 - v.event_N)
    for scheme in SCHEMES:
        wanted = cells(v, scheme, bins).error(norm)
        assert cells(mirrored, scheme, bins).error(norm) == pytest.approx(wanted, abs=1e-12)


@given(views(), st.integers(1, 20))
def test_duplicating_the_rows_changes_no_plug_in_error(v, bins):
    twice = binary_view("twice", np.tile(v.p_N, 2), np.tile(v.event_N, 2))
    for norm in ("l1", "l2", "max"):
        wanted = cells(v, "width", bins).error(norm)
        assert cells(twice, "width", bins).error(norm) == pytest.approx(wanted, abs=1e-12)


def test_no_bin_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        cells(golden_binary(), "width", 0)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("bins", BINS)
def test_binned_errors_are_the_golden_ones_at_every_number_of_bins(stage, bins):
    own, netcal = GOLDEN["own"][stage], GOLDEN["netcal"][stage]
    width, mass = cells(golden_top(stage), "width", bins), cells(golden_top(stage), "mass", bins)
    assert width.error() == pytest.approx(own[f"ECE_{bins}"], abs=1e-10)
    assert mass.error() == pytest.approx(own[f"ECE_em_{bins}"], abs=1e-10)
    assert width.error("max") == pytest.approx(own[f"MCE_{bins}"], abs=1e-10)
    assert width.error() == pytest.approx(netcal[f"ECE_{bins}"], abs=1e-12)
    assert width.error("max") == pytest.approx(netcal[f"MCE_{bins}"], abs=1e-12)
    if bins != 200:
        assert mass.error() == pytest.approx(netcal[f"ECE_em_{bins}"], abs=1e-12)


@pytest.mark.parametrize("stage", STAGES)
def test_other_norms_and_debiased_errors_are_the_golden_ones(stage):
    own, repository = GOLDEN["own"][stage], GOLDEN["h_calibration"][stage]
    ucal = GOLDEN["uncertainty_calibration"][stage]
    width, mass = cells(golden_top(stage), "width", 15), cells(golden_top(stage), "mass", 15)
    found = {
        "ECE_l2_ew_15": width.error("l2"),
        "ECE_l2_em_15": mass.error("l2"),
        "ECE_max_em_15": mass.error("max"),
        "debiased_l1_em_15": mass.debiased_l1(),
    }
    assert found == pytest.approx({k: own[k] for k in found}, abs=1e-10)
    published = {"ECE_ew": width.error(), "ECE_r2": width.error("l2"), "dECE": mass.debiased_l1()}
    assert published == pytest.approx({k: repository[k] for k in published}, abs=1e-7)
    assert mass.error("l2") == pytest.approx(ucal["top_label_l2_plugin_em15"], abs=1e-10)


@pytest.mark.parametrize("bins", [5, 10, 15, 25])
def test_scores_on_edges_are_all_that_parts_us_from_netcal(bins):
    """Its cells are [lo, hi) between linspace's edges. With those cuts the same arithmetic gives
    its numbers.
    """
    golden, v = GOLDEN["netcal_binary"], golden_binary()
    inner = np.searchsorted(v.p_N, np.linspace(0, 1, bins + 1)[1:-1], side="left")
    c = cells_at(v, np.concatenate([[0], inner, [v.rows]]))
    found = {f"ECE_{bins}": c.error(), f"MCE_{bins}": c.error("max")}
    assert found == pytest.approx({k: golden[k] for k in found}, abs=1e-12)


def test_the_binary_problem_has_the_golden_errors():
    golden, c = GOLDEN["own_binary"], cells(golden_binary(), "width", 10)
    assert c.error() == pytest.approx(golden["ECE_10"], abs=1e-10)
    assert c.error("max") == pytest.approx(golden["MCE_10"], abs=1e-10)


@given(
    st.lists(st.booleans(), min_size=1, max_size=20), st.sampled_from(SCHEMES), st.integers(1, 20)
)
def test_certain_and_right_has_no_error_at_all(events, scheme, bins):
    c = cells(binary_view("certain", np.array(events, dtype=float), events), scheme, bins)
    assert (c.error(), c.error("l2"), c.error("max")) == (0, 0, 0)
