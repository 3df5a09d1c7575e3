"""Policies and tenants that change while requests are served."""

import json
import logging
import os
import threading

import pytest

from demur.base.errors import ConfigError, PolicyError
from demur.engines.fake.backend import FakeBackend
from demur.engines.fake.engine import FakeEngine
from demur.server.app import Service
from demur.server.registry import Access
from demur.server.settings import ServerSettings
from demur.store.policies.folder import read_folder
from demur.store.policies.policy_file import policy_digest, write_policy
from demur.store.policies.tenants_file import read_tenants
from tests.server.live_server import (
    KEY,
    OTHER_KEY,
    REFUSED,
    engine,
    folder_of,
    policy,
    serving,
    tenants_file,
)
from tests.waiting import wait_until


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "policies", policy(), policy("strict"))


def hash_of(got):
    return got.json()["demur"]["policy_hash"]


def test_a_changed_policy_decides_the_next_requests(folder, caplog):
    caplog.set_level(logging.INFO)
    with serving(folder) as server:
        assert server.chat(REFUSED).json()["demur"]["decision"] == "refuse"
        new = policy(threshold=1.0)
        write_policy(folder / "default.json", new)
        wait_until(lambda: hash_of(server.chat(REFUSED)) == policy_digest(new))
        assert server.chat(REFUSED).json()["demur"]["decision"] == "respond"
        wait_until(lambda: server.metric('demur_policy_changes_total{kind="changed"}') == 1)
        line = f'demur_policy_info{{policy="default",policy_hash="{policy_digest(new)}"}}'
        wait_until(lambda: server.metric(line) == 1)
    assert "policy changed" in [r.getMessage() for r in caplog.records]


@pytest.mark.parametrize("bad", ["{", "", '{"format": "demur.policy/1"}', "other model"])
def test_a_bad_file_keeps_the_old_policy_and_log_and_metrics_say_so(folder, bad, caplog):
    if bad == "other model":
        stranger = FakeEngine(taxonomy=engine().taxonomy, seed=9).fingerprint
        text = json.dumps(
            json.loads((folder / "default.json").read_text()) | {"fingerprint": _row(stranger)}
        )
    else:
        text = bad
    with serving(folder) as server:
        before = hash_of(server.chat())
        (folder / "default.json").write_text(text, encoding="utf-8")
        wait_until(lambda: server.metric("demur_policy_faults") == 1)
        assert server.metric('demur_policy_changes_total{kind="rejected"}') == 1
        assert hash_of(server.chat()) == before
        write_policy(folder / "default.json", policy(threshold=0.25))
        wait_until(lambda: hash_of(server.chat()) == policy_digest(policy(threshold=0.25)))
        wait_until(lambda: server.metric("demur_policy_faults") == 0)
    assert any(
        r.getMessage() == "policy rejected" and "default.json" in r.fields["reason"]
        for r in caplog.records
    )


def _row(fingerprint):
    return {f: getattr(fingerprint, f) for f in fingerprint.__dataclass_fields__}


def test_every_answer_carries_the_hash_of_a_policy_that_was_in_force_when_it_was_asked_for(folder):
    versions = [policy(threshold=0.3 + n / 100) for n in range(20)]
    known = {policy_digest(v): n for n, v in enumerate(versions)}
    write_policy(folder / "default.json", versions[0])
    written, wrong, stop = [0], [], threading.Event()

    def ask(server):
        newest = 0
        with server.client() as client:
            while not stop.is_set():
                got = client.post(
                    "/v1/chat/completions",
                    json={"model": "demur", "messages": MESSAGES, "max_tokens": 1},
                )
                latest = written[0]
                version = known.get(hash_of(got)) if got.status_code == 200 else None
                if version is None or not newest <= version <= latest:
                    wrong.append((got.status_code, newest, version, latest))
                newest = max(newest, version or 0)

    with serving(folder) as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for n, version in enumerate(versions[1:], start=1):
            written[0] = n
            write_policy(folder / "default.json", version)
            server.service.state.registry.reload()
        stop.set()
        for thread in threads:
            thread.join()
        assert hash_of(server.chat()) == policy_digest(versions[-1])
    assert not wrong


