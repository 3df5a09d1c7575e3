"""Live scores against a promise: what answers, metrics and log say of it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

from demur.base.errors import ArtifactError, PolicyError
from demur.base.files import write_json
from demur.core.goals.parse import stated_goal
from demur.engines.fake.backend import FakeBackend
from demur.server.monitoring import live_scores
from demur.stages import watch
from demur.stages.watch import ScoredRequest, begin_watching, live_path, state_path
from demur.store.policies.policy_file import (
    bind_promises,
    policy_digest,
    read_policy,
    write_policy,
    write_signed,
)
from demur.store.policies.signature import new_private_key
from demur.store.results.monitor_file import read_live
from demur.store.run import RunFolder
from demur.store.scores.tables import read_requests, read_scores
from tests.builders import promise
from tests.fake_run import engine_for, examples, like_traffic, prepare
from tests.server.live_server import KEY, OPERATOR_KEY, OTHER_KEY, request, serving, tenants_file
from tests.server.live_server import engine as live_engine
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PROMISE = promise(level=0.1, hits=1, of=100)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A calibrated run whose policy carries a certified promise, and its engine; tests take
    copies.
    """
    rows = examples(every=4)
    engine = engine_for(rows)
    folder = prepare(tmp_path_factory.mktemp("run"), rows, engine)
    write_policy(
        folder.policy, bind_promises(replace(read_policy(folder.policy), promises=(PROMISE,)))
    )
    folder.finish("calibrate", {}, {}, [folder.policy])
    return folder, engine


@pytest.fixture
def made(calibrated, tmp_path):
    """(run folder, engine, folder with its policy) of this test's own."""
    folder, engine = calibrated
    own = RunFolder(tmp_path / "run")
    shutil.copytree(folder.root, own.root)
    write_policy(tmp_path / "policies" / "p.json", read_policy(own.policy))
    return own, engine, tmp_path / "policies"


def line(metric, policy, risk=None, tenant=None):
    about = f',risk="{risk}"' if risk else f',tenant="{tenant}"' if tenant is not None else ""
    return f'{metric}{{policy="{policy.name}",policy_hash="{policy_digest(policy)}"{about}}}'


def supported(policy):
    return line("demur_promise_supported", policy, "false_refusal")


def other(policy):
    """The same policy with other thresholds, under the same name, certified afresh."""
    categories = tuple(replace(c, threshold=0.9) for c in policy.categories)
    return bind_promises(replace(policy, categories=categories, promises=(PROMISE,)))


def said(server, **fields):
    return server.chat(**fields).json()["demur"]["promises"]


def test_live_scores_that_drift_are_said_to_and_take_no_promise_away(made):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    with serving(
        own, backend=FakeBackend(engine=engine), watched_runs=[folder], watch_rows=50
    ) as server:
        assert server.metric(supported(policy)) == 1
        assert said(server) == "certified"
        monitors, digest = server.service.state.monitors, policy_digest(policy)
        strange = np.full(len(policy.taxonomy.tokens), -12.0, dtype=np.float32)
        strange[3] = -1e-4
        loop = server.process.loop
        for _ in range(400):
            scored = ScoredRequest(tenant="local", logp_C=strange)
            loop.call_soon_threadsafe(monitors.record_score, digest, scored)
        wait_until(
            lambda: (
                monitors.promise_status(policy, digest, "local", outside=False)
                == "certified, drift seen"
            )
        )
        assert said(server) == "certified, drift seen"
        assert server.metric(supported(policy)) == 1
        assert server.metric(line("demur_drift_seen", policy, tenant="local")) == 1
        assert said(server, demur={"thresholds": {policy.taxonomy.names[0]: 0.0}}) == "void"
    again = begin_watching([folder], policy)
    # With two that were asked, without the one of which nothing is promised.
    assert again.steps == 402
    assert any(w.drift for w in again.watched("local"))
    assert not any(w.drift for w in again.watched("another"))


