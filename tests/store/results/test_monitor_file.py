import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ArtifactError
from demur.core.rates import Rate
from demur.store.results.monitor_file import (
    AuditRow,
    MonitorFile,
    SeriesRow,
    read_monitor,
    write_monitor,
)

wealth = st.floats(-1e6, 1e6)
series = st.builds(
    SeriesRow,
    series=st.sampled_from(["total", "safety"]),
    count_B=st.lists(st.integers(0, 10**9), max_size=4).map(tuple),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    log_e=wealth,
    highest_log_e=wealth.map(abs),
    steps=st.integers(0, 10**9),
    learns=st.booleans(),
)
audits = st.builds(
    AuditRow,
    risk=st.just("missed_refusal[safety]"),
    level=st.floats(0.001, 0.999),
    rate=st.just(Rate(hits=1, of=9)),
    highest_log_e=wealth.map(abs),
)
monitors = st.builds(
    MonitorFile,
    format=st.just("demur.monitor/1"),
    policy=st.just("sha256:p"),
    batches=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    labelled=st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=2).map(tuple),
    series=st.lists(series, max_size=2).map(tuple),
    audits=st.lists(audits, max_size=2).map(tuple),
)


@given(monitors)
def test_a_state_comes_back_to_the_last_bit(tmp_path_factory, monitor):
    path = tmp_path_factory.getbasetemp() / "state.json"
    write_monitor(path, monitor)
    assert read_monitor(path) == monitor


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is damaged"),
        ('{"series": [], "audits": []}', "policy"),
        ('{"format": "demur.monitor/2", "policy": "p", "series": [], "audits": []}', "format"),
        ('{"policy": "p", "series": [], "audits": [], "batch": []}', "batch: unknown key"),
    ],
)
def test_a_bad_state_names_the_file_and_the_key(tmp_path, text, says):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ArtifactError, match=says) as e:
        read_monitor(tmp_path / "state.json")
    assert "state.json" in e.value.message
