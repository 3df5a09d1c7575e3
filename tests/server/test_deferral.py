"""What a deferred request gets: a fixed text as its answer, marked apart from answers and
refusals.
"""

import json

import pytest

from tests.server.live_server import (
    ANSWERED,
    REFUSED,
    TEMPLATE,
    folder_of,
    policy,
    request,
    serving,
)
from tests.server.test_declared import tools
from tests.waiting import wait_until

ASKED_BACK = "Could you say what this is for?"
ZURUECKGEFRAGT = "Wofür ist das?"


@pytest.fixture(scope="module", params=["ask", "escalate"])
def action(request):
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory, action):
    # the fake engine is nearly sure of safety: a band that reaches to 1 defers it
    made = policy(
        threshold=1.0,
        defer_threshold=0.3,
        on_defer=action,
        defer_text=ASKED_BACK,
        defer_translations=(("de", ZURUECKGEFRAGT),),
    )
    with serving(folder_of(tmp_path_factory.mktemp("policies"), made)) as running:
        yield running


def test_a_deferral_is_a_fixed_answer_and_says_what_was_done(server, action):
    body = server.chat(REFUSED).json()
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": ASKED_BACK, "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert not any(
        c["filtered"] or c["detected"] for c in choice["content_filter_results"].values()
    )
    note = body["demur"]
    assert (note["decision"], note["category"], note["on_defer"]) == ("defer", "safety", action)
    # nothing was generated
    assert body["usage"]["completion_tokens"] == 0


def test_a_deferral_comes_in_the_callers_language(server):
    with server.client() as client:
        got = client.post(
            "/v1/chat/completions",
            json=request(REFUSED),
            headers={"accept-language": "fr, de-AT;q=0.5"},
        )
    assert got.json()["choices"][0]["message"]["content"] == ZURUECKGEFRAGT


def test_answers_carry_no_word_of_deferral(server):
    note = server.chat(ANSWERED).json()["demur"]
    assert note["decision"] == "respond"
    assert "on_defer" not in note


def test_a_stream_defers_alike(server, action):
    with server.client() as client:
        got = client.post("/v1/chat/completions", json=request(REFUSED, stream=True))
    events = [e.removeprefix("data: ") for e in got.text.split("\n\n") if e]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(e) for e in events[:-1]]
    assert chunks[0]["demur"]["decision"] == "defer"
    assert chunks[0]["demur"]["on_defer"] == action
    deltas = [c["choices"][0] for c in chunks]
    assert "".join(d["delta"].get("content") or "" for d in deltas) == ASKED_BACK
    assert not any(d["delta"].get("refusal") for d in deltas)
    assert deltas[-1]["finish_reason"] == "stop"


def test_every_one_of_several_choices_is_deferred(server):
    choices = server.chat(REFUSED, n=2).json()["choices"]
    assert [c["message"]["content"] for c in choices] == [ASKED_BACK] * 2


def test_deferrals_are_counted_apart(server):
    before = server.metric(
        'demur_decisions_total{tenant="local",policy="default",choice="defer: safety"}'
    )
    names = [
        line
        for line in server.service.state.metrics.render().decode().splitlines()
        if line.startswith("demur_decisions_total")
    ]
    assert any('"defer: safety"' in name for name in names), (before, names)
    assert not any('"safety"' in name for name in names)


def decided(caplog):
    return [r.fields for r in caplog.records if getattr(r, "fields", {}).get("decision")]


def test_the_decision_log_says_defer(server, action, caplog):
    with caplog.at_level("INFO", logger="demur.server"):
        server.chat(REFUSED)
        # the line is written once the response has been sent
        wait_until(lambda: decided(caplog))
    lines = decided(caplog)
    assert (lines[-1]["decision"], lines[-1]["category"], lines[-1]["on_defer"]) == (
        "defer",
        "safety",
        action,
    )


def test_declared_text_defers_and_never_in_place_of_a_refusal(server):
    body = server.chat(ANSWERED, **tools(description=REFUSED)).json()
    assert body["demur"]["decision"] == "defer"
    assert body["demur"]["decided_on"] == "declared"
    assert body["choices"][0]["message"]["content"] == ASKED_BACK


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_conversation_stays_refused_beside_declared_text_that_defers(tmp_path, stream):
    made = policy(threshold=0.5, defer_threshold=0.3, on_defer="ask", defer_text=ASKED_BACK)
    # humanizing refuses at 0.5, safety is deferred up to 1
    made = made.with_thresholds({"safety": 1.0})
    with serving(folder_of(tmp_path / "policies", made)) as running:
        got = running.chat(TEMPLATE, stream=stream, **tools(description=REFUSED))
        assert '"decision":"refuse"' in got.text.replace(" ", "")
        assert ASKED_BACK not in got.text