def test_requests_under_other_thresholds_are_not_watched(made):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    with serving(
        own, backend=FakeBackend(engine=engine), watched_runs=[folder], watch_rows=1
    ) as server:
        server.chat(demur={"thresholds": {policy.taxonomy.names[0]: 0.0}})
        server.chat()
        wait_until(lambda: server.metric(line("demur_watched_scores", policy)) == 1)


def test_every_policy_in_force_is_watched_and_one_that_is_gone_leaves_no_series(made):
    folder, engine, own = made
    first = read_policy(folder.policy)
    second, later = bind_promises(replace(other(first), name="second")), other(first)
    write_policy(own / "second.json", second)
    with serving(
        own, backend=FakeBackend(engine=engine), watched_runs=[folder], watch_rows=1
    ) as server:
        assert (server.metric(supported(first)), server.metric(supported(second))) == (1, 1)
        server.chat()
        wait_until(lambda: server.metric(line("demur_watched_scores", first)) == 1)
        write_policy(own / "p.json", later)
        wait_until(lambda: server.metric(supported(later)) == 1)
        assert server.metric(supported(first)) is None
        assert server.metric(line("demur_watched_scores", first)) is None
        assert said(server) == "certified"
        wait_until(lambda: server.metric(line("demur_watched_scores", later)) == 1)
        assert server.metric(supported(second)) == 1
    assert live_path(folder, first).exists()
    assert live_path(folder, later).exists()


def test_a_policy_without_reference_scores_is_certified_but_not_watched(made):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    with serving(own, backend=FakeBackend(engine=engine), watched_runs=[]) as server:
        assert said(server) == "certified, not watched"
        assert server.metric(supported(policy)) is None


def told_of_errors(folder, tmp_path):
    """What `demur watch` keeps after labels under which every refusal was wrong."""
    live = like_traffic(folder, tmp_path / "live.parquet")
    ids = read_scores(live)[0].ids
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps({"id": i, "label": "respond"}) + "\n" for i in ids))
    return watch.run(watch.Config(scores=live, feedback=labels), folder)


def test_an_alarm_that_demur_watch_found_in_labels_reaches_the_server(made, tmp_path):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    with serving(own, backend=FakeBackend(engine=engine), watched_runs=[folder]) as server:
        assert said(server) == "certified"
        assert not told_of_errors(folder, tmp_path).supported
        wait_until(lambda: server.metric(supported(policy)) == 0)
        assert said(server) == "no longer supported"
        state_path(folder).unlink()  # an alarm stays
        wait_until(
            lambda: server.service.state.monitors._watches[policy_digest(policy)].command_at is None
        )
        assert said(server) == "no longer supported"


def test_an_alarm_about_another_policy_does_not_count(made, tmp_path):
    folder, engine, own = made
    told_of_errors(folder, tmp_path)
    write_policy(own / "p.json", other(read_policy(folder.policy)))
    with serving(own, backend=FakeBackend(engine=engine), watched_runs=[folder]) as server:
        assert said(server) == "certified"


def test_a_policy_that_comes_before_its_receipt_is_watched_once_the_receipt_is_there(made):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    with serving(own, backend=FakeBackend(engine=engine), watched_runs=[folder]) as server:
        receipt = folder.stage("calibrate") / "made.json"
        kept = receipt.read_bytes()
        receipt.unlink()
        write_policy(own / "p.json", other(policy))
        wait_until(lambda: server.metric(supported(policy)) is None)
        assert said(server) == "certified, not watched"
        receipt.write_bytes(kept)
        wait_until(lambda: server.metric(supported(other(policy))) == 1)
        assert said(server) == "certified"


def test_a_damaged_state_stops_the_start(made):
    folder, engine, own = made
    write_json(live_path(folder, read_policy(folder.policy)), {"format": "demur.monitor/1"})
    with (
        pytest.raises(ArtifactError, match="live-"),
        serving(own, backend=FakeBackend(engine=engine), watched_runs=[folder]),
    ):
        pass


def edited(path):
    """Thresholds set by hand: nothing is refused any more."""
    value = json.loads(path.read_text())
    for row in value["categories"]:
        row["threshold"] = 0.99
    path.write_text(json.dumps(value))
    return policy_digest(read_policy(path))


