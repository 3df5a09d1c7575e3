"""demur serve: a run's model and policy behind HTTP, from flags and a settings file."""

import json
import shutil
import signal
import subprocess
import sys

import httpx
import pytest

from demur.assembly.run import reopen
from demur.base.errors import ConfigError, DemurError
from demur.base.files import write_json
from demur.cli.main import load
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.server.start import read_serve_config
from tests.fake_run import examples, prepare


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the fake engine with its default settings, which `--backend fake` makes again."""
    root = tmp_path_factory.mktemp("runs") / "a"
    prepare(root, examples(every=8), FakeEngine(taxonomy=coconot()))
    config = {
        "run": {"name": "a"},
        "taxonomy": {"preset": "coconot"},
        "data": {"sources": [{"kind": "builtin"}]},
    }
    write_json(root / "config.json", config)
    return root


def failing(*arguments):
    """What the caller is told of a server that does not start."""
    with pytest.raises(DemurError) as e:
        load("serve").main([str(a) for a in arguments], standalone_mode=False)
    assert e.value.exit_code == 2
    return str(e.value)


def served(run):
    """What one server says when it starts, what it answers, and its log, until SIGTERM ends it."""
    command = [sys.executable, "-m", "demur", "serve", str(run), "--backend", "fake", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            said = server.stderr.readline()
            url = said.partition(" on ")[2].partition(",")[0]
            with httpx.Client(base_url=url, trust_env=False) as client:
                asked = {
                    "model": "a",
                    "messages": [{"role": "user", "content": "Something about safety."}],
                }
                got = client.post("chat/completions", json=asked).json()
            server.send_signal(signal.SIGTERM)
            out, _ = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0, said
    return said, got, [json.loads(line)["event"] for line in out.splitlines()]


def test_a_run_is_served_without_further_ado_and_ends_with_0(run):
    said, got, events = served(run)
    assert "no key needed" in said
    assert got["demur"]["policy"] == "default"
    assert events == ["listening", "request", "stopped"]


def test_a_run_is_served_again_after_another_calibration(demur, run, tmp_path):
    own = tmp_path / "a"
    shutil.copytree(run, own)
    hashes = []
    for goal in ("false_refusal <= 0.5", "false_refusal <= 0.4"):
        assert demur("calibrate", own, "--goal", goal).code == 0
        _, got, _ = served(own)
        assert got["demur"]["promises"] == "certified"
        hashes.append(got["demur"]["policy_hash"].removeprefix("sha256:")[:12])
    assert hashes[0] != hashes[1]
    assert {p.name for p in (own / "watch").glob("*.json")} == {f"live-{h}.json" for h in hashes}


def test_policies_of_another_model_are_one_message_and_exit_code_2(run, tmp_path):
    other = tmp_path / "other.json"
    text = json.loads((run / "calibrate" / "policy.json").read_text())
    text["fingerprint"]["model_digest"] = "sha256:0"
    other.write_text(json.dumps(text))
    assert "made for another model: model_digest" in failing(
        run, "--backend", "fake", "--policies", other
    )


def test_a_run_that_is_to_be_watched_must_hold_scores(run, tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text('[files]\nwatch = ["nowhere"]\n')
    assert "nowhere/score is not finished" in failing(run, "--backend", "fake", "--config", path)


def test_an_open_address_without_tenants_is_refused(run):
    assert "without a tenants file" in failing(run, "--backend", "fake", "--host", "0.0.0.0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[servr]\n", "servr: unknown table"),
        ("[server]\nprot = 1\n", "did you mean 'port'"),
        ("[limits]\nbody_bytes = 0\n", "body_bytes"),
        ("[server]\non_doubt = 'hope'\n", "on_doubt"),
        ("[server]\nhost = '0.0.0.0'\nopen_metrics = true\n", "open_metrics"),
        ("[files]\ntenant = 'x'\n", "did you mean 'tenants'"),
    ],
)
def test_a_settings_file_at_fault_is_named(run, tmp_path, text, message):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as e:
        read_serve_config(path, reopen(run), {})
    assert message in str(e.value)


def test_flags_win_over_the_file_and_the_file_over_defaults(run, tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(
        '[server]\nport = 9\nmodel = "m"\n[files]\npolicies = "p"\n[backend]\nkind = "vllm"\n'
    )
    given = {"server": {"port": 7}, "backend": {"url": "http://127.0.0.1:1/v1"}}
    told = read_serve_config(path, reopen(run), given)
    assert (told.settings.port, told.settings.model, told.settings.host) == (7, "m", "127.0.0.1")
    assert told.files.policies == tmp_path / "p"
    assert told.backend == {"kind": "vllm", "url": "http://127.0.0.1:1/v1"}


@pytest.mark.parametrize(
    "flags", [("--backend", "vllm"), ("--url", "http://127.0.0.1:1/v1")], ids=str
)
def test_a_remote_backend_and_a_url_belong_together(run, flags):
    assert "--url" in failing(run, *flags)
