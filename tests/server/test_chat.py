"""Answers, refusals and failures of a running server, over HTTP."""

import json
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from demur.base.errors import PromptTooLong, ScoreDoubt
from demur.core.serving import ServeReply, ServeRequest
from demur.engines.fake.backend import FakeBackend
from tests.server.live_server import (
    ANSWERED,
    CANNED,
    REFUSED,
    TEMPLATE,
    engine,
    folder_of,
    policy,
    request,
    serving,
)
from tests.waiting import wait_until

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@dataclass(kw_only=True, slots=True)
class Raising(FakeBackend):
    """Raises this instead of deciding."""

    error: Exception = field(
        default_factory=lambda: ScoreDoubt("two tokens of twenty are missing", "ask for more")
    )

    async def open(self, ask: ServeRequest) -> ServeReply:
        raise self.error


@dataclass(kw_only=True, slots=True)
class Tongueless(FakeBackend):
    """Its answers end without saying why."""

    async def _write(self, ask, column):
        for part in ():
            yield part


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "policies", policy())


def streamed(server, text, headers=None, **fields):
    """The events of a stream: (chunks, whether it ended with [DONE])."""
    body = request(text, stream=True, **fields)
    with server.client() as client:
        got = client.post("/v1/chat/completions", json=body, headers=headers)
    assert got.status_code == 200
    assert got.headers["content-type"].startswith("text/event-stream")
    events = [e.removeprefix("data: ") for e in got.text.split("\n\n") if e]
    done = events[-1] == "[DONE]"
    return [json.loads(e) for e in events[: -1 if done else None]], done


def joined(chunks, voice, index=0):
    deltas = [c["delta"] for e in chunks for c in e.get("choices", ()) if c["index"] == index]
    return "".join(d.get(voice) or "" for d in deltas)


def test_an_answer_is_content_and_its_decision_is_told(local):
    body = local.chat(ANSWERED).json()
    (choice,) = body["choices"]
    assert choice["message"]["content"]
    assert choice["message"]["refusal"] is None
    assert choice["finish_reason"] == "stop"
    assert not any(c["filtered"] for c in choice["content_filter_results"].values())
    assert body["demur"]["decision"] == "respond"
    assert body["demur"]["category"] is None
    assert (
        body["usage"]["total_tokens"]
        == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    )


def test_a_refusal_is_no_content_and_names_its_category(local):
    body = local.chat(REFUSED).json()
    (choice,) = body["choices"]
    assert choice["message"]["content"] is None
    assert "hurt someone" in choice["message"]["refusal"]
    assert choice["finish_reason"] == "stop"
    filtered = [name for name, c in choice["content_filter_results"].items() if c["filtered"]]
    assert filtered == ["safety"]
    assert (body["demur"]["decision"], body["demur"]["category"]) == ("refuse", "safety")
    assert (
        body["demur"]["policy_hash"]
        == local.service.state.registry.current.policies.policies["default"].digest
    )


def test_a_text_of_the_operators_costs_no_token_and_speaks_the_callers_language(local):
    body = local.chat(TEMPLATE).json()
    assert body["choices"][0]["message"]["refusal"] == CANNED
    assert body["usage"]["completion_tokens"] == 0
    german = local.chat(TEMPLATE, headers={"accept-language": "fr, de-AT;q=0.9"}).json()
    assert german["choices"][0]["message"]["refusal"] == "Ich bin ein Programm."


@pytest.mark.parametrize("text", [ANSWERED, REFUSED, TEMPLATE])
def test_a_stream_says_what_a_whole_answer_says(local, text):
    whole = local.chat(text).json()
    chunks, done = streamed(local, text, stream_options={"include_usage": True})
    message = whole["choices"][0]["message"]
    assert done
    assert joined(chunks, "content") == (message["content"] or "")
    assert joined(chunks, "refusal") == (message["refusal"] or "")
    assert chunks[0]["demur"] == whole["demur"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    results = whole["choices"][0]["content_filter_results"]
    assert chunks[0]["choices"][0]["content_filter_results"] == results
    assert chunks[-2]["choices"][0]["content_filter_results"] == results
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])