@pytest.mark.parametrize("where", ["a folder", "the run"])
def test_thresholds_edited_while_the_server_runs_are_served_as_not_certified(made, caplog, where):
    folder, engine, own = made
    path = own / "p.json" if where == "a folder" else folder.policy
    served = own if where == "a folder" else folder.policy
    with serving(served, backend=FakeBackend(engine=engine), watched_runs=[folder]) as server:
        assert said(server) == "certified"
        digest = edited(path)
        wait_until(lambda: server.chat().json()["demur"]["policy_hash"] == digest)
        assert said(server) == "not certified"
        line = f'demur_promises_not_certified{{policy="default",policy_hash="{digest}"}}'
        wait_until(lambda: server.metric(line) == 1)
    assert "promise not certified" in [r.getMessage() for r in caplog.records]


def test_an_edited_policy_is_not_taken_where_the_operator_wants_an_error(made):
    folder, engine, own = made
    trust = {"unproven": "error"}
    with serving(own, backend=FakeBackend(engine=engine), watched_runs=[folder], **trust) as server:
        before = server.chat().json()["demur"]["policy_hash"]
        edited(own / "p.json")
        wait_until(lambda: server.metric("demur_policy_faults") == 1)
        assert server.chat().json()["demur"]["policy_hash"] == before
    with (
        pytest.raises(PolicyError, match="not certified"),
        serving(own, backend=FakeBackend(engine=engine), **trust),
    ):
        pass


def test_a_server_with_trusted_keys_believes_signed_policies_only(made, tmp_path):
    folder, engine, own = made
    public = new_private_key(tmp_path / "key.pem")
    options = {
        "backend": FakeBackend(engine=engine),
        "watched_runs": [folder],
        "trusted_keys": (public,),
    }
    with serving(own, **options) as server:
        assert said(server) == "not certified"
        write_signed(own / "p.json", read_policy(own / "p.json"), tmp_path / "key.pem")
        wait_until(lambda: said(server) == "certified")
        # the same digest, without the signature
        write_policy(own / "p.json", read_policy(own / "p.json"))
        wait_until(lambda: said(server) == "not certified")


# tenants, servers and disks


def with_rate(folder, own):
    """The run's policy with a promise that live scores alone can speak against: how many requests
    are refused.
    """
    rate = replace(PROMISE, goal=stated_goal("refusal_rate", 0.3))
    policy = bind_promises(replace(read_policy(folder.policy), promises=(PROMISE, rate)))
    write_policy(folder.policy, policy)
    folder.finish("calibrate", {}, {}, [folder.policy])
    write_policy(own / "p.json", policy)
    return policy


def surely(policy, column):
    """A score that is refused for sure, or answered."""
    score = np.full(len(policy.taxonomy.tokens), -12.0, dtype=np.float32)
    score[column] = -1e-4
    return score


def refused(policy):
    return surely(policy, 3)


def send(server, policy, tenant, scores, times):
    monitors, digest = server.service.state.monitors, policy_digest(policy)
    scored = ScoredRequest(tenant=tenant, logp_C=scores)
    for _ in range(times):
        server.process.loop.call_soon_threadsafe(monitors.record_score, digest, scored)


def says(server, policy, tenant):
    return server.service.state.monitors.promise_status(
        policy, policy_digest(policy), tenant, outside=False
    )


def test_one_tenants_requests_take_nothing_from_another_and_a_reset_gives_it_back(made):
    folder, engine, own = made
    policy = with_rate(folder, own)
    with serving(own, backend=FakeBackend(engine=engine), watched_runs=[folder]) as server:
        send(server, policy, "acme", refused(policy), 250)
        wait_until(lambda: says(server, policy, "acme") == "no longer supported")
        assert says(server, policy, "other") == "certified"
        lost = 'demur_promise_lost{policy="default",policy_hash="%s",risk="%s",tenant="acme"}'
        assert server.metric(lost % (policy_digest(policy), "refusal_rate")) == 1
        # which no score can speak against
        assert server.metric(lost % (policy_digest(policy), "false_refusal")) == 0
        watch.reset(folder, "a load test of acme's", NOW)
        wait_until(lambda: says(server, policy, "acme") == "certified")
        send(server, policy, "acme", surely(policy, 0), 10)
        wait_until(lambda: server.metric(line("demur_watched_scores", policy)) == 10)
        assert says(server, policy, "acme") == "certified"
    assert read_live(live_path(folder, policy)).resets[0].reason == "a load test of acme's"


