import numpy as np
import pytest

from demur.base.errors import ArtifactError
from demur.core.rates import Rate
from demur.stats.units import unit_rate
from demur.store.results.metrics_file import MeasuredRate, read_metrics


def test_a_rate_carries_its_value_and_interval():
    rate = MeasuredRate.from_core(Rate(hits=3, of=10))
    assert (rate.hits, rate.of, rate.value) == (3, 10, 0.3)
    assert rate.low == pytest.approx(0.0667, abs=1e-4)
    assert rate.high == pytest.approx(0.6525, abs=1e-4)
    assert rate.words == "30.0% (6.7 to 65.2)"


def test_a_rate_of_rows_that_share_units_says_how_many_units_there_are():
    unit_N, everyone_N = np.repeat(np.arange(10), 2), np.ones(20, dtype=bool)
    rate = MeasuredRate.from_core(unit_rate(unit_N < 3, everyone_N, unit_N, None))
    assert (rate.hits, rate.of, rate.units, rate.denominator) == (6, 20, 10, "20 in 10 units")
    assert rate.words.endswith("; 10 units)")
    exact = Rate(hits=6, of=20).interval()
    assert rate.low < exact[0] < exact[1] < rate.high
    # files of before hold no number of units
    older = rate.model_dump(exclude={"units"})
    assert MeasuredRate.model_validate(older).units is None


def test_a_rate_over_no_rows_is_not_defined_rather_than_zero():
    rate = MeasuredRate.from_core(Rate(hits=0, of=0))
    assert rate.value is rate.low is rate.high is None
    assert rate.words == "not defined (0 rows)"


def test_a_file_that_is_no_metrics_file_is_named(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"format": "demur.metrics/9"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"metrics\.json: format"):
        read_metrics(path)