MESSAGES = [{"role": "user", "content": "Hello."}]


def test_a_key_taken_out_of_the_tenants_file_opens_nothing_any_more(folder, tmp_path):
    path = tenants_file(tmp_path / "tenants.toml")
    with serving(folder, path) as server:
        assert server.chat(key=KEY).status_code == 200
        text = path.read_text()
        path.write_text(text[text.index("[tenants.operator]") :], encoding="utf-8")
        wait_until(lambda: server.chat(key=KEY).status_code == 401)
        assert server.chat(key=OTHER_KEY).status_code == 200
        path.write_text(path.read_text() + "\n[nonsense", encoding="utf-8")
        wait_until(lambda: server.metric("demur_tenants_rejected") == 1)
        assert server.chat(key=OTHER_KEY).status_code == 200  # the file still names it
        assert server.chat(key=KEY).status_code == 401
        path.write_text(text, encoding="utf-8")
        wait_until(lambda: server.chat(key=KEY).status_code == 200)


def ready(server):
    with server.client() as client:
        return client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "gone", ["deleted", "nonsense", "a folder", "a pipe", "a loop of links", "not to be read"]
)
def test_a_tenants_file_that_is_gone_or_names_nobody_lets_nobody_in(folder, tmp_path, gone):
    path = tenants_file(tmp_path / "tenants.toml")
    text = path.read_text()
    with serving(folder, path) as server:
        assert server.chat(key=KEY).status_code == 200
        if gone == "not to be read" and os.geteuid() == 0:
            pytest.skip("root reads every file")
        path.unlink()
        match gone:
            case "nonsense":
                path.write_text("nonsense")
            case "a folder":
                path.mkdir()
            case "a pipe":
                os.mkfifo(path)
            case "a loop of links":
                path.symlink_to(path)
            case "not to be read":
                path.write_text(text)
                path.chmod(0)
        wait_until(lambda: server.chat(key=KEY).status_code == 401)
        assert server.chat(key=OTHER_KEY).status_code == 401
        assert not ready(server)
        assert server.metric("demur_tenants_rejected") == 1
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_text(text)
        wait_until(lambda: server.chat(key=KEY).status_code == 200)
        assert ready(server)


def test_a_missing_policy_of_another_tenant_does_not_keep_a_key_open(folder, tmp_path):
    path = tenants_file(tmp_path / "tenants.toml")
    with serving(folder, path) as server:
        assert server.chat(key=KEY).status_code == 200
        text = path.read_text().replace('["strict"]', '["absent"]')
        path.write_text(text[text.index("[tenants.operator]") :])
        wait_until(lambda: server.chat(key=KEY).status_code == 401)
        wait_until(lambda: server.metric("demur_tenants_rejected") == 1)
        assert server.chat(key=OTHER_KEY).json()["error"]["code"] == "policy_not_found"


@pytest.mark.parametrize("end", ["", "# end\n"])
def test_a_tenants_file_cut_off_opens_no_expired_key(folder, tmp_path, end):
    """Whatever line it is cut before, and in the order of lines that operators wrote before there
    was an end mark.
    """
    path = tenants_file(tmp_path / "tenants.toml", other_key="expires = 2020-01-01T00:00:00Z")
    path.write_text(path.read_text().rstrip() + "\n" + end)
    whole = path.read_bytes()
    with serving(folder, path) as server:
        assert server.chat(key=OTHER_KEY).json()["error"]["code"] == "expired_api_key"
        registry = server.service.state.registry
        for size in (
            len(whole) - 1,
            *(at for at in range(len(whole)) if whole[at : at + 1] == b"\n"),
        ):
            path.write_bytes(whole[:size])
            registry.reload()
            assert server.chat(key=OTHER_KEY).status_code == 401
            path.write_bytes(whole)
            registry.reload()
            assert server.chat(key=KEY).status_code == 200