def test_made_up_requests_are_not_counted(made, tmp_path):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    tenants = tenants_file(tmp_path / "tenants.toml", alice="synthetic = true")
    tenants.write_text(
        tenants.read_text()
        .replace('["default", "strict"]', '["default"]')
        .replace("strict", "default")
    )
    mark = {"x-demur-synthetic": "true"}
    options = {
        "tenants": tenants,
        "backend": FakeBackend(engine=engine),
        "watched_runs": [folder],
        "watch_rows": 1,
    }
    with serving(own, **options) as server:
        # by its tenant, by its header
        made_up = server.chat(key=KEY), server.chat(key=OPERATOR_KEY, headers=mark)
        assert [got.json()["demur"]["promises"] for got in made_up] == ["void", "void"]
        earnest = server.chat(key=OTHER_KEY, headers=mark)  # not for everybody to say
        assert earnest.json()["demur"]["promises"] == "certified"
        wait_until(lambda: server.metric(line("demur_watched_scores", policy)) == 1)
        assert server.metric(line("demur_drift_seen", policy, tenant="other")) == 0
        assert server.metric(line("demur_drift_seen", policy, tenant="alice")) is None


def test_two_servers_on_one_run_make_one_state_and_no_alarm_is_lost(made):
    folder, engine, own = made
    policy = with_rate(folder, own)
    backend = FakeBackend(engine=engine)
    with (
        serving(own, backend=backend, watched_runs=[folder]) as one,
        serving(own, backend=backend, watched_runs=[folder]) as two,
    ):
        send(one, policy, "acme", refused(policy), 100)
        wait_until(lambda: says(one, policy, "acme") == "no longer supported")
        wait_until(lambda: says(two, policy, "acme") == "no longer supported")
        for server in (two, one, two):
            send(server, policy, "acme", read_scores(folder.scores("test"))[0].logp_NC[0], 64)
        wait_until(
            lambda: read_live(live_path(folder, policy)).tenants["acme"].series[0].steps == 292
        )
    again = begin_watching([folder], policy)
    assert again.steps == 292
    assert any(w.alarms for w in again.watched("acme"))


def test_with_a_disk_that_takes_nothing_answers_say_that_nobody_watches(made, caplog):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    with serving(
        own, backend=FakeBackend(engine=engine), watched_runs=[folder], watch_rows=1
    ) as server:
        assert said(server) == "certified"
        wait_until(lambda: server.metric(line("demur_watched_scores", policy)) == 1)
        room = folder.root / "watch"
        room.rename(folder.root / "away")
        room.write_text("no folder")  # as good as a full disk: no file can be made
        server.chat()
        wait_until(lambda: said(server) == "certified, not watched")
        assert server.metric(line("demur_watch_blind", policy)) == 1
        room.unlink()
        (folder.root / "away").rename(room)
        wait_until(lambda: says(server, policy, "local") == "certified")
        assert server.metric(line("demur_watch_blind", policy)) == 0
        counted = server.metric(line("demur_watched_scores", policy))
        assert counted == server.metric(
            'demur_decisions_total{decision="respond",policy="default",tenant="local"}'
        )
    assert "scores not watched" in [r.getMessage() for r in caplog.records]


