"""What both clients of OpenAI-compatible endpoints share, against answers made up here."""

import asyncio
import json

import httpx
import pytest

from demur.base.errors import BackendDown
from demur.engines.remote import upstream
from demur.engines.remote.bounded_read import ReadLimits
from demur.engines.remote.dialect import NEW_LIMIT, Dialect
from demur.engines.remote.http_request import (
    CHAT,
    LONGEST_WAIT_S,
    EndpointRequest,
    RejectedRequest,
    send_request,
)
from demur.engines.remote.upstream import UpstreamClient, UpstreamOptions

ASKED = EndpointRequest(path=CHAT, body={"model": "m", "max_tokens": 3})


class Body(httpx.AsyncByteStream):
    """A body that is read as it comes, like one from the network."""

    def __init__(self, data):
        self.data = data

    async def __aiter__(self):
        yield self.data


def reply(status, data=b"", headers=None):
    return httpx.Response(status, headers=headers or {}, stream=Body(data))


def answer(made, request=ASKED, dialect=None):
    """What `sent` makes of an answer: (the response or TurnedDown, the body that was sent)."""
    bodies = []

    def handler(asked):
        bodies.append(json.loads(asked.content or "null"))
        return made

    async def run():
        transport = httpx.MockTransport(handler)
        async with httpx.AsyncClient(transport=transport, base_url="http://x/v1/") as http:
            try:
                return await send_request(
                    http, request, dialect or Dialect(), ReadLimits(error=100)
                )
            except RejectedRequest as e:
                return e

    return asyncio.run(run()), bodies[0]


def test_the_limit_is_called_what_the_endpoint_calls_it_in_chats_only():
    renamed = Dialect(limit=NEW_LIMIT)
    assert answer(reply(200), dialect=renamed)[1] == {"model": "m", NEW_LIMIT: 3}
    other = EndpointRequest(path="completions", body=ASKED.body)
    assert answer(reply(200), other, renamed)[1] == ASKED.body


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "9999"}, LONGEST_WAIT_S),
        ({"retry-after": "Mon"}, 0.0),
    ],
)
def test_the_wait_that_an_endpoint_asks_for_is_read_and_bounded(headers, seconds):
    assert answer(reply(503, headers=headers))[0].retry_after_s == seconds


def test_a_field_that_is_turned_down_gives_the_dialect_without_it():
    error = json.dumps({"error": {"message": "unsupported", "param": "max_tokens"}}).encode()
    assert answer(reply(400, error))[0].retry_dialect == Dialect(limit=NEW_LIMIT)
    assert answer(reply(400, b"max_tokens is not supported"))[0].retry_dialect == Dialect(
        limit=NEW_LIMIT
    )
    assert answer(reply(500, error))[0].retry_dialect is None


def test_a_refusal_without_json_or_without_end_has_no_error_to_show():
    assert answer(reply(502, b"<html>"))[0].error == ""
    assert answer(reply(502, b"9" * 101))[0].error == ""


def asked_thrice(monkeypatch, after, decide_s=30.0):
    """The waits between the tries of a call that always fails in passing."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr(upstream.asyncio, "sleep", sleep)

    async def run():
        client = UpstreamClient(
            UpstreamOptions(url="http://x/v1", tries=3, backoff_s=0.1, decide_s=decide_s)
        )
        headers = {"retry-after": after} if after else {}
        transport = httpx.MockTransport(lambda _: reply(503, headers=headers))
        client._client = httpx.AsyncClient(transport=transport, base_url="http://x/v1/")
        with pytest.raises(BackendDown):
            await client.post(CHAT, dict(ASKED.body), bytes)
        await client.close()

    asyncio.run(run())
    return waits


def test_a_gateway_waits_as_long_as_it_is_asked_to_and_gives_up_where_its_caller_would(monkeypatch):
    assert asked_thrice(monkeypatch, None) == [0.1, 0.2]
    assert asked_thrice(monkeypatch, "2") == [2.0, 2.0]
    assert asked_thrice(monkeypatch, "2", decide_s=1.0) == []