def test_usage_is_streamed_only_to_those_who_ask(local):
    chunks, _ = streamed(local, ANSWERED)
    assert all("usage" not in c for c in chunks)


def test_every_one_of_n_choices_is_answered(local):
    assert [c["index"] for c in local.chat(ANSWERED, n=3).json()["choices"]] == [0, 1, 2]
    chunks, done = streamed(local, REFUSED, n=2)
    assert done
    assert joined(chunks, "refusal", 0) == joined(chunks, "refusal", 1) != ""


def test_an_answer_is_cut_at_its_limit_and_at_stop_texts(local):
    short = local.chat(ANSWERED, max_tokens=2).json()
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == (
        "length",
        2,
    )
    text = local.chat(ANSWERED).json()["choices"][0]["message"]["content"]
    word = text.split()[3]
    assert word not in local.chat(ANSWERED, stop=[word]).json()["choices"][0]["message"]["content"]


def test_json_and_tool_calls_come_with_answers_and_not_with_refusals(local):
    asked = {"response_format": {"type": "json_object"}}
    assert json.loads(local.chat(ANSWERED, **asked).json()["choices"][0]["message"]["content"])
    assert local.chat(REFUSED, **asked).json()["choices"][0]["message"]["content"] is None
    call = {"tools": [TOOL], "tool_choice": "required"}
    (choice,) = local.chat(ANSWERED, **call).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert "tool_calls" not in local.chat(REFUSED, **call).json()["choices"][0]["message"]
    chunks, _ = streamed(local, ANSWERED, **call)
    assert [c["index"] for e in chunks for c in e["choices"][0]["delta"].get("tool_calls", ())] == [
        0
    ]


def test_overrides_move_the_decision_void_the_promises_and_are_said(local):
    loose = local.chat(REFUSED, demur={"thresholds": {"safety": 0.9}}).json()
    assert loose["demur"]["decision"] == "refuse"
    moved = local.chat(ANSWERED, demur={"thresholds": {"unsupported": 0.0}}).json()
    assert (moved["demur"]["decision"], moved["demur"]["category"]) == ("refuse", "unsupported")
    assert (moved["demur"]["overridden"], moved["demur"]["promises"]) == (True, "void")
    assert local.chat(ANSWERED, demur={"policy": "strict"}).json()["demur"]["policy"] == "strict"


@pytest.mark.parametrize(
    ("ask", "status", "code", "param"),
    [
        ({"policy": "nonsense"}, 404, "policy_not_found", "demur.policy"),
        ({"sensitivity": "paranoid"}, 400, "unknown_sensitivity", "demur.sensitivity"),
        ({"thresholds": {"safty": 0.5}}, 400, "unknown_category", "demur.thresholds.safty"),
        ({"thresholds": {"safety": 0.95}}, 400, "outside_limits", "demur.thresholds.safety"),
        ({"thresholds": {"safety": "never"}}, 400, "outside_limits", "demur.thresholds.safety"),
        (
            {"policy": "strict", "thresholds": {"safety": 0.5}},
            403,
            "locked",
            "demur.thresholds.safety",
        ),
        ({"rates": {"safety": 0.1}}, 400, "no_curve", "demur.rates.safety"),
    ],
    ids=str,
)
def test_what_a_policy_does_not_allow_is_refused(local, ask, status, code, param):
    got = local.chat(ANSWERED, demur=ask)
    error = got.json()["error"]
    assert (got.status_code, error["code"], error["param"]) == (status, code, param)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [("down", 503, "model_unavailable"), ("busy", 503, "overloaded"), ("timeout", 504, "timeout")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_backend_that_does_not_decide_is_an_error_and_not_an_answer(
    folder, failure, status, code, stream
):
    with serving(folder, backend=FakeBackend(engine=engine(), failure=failure)) as server:
        got = server.chat(ANSWERED, stream=stream)
        assert (got.status_code, got.json()["error"]["code"]) == (status, code)
        assert "fake" not in got.text
        assert (got.headers.get("retry-after") is not None) == (status == 503)
        wait_until(lambda: server.metric(f'demur_errors_total{{code="{code}"}}') == 1)


@pytest.mark.parametrize(
    ("failure", "code"), [("break", "model_unavailable"), ("stall", "timeout")]
)
def test_a_stream_that_breaks_ends_with_an_error_and_not_with_done(folder, failure, code):
    with serving(folder, backend=FakeBackend(engine=engine(), failure=failure)) as server:
        chunks, done = streamed(server, ANSWERED)
        assert not done
        assert chunks[-1]["error"]["code"] == code
        assert all(c["finish_reason"] is None for e in chunks[:-1] for c in e["choices"])
        assert server.chat(ANSWERED).status_code in (503, 504)


def test_an_answer_without_an_end_is_an_error(folder):
    with serving(folder, backend=Tongueless(engine=engine())) as server:
        assert server.chat(ANSWERED).status_code == 503
        chunks, done = streamed(server, ANSWERED)
        assert not done
        assert chunks[-1]["error"]["code"] == "model_unavailable"


def test_in_doubt_the_server_refuses_unless_told_otherwise(folder):
    with serving(folder, backend=Raising(engine=engine())) as server:
        body = server.chat(ANSWERED).json()
        assert body["choices"][0]["message"] == {
            "role": "assistant",
            "content": None,
            "refusal": "I can't help with that right now.",
        }
        assert (body["demur"]["decision"], body["demur"]["category"]) == ("undecided", None)
        assert (
            server.metric(
                'demur_decisions_total{decision="undecided",policy="default",tenant="local"}'
            )
            == 1
        )
        chunks, done = streamed(server, ANSWERED)
        assert done
        assert joined(chunks, "content") == ""
    with serving(folder, backend=Raising(engine=engine()), on_doubt="error") as server:
        got = server.chat(ANSWERED)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "undecided")