def test_what_a_killed_server_decided_is_counted_by_the_next(made, tmp_path):
    folder, _, own = made
    policy = read_policy(folder.policy)
    command = [sys.executable, "-m", "tests.server.process", str(own), "0", "{}", str(folder.root)]
    answered = 0
    for number in (3, 70, 11):
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            url = server.stdout.readline().strip()
            with httpx.Client(base_url=url, trust_env=False) as client:
                for _ in range(number):
                    assert client.post("/v1/chat/completions", json=request()).status_code == 200
                    answered += 1
            server.kill()
    again = begin_watching([folder], policy)
    assert again.steps == answered
    assert list(live_path(folder, policy).parent.glob("*.journal")) == []
    assert begin_watching([folder], policy).steps == answered  # each once


def test_a_state_that_an_older_version_wrote_goes_on_for_every_tenant(made):
    folder, _, _ = made
    policy = read_policy(folder.policy)
    told_of_errors(folder, folder.root)
    shutil.copy(state_path(folder), live_path(folder, policy))
    again = begin_watching([folder], policy)
    assert all(any(w.alarms for w in again.watched(tenant)) for tenant in ("local", "acme"))


def test_live_scores_are_written_with_request_ids_and_labels_of_served_requests_count(
    made, tmp_path
):
    folder, engine, own = made
    with serving(
        own, backend=FakeBackend(engine=engine), watched_runs=[folder], live=tmp_path / "live"
    ) as server:
        ids = [server.chat("Please name a river.").headers["x-request-id"] for _ in range(3)]
        server.chat(headers={"x-demur-synthetic": "true"})
    (path,) = (tmp_path / "live").glob("*.parquet")
    assert list(read_scores(path)[0].ids) == ids
    assert read_requests(path).in_time
    assert b"river" not in path.read_bytes()
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({"id": ids[1], "label": "respond"}))
    sight = watch.run(watch.Config(scores=tmp_path / "live", feedback=labels), folder)
    assert (sight.new_rows, sight.labels.new, sight.permuted) == (3, 1, 0)


def test_requests_of_one_session_are_one_unit_and_its_name_is_not_kept(made, tmp_path):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    named = [
        {"headers": {"x-session-id": "anna-1"}, "user": "someone"},
        {"metadata": {"session_id": "anna-1"}},
        {"user": "anna-1", "metadata": {"topic": 5}},
        {"safety_identifier": "berta-2", "user": "anna-1"},
        {},
    ]
    with serving(
        own, backend=FakeBackend(engine=engine), watched_runs=[folder], live=tmp_path / "live"
    ) as server:
        for fields in named:
            assert server.chat("Please name a river.", **fields).status_code == 200
        wait_until(lambda: server.metric(line("demur_watched_scores", policy)) == 5)
    again = begin_watching([folder], policy).monitors["local"]
    assert (again.requests, again.series[0].steps) == (5, 1)
    assert [s.requests for s in again.open_sessions] == [3, 1]
    (path,) = (tmp_path / "live").glob("*.parquet")
    sessions = read_requests(path).sessions
    assert [sessions.index(s) for s in sessions] == [0, 0, 0, 3, 4]
    files = [path, *(folder.root / "watch").iterdir()]
    assert not any(name in file.read_bytes() for file in files for name in (b"anna", b"berta"))


def test_live_scores_that_cannot_be_written_are_counted_and_hold_up_no_answer(made, tmp_path):
    folder, engine, own = made
    (tmp_path / "live").write_text("no folder")
    with serving(
        own, backend=FakeBackend(engine=engine), watched_runs=[folder], live=tmp_path / "live"
    ) as server:
        assert said(server) == "certified"
    assert server.metric("demur_watched_scores_lost_total") == 1


def test_live_scores_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(live_scores, "ROWS", 1)
    monkeypatch.setattr(live_scores, "MOST_FILES", 3)
    model = live_engine().fingerprint
    lost = []
    writer = live_scores.LiveScores(tmp_path, model, lost.append)
    for n in range(9):
        writer.record(f"r-{n}", np.full(6, np.log(1 / 6), dtype=np.float32))
    writer.close()
    kept = [read_scores(path)[0].ids[0] for path in sorted(tmp_path.glob("*.parquet"))]
    assert (kept, lost) == (["r-6", "r-7", "r-8"], [])