HOSTILE = {
    "deep": b"[" * 100_000,
    "deep and whole": b"[" * 900 + b"]" * 900,
    "deep within": b'{"format": "demur.policy/1", "name": ' + b"[" * 900 + b"]" * 900 + b"}",
    "objects": b'{"a":' * 900 + b"1" + b"}" * 900,
    "5,000 digits": b'{"format": ' + b"1" * 5_000 + b"}",
    "4,000 digits": b'{"format": "demur.policy/1", "name": "x", "rule": ' + b"9" * 4_000 + b"}",
    "huge": b'{"format": 1e999999}',
    "nan": b'{"format": NaN}',
    "not utf-8": b"\xff\xfe\xfa",
    "utf-16": '{"format": 1}'.encode("utf-16"),
    "nul": b"\x00" * 64,
    "empty": b"",
    "surrogate": b'{"name": "\\ud800"}',
    "toml digits": b"a = " + b"1" * 5_000,
    "toml deep": b"a = " + b"[" * 5_000,
    "toml date": b"a = 9999-99-99T99:99:99Z",
    "toml keys": b"a." * 5_000 + b"a = 1",
}


@pytest.mark.parametrize("where", ["policies", "tenants"])
@pytest.mark.parametrize("what", HOSTILE)
def test_no_content_of_a_file_ends_reloading_or_keeps_a_revoked_key_open(
    folder, tmp_path, what, where
):
    path = tenants_file(tmp_path / "tenants.toml")
    with serving(folder, path) as server:
        assert server.chat(key=KEY).status_code == 200
        if where == "policies":
            (folder / "default.json").write_bytes(HOSTILE[what])
            (folder / "new.json").write_bytes(HOSTILE[what])
            text = path.read_text()
            path.write_text(text[text.index("[tenants.operator]") :])
            wait_until(lambda: server.metric("demur_policy_faults") == 2)
        else:
            path.write_bytes(HOSTILE[what])
        wait_until(lambda: server.chat(key=KEY).status_code == 401)
        assert server.metric("demur_reload_failing") == 0


def test_an_error_that_nobody_foresaw_makes_the_server_not_ready_and_reloading_goes_on(
    folder, caplog
):
    with serving(folder) as server:
        assert ready(server)
        registry = server.service.state.registry
        registry.reload = lambda: 1 / 0  # a bug of ours
        wait_until(lambda: server.metric("demur_reload_failing") == 1)
        assert not ready(server)
        assert server.chat().status_code == 200
        del registry.reload
        wait_until(lambda: ready(server))
        assert server.metric("demur_reload_failing") == 0
        new = policy(threshold=0.25)
        write_policy(folder / "default.json", new)
        wait_until(lambda: hash_of(server.chat()) == policy_digest(new))
    assert any(r.getMessage() == "crash" and r.fields["task"] == "reload" for r in caplog.records)


def test_a_policy_that_a_tenant_falls_back_on_outlives_its_file(folder, tmp_path):
    with serving(folder, tenants_file(tmp_path / "tenants.toml")) as server:
        (folder / "strict.json").unlink()
        wait_until(lambda: server.metric("demur_policy_faults") == 1)
        assert server.chat(key=OTHER_KEY).status_code == 200


def test_a_server_does_not_start_on_policies_of_another_model_or_on_bad_files(folder, tmp_path):
    backend = FakeBackend(engine=FakeEngine(taxonomy=engine().taxonomy, seed=9))
    for given in (backend.fingerprint, None):
        with pytest.raises(PolicyError, match="another model"):
            Service(ServerSettings(), backend, Access(policies=read_folder(folder, given)))
    (folder / "default.json").write_text("{", encoding="utf-8")
    with pytest.raises(PolicyError, match="damaged"):
        Service(
            ServerSettings(), FakeBackend(engine=engine()), Access(policies=read_folder(folder))
        )


def test_a_server_does_not_start_with_tenants_or_a_default_without_their_policy(folder, tmp_path):
    (folder / "strict.json").unlink()
    backend, policies = FakeBackend(engine=engine()), read_folder(folder)
    tenants = read_tenants(tenants_file(tmp_path / "tenants.toml"))
    with pytest.raises(ConfigError, match="names policy 'strict'"):
        Service(ServerSettings(), backend, Access(policies=policies, tenants=tenants))
    with pytest.raises(ConfigError, match="'strict'"):
        Service(ServerSettings(default_policy="strict"), backend, Access(policies=policies))
