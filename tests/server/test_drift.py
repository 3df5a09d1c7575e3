"""Live scores against a promise: what answers, metrics and log say of it."""

from dataclasses import replace

import numpy as np
import pytest

from demur.core.guarantee import Promise
from demur.core.rates import Rate
from demur.engines.fake_backend import FakeBackend
from demur.stages.watch import resume
from demur.store.policy_file import policy_digest, read_policy, write_policy
from demur.store.run import RunFolder
from tests.fake_run import engine_for, examples, prepare
from tests.server.house import serving, wait_until


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A calibrated run whose policy carries a certified promise: (run folder, engine, folder of that policy)."""
    rows = examples(every=4)
    engine = engine_for(rows)
    root = tmp_path_factory.mktemp("run")
    folder = prepare(root, rows, engine)
    promise = Promise(
        risk="false_refusal",
        level=0.1,
        confidence=0.95,
        status="certified",
        rate=Rate(hits=1, of=100),
        data_digest="sha256:0",
        method="test",
    )
    policy = replace(read_policy(folder.policy), promises=(promise,))
    write_policy(folder.policy, policy)
    folder.finish("calibrate", {}, {}, [folder.policy])
    own = tmp_path_factory.mktemp("policies")
    write_policy(own / "p.json", policy)
    return folder, engine, own


def test_live_scores_that_drift_take_the_support_from_a_promise(made, tmp_path):
    folder, engine, own = made
    policy = read_policy(folder.policy)
    standing = resume(RunFolder(folder.root), tmp_path / "live.json")
    line = (
        f'demur_promise_supported{{policy="{policy.name}",policy_hash="{policy_digest(policy)}",risk="false_refusal"}}'
    )
    with serving(own, backend=FakeBackend(engine=engine), standings=[standing], watch_rows=50) as server:
        assert server.metric(line) == 1
        assert server.chat().json()["demur"]["promises"] == "certified"
        drift, digest = server.service.house.drift, policy_digest(policy)
        strange = np.full(len(policy.taxonomy.tokens), -12.0, dtype=np.float32)
        strange[3] = -1e-4
        loop = server.process.loop
        for _ in range(400):
            loop.call_soon_threadsafe(drift.saw, digest, strange)
        wait_until(lambda: server.metric(line) == 0)
        assert server.chat().json()["demur"]["promises"] == "no longer supported"
        moved = server.chat(demur={"thresholds": {policy.taxonomy.names[0]: 0.0}}).json()
        assert moved["demur"]["promises"] == "void"
    again = resume(RunFolder(folder.root), tmp_path / "live.json")
    assert (
        again.monitor.series[0].steps == 402
    )  # with two that were asked, without the one of which nothing is promised
    assert any(w.alarms for w in again.watched)


def test_requests_under_other_thresholds_are_not_watched(made, tmp_path):
    folder, engine, own = made
    standing = resume(RunFolder(folder.root), tmp_path / "live.json")
    category = standing.policy.taxonomy.names[0]
    with serving(own, backend=FakeBackend(engine=engine), standings=[standing], watch_rows=1) as server:
        digest = policy_digest(standing.policy)
        line = f'demur_watched_scores{{policy="{standing.policy.name}",policy_hash="{digest}"}}'
        server.chat(demur={"thresholds": {category: 0.0}})
        server.chat()
        wait_until(lambda: server.metric(line) == 1)
