"""The attempts against the pre-answer gate: a prompt is scored by what users said in it, and a
refusal calls nobody.
"""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from demur.core.taxonomy import single
from demur.engines.remote.guard_chat import ChatGuard
from tests.engines.chat_stub import completion, events
from tests.engines.chat_stub import serving as stub_serving
from tests.security.attacks import (
    PLAIN,
    in_call_arguments,
    in_developer,
    in_earlier_user,
    in_late_system,
    in_past_answer,
    in_past_refusal,
    in_split_parts,
    in_system,
    in_tool_result,
    in_user,
    in_user_parts,
)
from tests.security.attempt import CANARY, Attempt, chat, user
from tests.security.gate import (
    KINDS,
    MARK,
    HashScorer,
    MarkScorer,
    gate_attempts,
    gate_site,
    unseen,
    what_was_sent,
)
from tests.security.hidden import hidden, unspelled
from tests.security.judge import decided, verdict
from tests.security.site import Site, logged_secrets


def site_of(tmp_path_factory, scorer, script=None, **settings) -> Iterator[Site]:
    with gate_site(tmp_path_factory.mktemp("gate"), scorer, script, **settings) as site:
        yield site


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    yield from site_of(tmp_path_factory, HashScorer())


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    yield from site_of(tmp_path_factory, MarkScorer())


@pytest.fixture(scope="module")
def reads_all(tmp_path_factory):
    yield from site_of(tmp_path_factory, MarkScorer(), reads="all")


def attempts(kind):
    return [a for a in gate_attempts() if a.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_no_attempt_succeeds(gate, kind):
    achieved = {a.name: what for a in attempts(kind) if (what := verdict(gate, a, what_was_sent))}
    assert achieved == {}
    assert logged_secrets(gate.log, CANARY) == []


def test_there_are_hundreds_of_attempts_and_both_decisions_among_them(gate):
    answered = [a for kind in KINDS for a in attempts(kind) if a.reads]
    refused = [decided(gate, a).refuses for a in answered]
    assert len(gate_attempts()) >= 300
    assert min(sum(refused), len(refused) - sum(refused)) >= 30


def test_no_text_is_hidden_in_tools_or_schemas(marked):
    achieved = {a.name: what for a in (*hidden(MARK), *unspelled()) if (what := unseen(marked, a))}
    assert achieved == {}
    assert logged_secrets(marked.log, CANARY) == []


def test_declarations_without_a_hidden_text_are_passed_on(marked):
    statuses = []
    for attempt in hidden("harmless"):
        marked.read.clear()
        statuses.append(marked.send(attempt).status)
        assert bool(marked.read) == (statuses[-1] == 200), attempt.name
    assert statuses.count(200) >= 0.95 * len(statuses)


def asked(site, way):
    """Whether the model behind was asked, with the mark in the place that a way of saying puts
    it.
    """
    body, turns = way(MARK)
    assert verdict(site, Attempt(kind="", name="", body=body, reads=turns), look=_anything) is None
    return bool(site.read)


def _anything(site, attempt):
    yield from ()


@pytest.mark.parametrize(
    "way", [in_user, in_user_parts, in_split_parts, in_earlier_user, in_tool_result]
)
def test_whatever_a_user_says_in_any_turn_counts(marked, way):
    assert not asked(marked, way)


# What docs/security.md says of them: without reads = "all" nothing keeps a client from saying it
# there.
ELSEWHERE = [
    in_system,
    in_developer,
    in_late_system,
    in_past_answer,
    in_past_refusal,
    in_call_arguments,
]


@pytest.mark.parametrize("way", ELSEWHERE)
def test_what_others_say_counts_only_where_the_operator_says_so(marked, reads_all, way):
    body, _ = way(MARK)
    reads_all.read.clear()
    answer = reads_all.send(Attempt(kind="", name="", body=body))
    assert '"decision":"refuse"' in answer.text.replace(" ", "")
    assert reads_all.read == []
    assert asked(marked, way)


@pytest.mark.parametrize(
    "order",
    [
        (user(MARK), user("Go on.")),
        (user(MARK), {"role": "system", "content": "Be kind."}, user("Go on.")),
        (
            {"role": "assistant", "content": "Hi"},
            user(MARK),
            {"role": "assistant", "content": "No."},
            user("Please."),
        ),
        (
            user([{"type": "text", "text": MARK[:4]}, {"type": "text", "text": MARK[4:]}]),
            user("Go on."),
        ),
    ],
    ids=["two in a row", "a system message between", "an answer first", "parts"],
)
def test_no_order_of_turns_hides_an_earlier_one(marked, order):
    marked.read.clear()
    answer = marked.send(Attempt(kind="", name="", body=chat(*order)))
    assert answer.status == 200
    assert '"decision":"refuse"' in answer.text.replace(" ", "")
    assert marked.read == []


@pytest.mark.parametrize("content", ["", " ", "\n", "\u200b"])
def test_nothing_said_is_decided_about_like_anything_else(gate, content):
    attempt = Attempt(kind="", name="", body=chat(user(content)), reads=(("user", content),))
    assert verdict(gate, attempt, what_was_sent) is None


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"stream": True}, {"max_tokens": 1}, {"seed": 1}, {"temperature": 2.0}]
)
def test_no_parameter_moves_the_decision(gate, fields):
    for text in (f"{CANARY} {n}" for n in range(20)):
        attempt = Attempt(
            kind="", name="", body=chat(user(text), **fields), reads=(("user", text),)
        )
        assert verdict(gate, attempt, what_was_sent) is None


