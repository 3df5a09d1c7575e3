"""How a server ends, and what signals do, in a process of its own."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from demur.engines.fake.backend import FakeBackend
from demur.server.app import Service
from demur.server.process import run_server
from demur.server.registry import Access
from demur.server.settings import ServerSettings
from demur.store.policies.folder import read_folder
from demur.store.policies.policy_file import policy_digest, write_policy
from tests.server.live_server import ANSWERED, engine, folder_of, policy, request
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "policies", policy())


@contextmanager
def process(folder, delay_s=0.0, **settings):
    """(the process, its address); killed if the test leaves it running."""
    command = [
        sys.executable,
        "-m",
        "tests.server.process",
        str(folder),
        str(delay_s),
        json.dumps(settings),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running, running.stdout.readline().strip()
        finally:
            if running.poll() is None:
                running.kill()


def client_of(url):
    return httpx.Client(base_url=url, trust_env=False, timeout=60)


def streaming(client):
    return client.stream("POST", "/v1/chat/completions", json=request(ANSWERED, stream=True))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_closes_the_door_lets_streams_finish_and_ends_with_0(folder, sign):
    with (
        process(folder, delay_s=0.1) as (running, url),
        client_of(url) as client,
    ):
        with streaming(client) as got:
            pieces = got.iter_text()
            next(pieces)
            running.send_signal(sign)
            wait_until(lambda: refuses(url))
            assert "".join(pieces).endswith("data: [DONE]\n\n")
        assert running.wait(timeout=60) == 0
        lines = [json.loads(line) for line in running.stderr.read().splitlines()]
    assert "stopped" in [line["event"] for line in lines]


def refuses(url):
    try:
        httpx.get(f"{url}/healthz", trust_env=False, timeout=60)
    except httpx.ConnectError:
        return True
    except httpx.ReadError:  # it was in line when the door was closed, and is reset
        pass
    return False


def test_a_stream_that_takes_too_long_is_cut_off_with_an_error(folder):
    with (
        process(folder, 1.0, shutdown_s=0.5) as (running, url),
        client_of(url) as client,
    ):
        with streaming(client) as got:
            pieces = got.iter_text()
            next(pieces)
            running.terminate()
            rest = "".join(pieces)
        assert "[DONE]" not in rest
        assert '"code":"model_unavailable"' in rest
        assert running.wait(timeout=60) == 0


def test_a_hangup_signal_reloads_at_once_and_a_lingering_server_answers_but_is_not_ready(folder):
    with (
        process(folder, reload_s=3600.0, linger_s=1.0) as (running, url),
        client_of(url) as client,
    ):
        new = policy(threshold=0.25)
        write_policy(folder / "default.json", new)
        running.send_signal(signal.SIGHUP)
        ask = {"url": "/v1/chat/completions", "json": request()}
        wait_until(lambda: client.post(**ask).json()["demur"]["policy_hash"] == policy_digest(new))
        assert client.get("/readyz").status_code == 200
        running.terminate()
        wait_until(lambda: client.get("/readyz").status_code == 503)
        assert client.post(**ask).status_code == 200
        assert running.wait(timeout=60) == 0


def test_an_address_that_is_taken_is_an_error_of_the_systems(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServerSettings(port=taken.getsockname()[1])
        service = Service(
            settings, FakeBackend(engine=engine()), Access(policies=read_folder(folder))
        )
        with pytest.raises(OSError, match="in use"):
            run_server(service, lambda address: None)
