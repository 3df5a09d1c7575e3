"""What connections without a key may take of the event loop's time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import httpx
import pytest

from demur.server.admission import sources
from demur.server.admission.connection import Connection
from demur.server.admission.sources import ACCEPT_S, MOST_WAITING, STRANGERS_REST, Source, Sources
from tests.server.admission.test_connection import heard, line_to
from tests.server.house import ANSWERED, KEY, folder_of, policy, request, serving, tenants_file
from tests.waiting import wait_until

JSON = {"content-type": "application/json"}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sources, "perf_counter", lambda: now[0])
    return now


def test_an_address_rests_longer_than_it_was_served_and_others_do_not(clock):
    one, same, other = (made := Sources()).guest("a"), made.guest("a"), made.guest("b")
    clock[0] += 1.0
    one.charge(0.5)
    assert (one.may_speak, same.may_speak, other.may_speak) == (False, False, True)
    clock[0] += STRANGERS_REST * (0.5 + ACCEPT_S)
    assert one.may_speak
    assert same.may_speak


def test_who_shows_a_key_is_served_and_has_cost_its_address_nothing(clock):
    one, same = (made := Sources()).guest("a"), made.guest("a")
    clock[0] += 1.0
    one.charge(0.5)
    one.answered(0.001, let_in=True)
    assert one.may_speak
    assert same.may_speak
    one.charge(5.0)
    assert same.may_speak


def test_a_request_without_a_key_that_waited_is_charged_little(clock):
    one = Sources().guest("a")
    clock[0] += 1.0
    one.answered(3600.0, let_in=False)
    clock[0] += 0.2
    assert one.may_speak


def test_strangers_come_in_turn_and_so_many_may_wait():
    async def scenario():
        source, came = Source(), []
        source.charge(0.001)
        taken = [source.wait(lambda n=n: came.append(n)) for n in range(MOST_WAITING + 1)]
        assert not source.is_free
        while len(came) < MOST_WAITING:
            await asyncio.sleep(0)
        return taken, came, source.is_free

    taken, came, is_free = asyncio.run(scenario())
    assert taken == [True] * MOST_WAITING + [False]
    assert came == list(range(MOST_WAITING))
    assert is_free


def test_addresses_that_rest_no_more_are_forgotten(clock, monkeypatch):
    monkeypatch.setattr(sources, "FORGOTTEN", 3)
    made = Sources()
    kept = made.guest("busy")
    kept.charge(1000.0)
    for n in range(10):
        made.guest(f"a{n}")
        clock[0] += 1.0
    assert len(made.by_address) <= 4
    assert not made.guest("busy").may_speak


@pytest.fixture
def tired(tmp_path):
    """A server at which this address has no time left for strangers."""
    with serving(
        folder_of(tmp_path / "policies", policy(), policy("strict")),
        tenants_file(tmp_path / "tenants.toml"),
    ) as made:
        yield made


def exhaust(server):
    for source in server.process.sources.by_address.values():
        source.charge(1000.0)


def test_a_connection_that_has_shown_a_key_is_served_while_strangers_of_its_address_wait(tired):
    with (
        tired.client(KEY) as known,
        httpx.Client(base_url=tired.url, trust_env=False, timeout=0.5) as stranger,
    ):
        assert known.post("/v1/chat/completions", json=request(ANSWERED)).status_code == 200
        assert stranger.get("/healthz").status_code == 200
        exhaust(tired)
        with contextlib.suppress(httpx.ReadTimeout):
            pytest.fail(f"it was answered: {stranger.get('/healthz').status_code}")
        assert known.post("/v1/chat/completions", json=request(ANSWERED)).status_code == 200


def test_a_connection_that_shows_its_key_with_a_long_body_is_known_from_then_on(tired):
    body = json.dumps(request("a " * 20_000))
    with tired.client(KEY) as client:
        for _ in range(2):
            assert (
                client.post("/v1/chat/completions", content=body, headers=JSON).status_code == 200
            )
            exhaust(tired)


def test_of_too_many_strangers_the_last_ones_are_hung_up_on(tired, monkeypatch):
    monkeypatch.setattr(sources, "MOST_WAITING", 1)
    waits = threading.Event()
    original = Connection._await_turn

    def noted(self):
        original(self)
        waits.set()

    monkeypatch.setattr(Connection, "_await_turn", noted)
    with line_to(tired) as first:
        wait_until(lambda: tired.process.server_state.connections)
        exhaust(tired)
        first.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert waits.wait(60)
        with line_to(tired) as second:
            second.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert heard(second) == b""