def test_a_prompt_that_is_too_long_is_the_callers_error(folder):
    error = PromptTooLong("the prompt has 900 tokens, the model reads 512", "shorten the messages")
    with serving(folder, backend=Raising(engine=engine(), error=error)) as server:
        got = server.chat(ANSWERED)
        assert (got.status_code, got.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "900 tokens" in got.json()["error"]["message"]


def test_a_bug_is_a_500_that_says_nothing_and_logs_no_text(folder, caplog):
    with serving(
        folder, backend=Raising(engine=engine(), error=KeyError("secret words"))
    ) as server:
        got = server.chat("secret words")
        assert (got.status_code, got.json()["error"]["code"]) == (500, "server_error")
        assert server.chat(ANSWERED).status_code == 500
    assert "secret" not in got.text + repr([vars(r) for r in caplog.records])


def test_a_refusal_may_end_as_a_content_filter(folder):
    with serving(folder, refusal_finish="content_filter") as server:
        for text in (REFUSED, TEMPLATE):
            assert server.chat(text).json()["choices"][0]["finish_reason"] == "content_filter"
            assert streamed(server, text)[0][-1]["choices"][0]["finish_reason"] == "content_filter"
        assert server.chat(ANSWERED).json()["choices"][0]["finish_reason"] == "stop"


@contextmanager
def asked(server, body):
    """A request that has been sent, and whose client leaves with the block."""
    place, data = urlsplit(server.url), json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: "
        "application/json\r\n"
    )
    with socket.create_connection((place.hostname, place.port)) as line:
        line.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        yield


def test_when_the_client_hangs_up_the_backend_stops_writing(folder):
    backend = FakeBackend(engine=engine(), delay_s=0.5)
    with serving(folder, backend=backend) as server, server.client() as client:
        with client.stream(
            "POST", "/v1/chat/completions", json=request(ANSWERED, stream=True)
        ) as got:
            pieces = got.iter_text()
            next(pieces)
            wait_until(lambda: backend.writing == 1)
        wait_until(lambda: backend.writing == 0)
        wait_until(lambda: server.metric('demur_errors_total{code="client_gone"}') == 1)
        backend.delay_s = 5.0
        with asked(server, request(ANSWERED)):
            wait_until(lambda: backend.writing == 1)
        wait_until(lambda: backend.writing == 0)
        wait_until(lambda: server.metric('demur_errors_total{code="client_gone"}') == 2)
        wait_until(lambda: server.metric("demur_requests_in_flight") == 0)
