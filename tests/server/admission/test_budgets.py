"""What connections without a key may take of the event loop's time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import httpx
import pytest

from demur.server.admission import budgets
from demur.server.admission.budgets import (
    ACCEPT_S,
    ADDRESS_REST_FACTOR,
    MOST_WAITING,
    AddressBudget,
    AddressBudgets,
)
from demur.server.admission.connection import Connection
from tests.server.admission.test_connection import heard, line_to
from tests.server.live_server import (
    ANSWERED,
    KEY,
    folder_of,
    policy,
    request,
    serving,
    tenants_file,
)
from tests.waiting import wait_until

JSON = {"content-type": "application/json"}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(budgets, "perf_counter", lambda: now[0])
    return now


def test_an_address_rests_longer_than_it_was_served_and_others_do_not(clock):
    one, same, other = (
        (made := AddressBudgets()).connection("a"),
        made.connection("a"),
        made.connection("b"),
    )
    clock[0] += 1.0
    one.charge(0.5)
    assert (one.may_parse, same.may_parse, other.may_parse) == (False, False, True)
    clock[0] += ADDRESS_REST_FACTOR * (0.5 + ACCEPT_S)
    assert one.may_parse
    assert same.may_parse


def test_who_shows_a_key_is_served_and_has_cost_its_address_nothing(clock):
    one, same = (made := AddressBudgets()).connection("a"), made.connection("a")
    clock[0] += 1.0
    one.charge(0.5)
    one.charge_request(0.001, authenticated=True)
    assert one.may_parse
    assert same.may_parse
    one.charge(5.0)
    assert same.may_parse


def test_a_request_without_a_key_that_waited_is_charged_little(clock):
    one = AddressBudgets().connection("a")
    clock[0] += 1.0
    one.charge_request(3600.0, authenticated=False)
    clock[0] += 0.2
    assert one.may_parse


def test_connections_resume_in_turn_and_so_many_may_wait():
    async def scenario():
        address, came = AddressBudget(), []
        address.charge(0.001)
        taken = [address.wait(lambda n=n: came.append(n)) for n in range(MOST_WAITING + 1)]
        assert not address.is_free
        while len(came) < MOST_WAITING:
            await asyncio.sleep(0)
        return taken, came, address.is_free

    taken, came, is_free = asyncio.run(scenario())
    assert taken == [True] * MOST_WAITING + [False]
    assert came == list(range(MOST_WAITING))
    assert is_free


def test_addresses_that_rest_no_more_are_forgotten(clock, monkeypatch):
    monkeypatch.setattr(budgets, "MOST_ADDRESSES", 3)
    made = AddressBudgets()
    kept = made.connection("busy")
    kept.charge(1000.0)
    for n in range(10):
        made.connection(f"a{n}")
        clock[0] += 1.0
    assert len(made.by_address) <= 4
    assert not made.connection("busy").may_parse


@pytest.fixture
def tired(tmp_path):
    """A server; `exhaust` leaves this address no time for unauthenticated connections."""
    with serving(
        folder_of(tmp_path / "policies", policy(), policy("strict")),
        tenants_file(tmp_path / "tenants.toml"),
    ) as made:
        yield made


def exhaust(server):
    for address in server.process.budgets.by_address.values():
        address.charge(1000.0)


def test_an_authenticated_connection_is_served_while_others_of_its_address_wait(tired):
    with (
        tired.client(KEY) as known,
        httpx.Client(base_url=tired.url, trust_env=False, timeout=0.5) as unknown,
    ):
        assert known.post("/v1/chat/completions", json=request(ANSWERED)).status_code == 200
        assert unknown.get("/healthz").status_code == 200
        exhaust(tired)
        with contextlib.suppress(httpx.ReadTimeout):
            pytest.fail(f"it was answered: {unknown.get('/healthz').status_code}")
        assert known.post("/v1/chat/completions", json=request(ANSWERED)).status_code == 200


def test_a_connection_that_shows_its_key_with_a_long_body_is_known_from_then_on(tired):
    body = json.dumps(request("a " * 20_000))
    with tired.client(KEY) as client:
        for _ in range(2):
            assert (
                client.post("/v1/chat/completions", content=body, headers=JSON).status_code == 200
            )
            exhaust(tired)


def test_of_too_many_waiting_connections_the_last_ones_are_closed(tired, monkeypatch):
    monkeypatch.setattr(budgets, "MOST_WAITING", 1)
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