def test_plain_requests_are_answered_or_the_rest_would_prove_nothing(marked):
    attempt = Attempt(kind="", name="", body=chat(user()), reads=(PLAIN,))
    assert verdict(marked, attempt, what_was_sent) is None
    assert len(marked.read) == 1


def guarded(tmp_path_factory, probability):
    """A gate whose guard is asked over HTTP: probability(text) is its answer."""

    def guard(number, body):
        p = probability(body["messages"][-1]["content"])
        listed = {"unsafe": p, "safe": 1 - p} if p is not None else {"Well": 0.9, ",": 0.1}
        top = [{"token": t, "logprob": math.log(q)} for t, q in listed.items()]
        return completion(
            "x", logprobs={"content": [{"token": "x", "logprob": 0.0, "top_logprobs": top}]}
        )

    with stub_serving(guard) as (url, stub):
        scorer = ChatGuard(url=url, model="stub-1", tokens=single().tokens, tries=1, timeout_s=5.0)
        for site in site_of(tmp_path_factory, scorer):
            yield site, stub


def test_a_guard_behind_an_endpoint_decides_about_many_at_once(tmp_path_factory):
    for site, stub in guarded(tmp_path_factory, lambda text: 0.9 if "odd" in text else 0.1):
        texts = [f"{n} is {'odd' if n % 2 else 'even'}" for n in range(40)]
        with ThreadPoolExecutor(20) as pool:
            answers = list(
                pool.map(site.send, [Attempt(kind="", name="", body=chat(user(t))) for t in texts])
            )
        refused = [
            '"refuse"' in a.text.replace(" ", "").partition('"decision":')[2][:9] for a in answers
        ]
        assert refused == [n % 2 == 1 for n in range(40)]
        assert len(site.read) == 20
        assert len(stub.bodies) == 40


def test_a_guard_without_a_verdict_lets_nothing_pass(tmp_path_factory):
    for site, _ in guarded(tmp_path_factory, lambda text: None if "odd" in text else 0.1):
        answers = [
            site.send(Attempt(kind="", name="", body=chat(user(t)))) for t in ("odd", "even")
        ]
        assert [a.status for a in answers] == [200, 200]
        assert '"decision":"undecided"' in answers[0].text.replace(" ", "")
        assert len(site.read) == 1
        assert not any("Well" in a.text for a in answers)


@pytest.mark.parametrize(
    "body", [(401, {"error": "no"}), completion("safe")], ids=["another key", "no logprobs"]
)
def test_a_guard_that_is_set_up_wrongly_lets_nothing_pass_and_tells_callers_nothing(
    tmp_path_factory, body
):
    with stub_serving(lambda number, _: body) as (url, _):
        scorer = ChatGuard(url=url, model="secret", tokens=single().tokens, tries=1)
        for site in site_of(tmp_path_factory, scorer):
            answer = site.send(Attempt(kind="", name="", body=chat(user())))
            assert (answer.status, json.loads(answer.text)["error"]["code"]) == (
                503,
                "model_unavailable",
            )
            assert not any(word in answer.text for word in ("secret", "127.0.0.1", "logprobs"))
            assert site.read == []


def test_a_guard_that_is_down_lets_nothing_pass(tmp_path_factory):
    scorer = ChatGuard(
        url="http://127.0.0.1:9/v1", model="g", tokens=single().tokens, tries=1, timeout_s=1.0
    )
    for site in site_of(tmp_path_factory, scorer):
        answer = site.send(Attempt(kind="", name="", body=chat(user())))
        assert (answer.status, json.loads(answer.text)["error"]["code"]) == (
            503,
            "model_unavailable",
        )
        assert "127.0.0.1" not in answer.text
        assert site.read == []


FILTERED = {"error": {"message": f"filtered: {CANARY}", "code": "content_filter"}}
DECLINES = {
    "HTTP 400": (400, FILTERED),
    "finish": events(finish="content_filter"),
    "no choices": [b'data: {"model": "stub-1", "choices": []}\n\n', b"data: [DONE]\n\n"],
    "an error in the stream": [f"data: {json.dumps(FILTERED)}\n\n".encode()],
    "refusal": events({"refusal": "I would rather not."}),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", DECLINES)
def test_a_decline_behind_is_a_decline_for_the_caller(tmp_path_factory, name, stream):
    for site in site_of(tmp_path_factory, MarkScorer(), script=lambda number, body: DECLINES[name]):
        body = chat(user(f"{CANARY} 2"), stream=stream)
        answer = site.send(Attempt(kind="", name="", body=body))
        lines = answer.text.splitlines() if stream else [answer.text]
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines if "{" in line]
        choices = [c["choices"][0] for c in chunks]
        pieces = [c.get("delta") or c.get("message") or {} for c in choices]
        refusal = "".join(p.get("refusal") or "" for p in pieces)
        assert answer.status == 200
        assert refusal
        assert "".join(p.get("content") or "" for p in pieces) == ""
        assert choices[-1]["finish_reason"] == ("stop" if name == "refusal" else "content_filter")
        assert logged_secrets(site.log, CANARY) == []


def test_a_thought_behind_is_passed_on_apart(tmp_path_factory):
    script = events({"reasoning_content": "hm"}, {"content": [{"type": "text", "text": "fine"}]})
    for site in site_of(tmp_path_factory, MarkScorer(), script=lambda number, body: script):
        whole = json.loads(site.send(Attempt(kind="", name="", body=chat(user()))).text)
        assert whole["choices"][0]["message"]["reasoning_content"] == "hm"
        assert whole["choices"][0]["message"]["content"] == "fine"
        streamed = site.send(Attempt(kind="", name="", body=chat(user(), stream=True))).text
        assert '"reasoning_content":"hm"' in streamed.replace(" ", "")
