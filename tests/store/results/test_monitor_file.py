import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ArtifactError
from demur.core.rates import Rate
from demur.store.results.monitor_file import (
    AuditRow,
    MonitorFile,
    SeriesRow,
    SessionRow,
    WealthRow,
    read_monitor,
    write_monitor,
)

wealth = st.floats(-1e6, 1e6)
stakes = st.builds(
    WealthRow,
    log_stake_J=st.lists(wealth, max_size=3).map(tuple),
    steps=st.integers(0, 10**9),
)
series = st.builds(
    SeriesRow,
    series=st.sampled_from(["total", "safety"]),
    count_B=st.lists(st.integers(0, 10**9), max_size=4).map(tuple),
    wealth=stakes,
    highest_log_e=wealth.map(abs),
    steps=st.integers(0, 10**9),
    learns=st.booleans(),
)
audits = st.builds(
    AuditRow,
    risk=st.just("missed_refusal[safety]"),
    level=st.floats(0.001, 0.999),
    rate=st.just(Rate(hits=1, of=9)),
    units=st.integers(0, 9),
    wealth=stakes,
    highest_log_e=wealth.map(abs),
)
ids = st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=2)
sessions = st.builds(
    SessionRow,
    key=st.text(st.characters(codec="utf-8"), max_size=3),
    last_s=st.floats(0, 1e12),
    requests=st.integers(1, 100),
    logp_C=st.tuples(st.floats(-50, 0), st.floats(-50, 0)),
    errors_A=st.just((1,)),
)
monitors = st.builds(
    MonitorFile,
    format=st.just("demur.monitor/1"),
    policy=st.just("sha256:p"),
    batches=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    labels=st.dictionaries(st.text(max_size=3), ids.map(tuple), max_size=2),
    labelled=ids.map(tuple),
    sessions=ids.map(tuple),
    audited=ids.map(tuple),
    open_sessions=st.lists(sessions, max_size=2).map(tuple),
    requests=st.integers(0, 10**9),
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
