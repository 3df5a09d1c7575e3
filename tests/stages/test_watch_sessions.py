"""Sessions and labels under watch: what is one unit of evidence, and what becomes of each label."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.fake_run import engine_for, examples, like_traffic, prepare

from demur.base.errors import ArtifactError, DataError
from demur.core.score import ScoreTable
from demur.stages import calibrate
from demur.stages.watch import (
    Config,
    ScoredRequest,
    begin_watching,
    count_scores,
    live_path,
    reset,
    run,
)
from demur.stages.watch.labels import LabelCount
from demur.stages.watch.state import Traffic, after_scores
from demur.stats.drift.monitor import merge_monitors, start_monitor
from demur.stats.drift.sessions import IDLE_S, MOST_REQUESTS
from demur.store.policies.policy_file import read_policy
from demur.store.results.monitor_file import read_live, read_monitor, write_live, write_monitor
from demur.store.scores.tables import Requests, read_requests, read_scores, write_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = examples(every=2)
    promised = calibrate.Config(
        goal="false_refusal <= 0.3; refusal_rate <= 0.9", confidence=0.8, on_failure="stop"
    )
    return prepare(tmp_path_factory.mktemp("run"), rows, engine_for(rows), promised)


@pytest.fixture(scope="module")
def live(folder, tmp_path_factory):
    return like_traffic(folder, tmp_path_factory.mktemp("live") / "live.parquet")


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state.json"


def cut(live, to, rows, *, sessions=None, counts=None, shift=0.0):
    """So many rows of a file, under the ids 0, 1, ..."""
    table, fingerprint = read_scores(live)
    logits_NC = table.logp_NC[:rows].astype(np.float64)
    logits_NC[:, 0] += shift
    logp_NC = np.minimum(logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None], 0)
    ids = tuple(map(str, range(rows)))
    named = ScoreTable(ids=ids, logp_NC=logp_NC.astype(np.float32))
    requests = Requests(
        sessions=sessions and tuple(sessions), counts=counts, in_time=counts is None
    )
    write_scores(to, named, fingerprint, requests=requests)
    return to


def labels(to, ids, label="respond", **more):
    rows = [{"id": str(i), "label": label} | more for i in ids]
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return to


def audit_of(sight, risk="false_refusal"):
    return next(a for a in sight.monitor.audits if a.risk == risk)


# labels


def test_labels_whose_ids_repeat_in_another_score_file_are_counted(folder, live, state, tmp_path):
    for n, day in enumerate(("monday", "tuesday", "wednesday")):
        scores = cut(live, tmp_path / f"{day}.parquet", 40, shift=0.01 * n)
        sight = run(
            Config(scores=scores, feedback=labels(tmp_path / "l", range(40)), state=state), folder
        )
        assert (sight.labels.new, sight.labels.before) == (40, 0)
        assert sight.labels.repeated == (40 if n else 0)
        assert audit_of(sight).rate.of == 40 * (n + 1)
    again = run(
        Config(scores=scores, feedback=labels(tmp_path / "l", range(40)), state=state), folder
    )
    assert again.labels == LabelCount(given=40, before=40)


def test_labels_given_once_more_without_their_scores_are_told_as_counted_before(
    folder, live, state, tmp_path
):
    monday, tuesday = (cut(live, tmp_path / f"{n}.parquet", 30 + n) for n in range(2))
    run(Config(scores=monday, feedback=labels(tmp_path / "l", range(30)), state=state), folder)
    grown = labels(tmp_path / "l", range(31))
    sight = run(Config(scores=tuesday, feedback=grown, state=state), folder)
    assert sight.labels == LabelCount(given=31, new=31, repeated=30)


def test_labels_that_no_promise_speaks_of_are_told(folder, live, state, tmp_path):
    scores = cut(live, tmp_path / "s.parquet", 30)
    given = labels(tmp_path / "l", range(30), label="safety")
    sight = run(Config(scores=scores, feedback=given, state=state), folder)
    assert sight.labels == LabelCount(given=30, new=30, unspoken=30)


def test_ids_that_an_older_version_counted_stand_for_its_own_score_files(
    folder, live, state, tmp_path
):
    old = cut(live, tmp_path / "old.parquet", 30)
    given = labels(tmp_path / "l", range(30))
    run(Config(scores=old, feedback=given, state=state), folder)
    file = read_monitor(state)
    (ids,) = file.labels.values()
    write_monitor(state, file.model_copy(update={"labels": {}, "labelled": ids}))
    new = cut(live, tmp_path / "new.parquet", 30, shift=0.5)
    assert run(Config(scores=new, feedback=given, state=state), folder).labels.new == 30
    assert run(Config(scores=old, feedback=given, state=state), folder).labels.before == 30


# sessions


def test_a_session_is_one_unit_of_scores_and_of_labels(folder, live, state, tmp_path):
    sessions = [f"s{n // 3}" for n in range(60)]
    scores = cut(live, tmp_path / "s.parquet", 60, sessions=sessions)
    assert read_requests(scores).sessions == tuple(sessions)
    given = labels(tmp_path / "l", range(60))
    sight = run(Config(scores=scores, feedback=given, state=state), folder)
    assert (sight.sessions, sight.alone, sight.monitor.requests) == (20, 0, 60)
    assert {m.steps for m in sight.monitor.series} == {20}
    for risk in ("false_refusal", "refusal_rate"):
        assert (audit_of(sight, risk).units, audit_of(sight, risk).rate.of) == (20, 60)
    assert "s1" not in json.loads(state.read_text())["sessions"]  # digests, no names of users


def test_a_session_that_goes_on_in_later_files_is_told_and_counted_once(
    folder, live, state, tmp_path
):
    for n, new in ((0, 10), (1, 0)):
        scores = cut(
            live, tmp_path / f"{n}", 20, sessions=[f"{m % 10}" for m in range(20)], shift=n
        )
        given = labels(tmp_path / "l", range(20))
        sight = run(Config(scores=scores, feedback=given, state=state), folder)
        assert sight.left_out == (0 if new else 20)
        assert (sight.labels.new, sight.labels.late) == ((20, 0) if new else (0, 20))
        assert sight.monitor.series[0].steps == 10


def test_requests_without_a_session_beside_others_are_units_of_their_own(
    folder, live, state, tmp_path
):
    scores = cut(live, tmp_path / "s", 10, sessions=["a", "a", None, None, *["b"] * 6])
    sight = run(Config(scores=scores, state=state), folder)
    assert (sight.sessions, sight.alone, sight.monitor.series[0].steps) == (2, 2, 4)


def test_a_row_counts_as_often_as_it_was_asked(folder, live, state, tmp_path):
    scores = cut(live, tmp_path / "s", 4, counts=(1, 5, 1, 3))
    sight = run(Config(scores=scores, state=state), folder)
    assert (sight.rows, sight.monitor.requests, sight.monitor.series[0].steps) == (4, 10, 10)


def test_labels_may_name_sessions_where_scores_do_not_but_all_of_them(
    folder, live, state, tmp_path
):
    scores = cut(live, tmp_path / "s", 10)
    given = labels(tmp_path / "l", range(10), session="one")
    assert audit_of(run(Config(scores=scores, feedback=given, state=state), folder)).units == 1
    mixed = labels(tmp_path / "mixed", range(9), session="one")
    mixed.write_text(mixed.read_text() + '{"id": "9", "label": "respond"}\n')
    with pytest.raises(DataError, match="9 labels name a session and 1 do not"):
        run(Config(scores=scores, feedback=mixed, state=tmp_path / "other"), folder)


def test_a_label_of_another_session_than_its_score_is_an_error(folder, live, state, tmp_path):
    scores = cut(live, tmp_path / "s", 4, sessions=["a"] * 4)
    given = labels(tmp_path / "l", range(4), session="b")
    with pytest.raises(DataError, match="of session 'b', its score is of another"):
        run(Config(scores=scores, feedback=given, state=state), folder)


def test_a_file_of_more_requests_than_can_be_looked_at_is_an_error(folder, live, state, tmp_path):
    scores = cut(live, tmp_path / "s", 2, counts=(1, 10**12))
    with pytest.raises(DataError, match="stands for 1,000,000,000,001 requests"):
        run(Config(scores=scores, state=state), folder)


def test_a_server_counts_a_session_when_it_has_ended(folder, live):
    policy = read_policy(folder.policy)
    logp_NC = read_scores(live)[0].logp_NC
    try:
        watch = begin_watching([folder], policy)
        row = ScoredRequest(tenant="a", logp_C=logp_NC[0], session="s", at_s=1000.0)
        watch = count_scores(watch, [row, replace(row, at_s=1200.0)])
        assert (watch.steps, watch.monitors["a"].series[0].steps) == (2, 0)
        assert read_live(live_path(folder, policy)).tenants["a"].open_sessions[0].requests == 2
        # another server goes on with it, and ends it by the clock
        other = begin_watching([folder], policy)
        late = ScoredRequest(tenant="a", logp_C=logp_NC[1], at_s=1201.0 + IDLE_S)
        other = count_scores(other, [late])
        assert other.monitors["a"].series[0].steps == 2
        assert other.monitors["a"].of_traffic[0].rate.of == 3
        # one name for all traffic hides no traffic
        many = count_scores(other, [replace(row, at_s=late.at_s)] * (2 * MOST_REQUESTS + 1))
        assert many.monitors["a"].series[0].steps == 4
        file = read_live(live_path(folder, policy))
        (open_one,) = file.tenants["a"].open_sessions
        damaged = open_one.model_copy(update={"errors_A": ()})
        tenants = {"a": file.tenants["a"].model_copy(update={"open_sessions": (damaged,)})}
        write_live(live_path(folder, policy), file.model_copy(update={"tenants": tenants}))
        with pytest.raises(ArtifactError, match="open session"):
            begin_watching([folder], policy)
    finally:
        live_path(folder, policy).unlink(missing_ok=True)


def test_after_a_reset_scores_sessions_and_labels_may_be_given_again(folder, live, state, tmp_path):
    scores = cut(live, tmp_path / "s", 20, sessions=[f"{n // 2}" for n in range(20)])
    given = labels(tmp_path / "l", range(20))
    first = run(Config(scores=scores, feedback=given, state=state), folder)
    reset(folder, "a load test", datetime(2026, 1, 1, tzinfo=UTC), state)
    again = run(Config(scores=scores, feedback=given, state=state), folder)
    assert (again.labels, again.monitor) == (first.labels, first.monitor)


def test_two_states_of_one_monitor_merge_to_the_later_with_its_open_sessions(folder, live):
    policy, logp_NC = read_policy(folder.policy), read_scores(live)[0].logp_NC
    fresh = start_monitor(policy, logp_NC)
    early = after_scores(fresh, policy, Traffic(logp_TC=logp_NC[:1], session_T=["s"], at_T=[0.0]))
    late = after_scores(early, policy, Traffic(logp_TC=logp_NC[1:2], session_T=["s"], at_T=[1.0]))
    assert merge_monitors(early, late) == merge_monitors(late, early) == late
    assert (late.requests, late.series[0].steps, late.open_sessions[0].requests) == (2, 0, 2)
