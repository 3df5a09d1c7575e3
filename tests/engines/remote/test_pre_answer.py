"""The pre-answer gate over real HTTP: what it sends, what it never sends, what it makes of answers,
how it fails.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from demur.base.errors import (
    BackendBusy,
    BackendDown,
    BackendError,
    BackendTimeout,
    EngineError,
    PolicyError,
    PromptTooLong,
    ScoreDoubt,
    ScoreError,
)
from demur.core.decision import decide_many
from demur.core.example import Message
from demur.core.policy import CategoryPolicy, Policy
from demur.core.ports import Prompt, no_progress
from demur.core.predictor import predictor_fingerprint, predictor_scores, prompt_text
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import single
from demur.engines.remote.pre_answer import REFUSAL, GateSettings, PreAnswerBackend
from demur.engines.remote.upstream import UpstreamOptions
from tests.engines.chat_stub import completion, events, serving

QUICK = {"backoff_s": 0.01}
HASTY = {"first_token_s": 0.4, "stall_s": 0.4}
HELLO = (Message(role="user", content="Hello."),)
LOCKS = (Message(role="user", content="How do I pick locks?"),)
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@dataclass
class WordScorer:
    """Says 0.9 where the word "locks" is read, else 0.1; may fail or take its time."""

    fails: Exception | None = None
    calls: int = 0

    @property
    def fingerprint(self):
        return predictor_fingerprint("a" * 64, single().tokens, "prompts")

    def logp(self, prompts: Sequence[Prompt], progress=no_progress):
        self.calls += 1
        if self.fails is not None and any("bad" in prompt_text(p) for p in prompts):
            raise self.fails
        return predictor_scores([0.9 if "locks" in prompt_text(p) else 0.1 for p in prompts])


def policy(on_refuse="generate", threshold=0.5, scorer=None):
    return Policy(
        name="p",
        taxonomy=single(),
        rule="heaviest",
        categories=(CategoryPolicy(threshold=threshold, on_refuse=on_refuse),),
        fingerprint=(scorer or WordScorer()).fingerprint,
    )


def ask(messages=HELLO, **fields):
    return ServeRequest(
        **{"messages": messages, "policy": policy(), "policy_digest": "d", **fields}
    )


def run(script, *asks, scorer=None, options=None, **settings):
    """[(reply, parts or the error)] of asks made at once, and the stub that saw the calls."""
    with serving(script) as (url, stub):
        backend = PreAnswerBackend(
            upstream=UpstreamOptions(url=url, **QUICK | (options or {})),
            settings=GateSettings(**{"model": "stub-1", **settings}),
            scorer=scorer or WordScorer(),
        )
        return asyncio.run(_gathered(backend, asks)), stub


async def _gathered(backend, asks):
    async def one(asked):
        try:
            reply = await backend.open(asked)
            return reply, [p async for p in reply.parts]
        except Exception as e:  # noqa: BLE001 - the test looks at it
            return None, e

    try:
        return await asyncio.gather(*map(one, asks))
    finally:
        await backend.close()


def answering(*deltas, **fields):
    return lambda number, body: events(*deltas, **fields)


def text_of(parts):
    return "".join(p.text for p in parts)


def test_a_refused_prompt_makes_no_call_at_all():
    found, stub = run(answering("no"), ask(LOCKS), ask(LOCKS, policy=policy("Not here.")))
    (one, written), (silent, nothing) = found
    assert (len(stub.bodies), stub.looks) == (0, 0)
    assert one.decision.refuses
    assert (text_of(written), written[-1].finish, written[-1].tokens) == (REFUSAL, "stop", 0)
    assert silent.decision.refuses
    assert nothing == []


def test_the_words_of_a_refusal_are_the_operators():
    found, _ = run(answering("no"), ask(LOCKS), refusal="We do not talk about that.")
    assert text_of(found[0][1]) == "We do not talk about that."


def test_an_answer_is_the_models_own_with_its_exact_tokens():
    ((reply, parts),), stub = run(
        answering("Good ", "morning", "."), ask(sampling=Sampling(max_tokens=9, seed=4))
    )
    assert not reply.decision.refuses
    assert (text_of(parts), parts[-1].finish) == ("Good morning.", "stop")
    assert sum(p.tokens for p in parts) == 10
    assert parts[-1].prompt_tokens == 100
    assert stub.bodies == [
        {
            "model": "stub-1",
            "messages": [{"role": "user", "content": "Hello."}],
            "max_tokens": 9,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": 4,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_without_usage_a_token_is_counted_an_event():
    ((_, parts),), _ = run(answering("a", "b", usage=None), ask())
    assert sum(p.tokens for p in parts) == 2
    assert parts[-1].prompt_tokens is None


def test_the_decision_is_that_of_decide_many_on_the_same_scores():
    prompts = [
        (Message(role="user", content=f"{'locks ' * (n % 3)} number {n}"),) for n in range(30)
    ]
    found, stub = run(answering("fine"), *map(ask, prompts))
    wanted = decide_many(policy(), WordScorer().logp(prompts))
    assert [r.decision.column for r, _ in found] == wanted.choice_N.tolist()
    assert np.array_equal(np.stack([r.logp_C for r, _ in found]), WordScorer().logp(prompts))
    assert len(stub.bodies) == int((wanted.choice_N == 0).sum())


def test_requests_that_come_together_are_scored_together():
    scorer = WordScorer()
    found, _ = run(answering("fine"), *[ask()] * 40, scorer=scorer)
    assert all(text_of(parts) == "fine" for _, parts in found)
    assert scorer.calls <= 2


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_tools_are_passed_on_and_left_to_the_model(choice, sent):
    ((_, parts),), stub = run(answering("It rains."), ask(tools=(TOOL,), tool_choice=choice))
    assert stub.bodies[0]["tools"] == [TOOL]
    assert stub.bodies[0]["tool_choice"] == sent
    assert text_of(parts) == "It rains."
    assert parts[-1].tool_calls == ()


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_calls_that_come_in_pieces_are_handed_out_whole(finish):
    pieces = (
        {
            "tool_calls": [
                {"index": 0, "id": "call_7", "type": "function", "function": {"name": "weather"}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "call_8", "function": {"name": "weather", "arguments": "{}"}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
    )
    ((_, parts),), _ = run(
        answering(*pieces, finish=finish), ask(tools=(TOOL,), tool_choice="auto")
    )
    assert parts[-1].finish == "tool_calls"
    assert parts[-1].tool_calls == (
        {
            "id": "call_7",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
        },
        {"id": "call_8", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    )


def test_a_call_that_was_cut_short_is_none():
    piece = {
        "tool_calls": [
            {"index": 0, "id": "c", "function": {"name": "weather", "arguments": '{"ci'}}
        ]
    }
    ((_, parts),), _ = run(
        answering(piece, finish="length"), ask(tools=(TOOL,), tool_choice="auto")
    )
    assert (parts[-1].finish, parts[-1].tool_calls) == ("length", ())


def test_a_call_of_nothing_is_a_fault_of_the_endpoint():
    piece = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    ((_, error),), _ = run(answering(piece), ask(tools=(TOOL,), tool_choice="auto"))
    assert isinstance(error, BackendDown)


def test_whole_calls_without_numbers_are_two_calls():
    calls = [{"function": {"name": "weather", "arguments": "{}"}}] * 2
    ((_, parts),), _ = run(answering({"tool_calls": calls}), ask(tools=(TOOL,), tool_choice="auto"))
    assert len(parts[-1].tool_calls) == 2
    assert len({c["id"] for c in parts[-1].tool_calls}) == 2


@pytest.mark.parametrize(
    ("schema", "sent"),
    [({}, {"type": "json_object"}), ({"type": "object"}, {"type": "json_schema"})],
)
def test_json_formats_are_passed_on(schema, sent):
    _, stub = run(answering("{}"), ask(json_schema=schema))
    assert sent.items() <= stub.bodies[0]["response_format"].items()


def test_a_refusal_of_the_models_own_is_its_answer():
    ((reply, parts),), _ = run(answering({"refusal": "I would rather not."}), ask())
    assert not reply.decision.refuses
    assert (text_of(parts), "".join(p.refusal for p in parts)) == ("", "I would rather not.")


def test_an_answer_that_the_endpoints_filter_ends_has_ended():
    ((_, parts),), _ = run(answering("Well", finish="content_filter"), ask())
    assert (text_of(parts), parts[-1].refusal, parts[-1].finish) == ("Well", "", "content_filter")


def test_earlier_turns_are_scored_but_only_the_users_unless_all_are_read():
    late = (*LOCKS, Message(role="assistant", content="No."), *HELLO)
    system = (Message(role="system", content="Explain locks."), *HELLO)
    past = (*HELLO, Message(role="assistant", content="To open locks, take"), *HELLO)
    found, _ = run(answering("fine"), ask(late), ask(system), ask(past))
    assert [r.decision.refuses for r, _ in found] == [True, False, False]
    found, stub = run(answering("fine"), ask(late), ask(system), ask(past), ask(), reads="all")
    assert [r.decision.refuses for r, _ in found] == [True, True, True, False]
    assert len(stub.bodies) == 1


def test_messages_reach_the_model_as_they_are():
    said = (
        Message(role="system", content="[respond] <|im_end|>"),
        Message(role="user", content="[refuse]"),
    )
    _, stub = run(answering("fine"), ask(said))
    assert stub.bodies[0]["messages"] == [
        {"role": "system", "content": "[respond] <|im_end|>"},
        {"role": "user", "content": "[refuse]"},
    ]


def test_a_policy_of_another_scorer_is_refused_before_anything_is_scored():
    other = replace(
        policy(), fingerprint=predictor_fingerprint("b" * 64, single().tokens, "prompts")
    )
    ((_, error),), stub = run(answering("fine"), ask(policy=other))
    assert isinstance(error, PolicyError)
    assert stub.bodies == []


@pytest.mark.parametrize("error", [ScoreDoubt("who knows"), PromptTooLong("long")])
def test_what_one_prompt_does_to_the_scorer_is_not_the_others_fault(error):
    bad = (Message(role="user", content="bad"),)
    found, stub = run(
        answering("fine"), ask(), ask(bad), ask(LOCKS), scorer=WordScorer(fails=error)
    )
    assert found[1][1] is error
    assert [text_of(parts) for _, parts in (found[0], found[2])] == ["fine", REFUSAL]
    assert len(stub.bodies) == 1


def test_a_scorer_that_gives_no_score_is_in_doubt():
    bad = (Message(role="user", content="bad"),)
    found, stub = run(answering("fine"), ask(bad), scorer=WordScorer(fails=ScoreError("NaN")))
    assert isinstance(found[0][1], ScoreDoubt)
    assert stub.bodies == []


def test_a_scorer_with_a_bug_lets_nothing_pass():
    bad = (Message(role="user", content="bad"),)
    found, stub = run(
        answering("fine"), ask(bad), scorer=WordScorer(fails=ZeroDivisionError("bug"))
    )
    assert isinstance(found[0][1], BackendDown)
    assert stub.bodies == []


def test_a_scorer_that_is_too_slow_lets_nothing_pass():
    go_on = threading.Event()

    class Slow(WordScorer):
        def logp(self, prompts, progress=no_progress):
            go_on.wait(60)
            return WordScorer.logp(self, prompts)

    ((_, error),), stub = run(answering("fine"), ask(), scorer=Slow(), options={"decide_s": 0.1})
    go_on.set()
    assert isinstance(error, BackendTimeout)
    assert stub.bodies == []


ANSWER = events("Good ", "morning", ".")
FAILURES = {
    "busy": ((429, {}), BackendBusy),
    "key": ((401, {}), BackendDown),
    "gone": ((404, {}), BackendDown),
    "broken": ((500, {"error": "secret upstream words"}), BackendDown),
    "gateway timeout": ((504, {}), BackendTimeout),
    "refuses the request": ((400, {"error": "secret upstream words"}), EngineError),
    "no JSON": ([b"data: <html>\n\n"], BackendDown),
    "no stream": ("{}", BackendDown),
    "wrong shape": ([b'data: {"model": "stub-1", "choices": 3}\n\n'], BackendDown),
    "breaks off": (ANSWER[:2], BackendDown),
    "no finish": (events("Good", finish=None), BackendDown),
    "no DONE": (events("Good", done=False), BackendDown),
    "an error in mid-stream": (
        [*ANSWER[:1], b'data: {"error": {"message": "secret"}}\n\n'],
        BackendDown,
    ),
    "aborts": (events("Good", finish="abort"), BackendDown),
    "another model": (events("Good", model="stub-2"), BackendDown),
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_behind_is_a_typed_one(name):
    body, kind = FAILURES[name]
    ((_, error),), _ = run(lambda number, _: body, ask(), answers_as="stub-1")
    assert isinstance(error, kind)
    assert isinstance(error, BackendError) == (kind is not EngineError)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "body", [[5.0, *ANSWER], [*ANSWER[:1], 5.0, *ANSWER[1:]]], ids=["at first", "later"]
)
def test_an_endpoint_that_stalls_is_not_waited_for(body):
    ((_, error),), _ = run(lambda number, _: body, ask(), options=HASTY)
    assert isinstance(error, BackendTimeout)


def test_nobody_there_is_a_typed_failure_too():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    options = UpstreamOptions(url=f"http://127.0.0.1:{port}/v1", **QUICK)
    backend = PreAnswerBackend(
        upstream=options, settings=GateSettings(model="m"), scorer=WordScorer()
    )
    found = asyncio.run(_gathered(backend, (ask(), ask(LOCKS))))
    assert isinstance(found[0][1], BackendDown)
    assert text_of(found[1][1]) == REFUSAL


def test_a_model_that_changes_its_name_is_another_model():
    names = iter(("stub-1-may", "stub-1-june"))

    def script(number, body):
        return events("fine", model=next(names))

    async def two(backend):
        return [await _gathered_open(backend), await _gathered_open(backend)]

    with serving(script) as (url, _):
        backend = PreAnswerBackend(
            upstream=UpstreamOptions(url=url, **QUICK),
            settings=GateSettings(model="stub-1"),
            scorer=WordScorer(),
        )
        first, second = asyncio.run(two(backend))
    assert first == "fine"
    assert isinstance(second, BackendDown)


async def _gathered_open(backend):
    try:
        return text_of([p async for p in (await backend.open(ask())).parts])
    except BackendDown as e:
        return e


def test_it_is_ready_when_the_scorer_scores_and_the_model_is_served():
    async def ready(backend):
        try:
            await backend.ready()
        except EngineError as e:
            return e
        finally:
            await backend.close()
        return None

    with serving(answering("fine")) as (url, stub):

        def gate(model="stub-1", scorer=None):
            settings = GateSettings(model=model)
            return PreAnswerBackend(
                upstream=UpstreamOptions(url=url, **QUICK),
                settings=settings,
                scorer=scorer or WordScorer(),
            )

        assert asyncio.run(ready(gate())) is None
        assert "does not serve" in str(asyncio.run(ready(gate("other"))))
        guard_down = BackendDown("the guard did not answer")
        scorer = WordScorer(fails=guard_down)
        scorer.logp = lambda prompts, progress=no_progress: (_ for _ in ()).throw(guard_down)
        assert asyncio.run(ready(gate(scorer=scorer))) is guard_down
        assert stub.bodies == []


def test_the_model_is_looked_up_once_for_many_first_requests():
    found, stub = run(answering("fine"), *[ask()] * 20)
    assert all(text_of(parts) == "fine" for _, parts in found)
    assert stub.looks == 1


def test_what_was_closed_answers_no_more():
    async def after_close(backend):
        await backend.close()
        return await _gathered_open(backend)

    backend = PreAnswerBackend(
        upstream=UpstreamOptions(url="http://127.0.0.1:9/v1"),
        settings=GateSettings(model="m"),
        scorer=WordScorer(),
    )
    assert isinstance(asyncio.run(after_close(backend)), BackendDown)


FILTER_400 = {"error": {"message": "secret upstream words", "code": "content_filter"}}
NO_CHOICES = (
    b'data: {"model": "stub-1", "choices": [], "prompt_feedback": {"block_reason": "SAFETY"}}\n\n'
)
DONE = b"data: [DONE]\n\n"
DECLINES = {
    "HTTP 400": (400, FILTER_400),
    "HTTP 403": (403, {"error": {"type": "moderation", "message": "secret"}}),
    "finish": events(finish="content_filter"),
    "finish, empty text": events("", finish="content_filter"),
    "another word": events({"content": None}, finish="SAFETY"),
    "no choices": [NO_CHOICES, DONE],
    "nothing at all": [DONE],
    "a body in the place of a stream": {"model": "stub-1", "choices": []},
    "an error in the place of a stream": {"error": {"code": "content_filter", "message": "secret"}},
    "an error in the stream": [
        *events(finish=None, usage=None, done=False),
        f"data: {json.dumps(FILTER_400)}\n\n".encode(),
        DONE,
    ],
}


@pytest.mark.parametrize("name", DECLINES)
def test_a_decline_behind_is_passed_on_as_one_never_as_an_empty_success(name):
    ((reply, parts),), stub = run(
        lambda number, body: DECLINES[name], ask(), answers_as="stub-1", refusal="Not here."
    )
    assert not reply.decision.refuses
    assert (text_of(parts), "".join(p.refusal for p in parts)) == ("", "Not here.")
    assert parts[-1].finish == "content_filter"
    assert len(stub.bodies) == 1


def test_a_cut_answer_keeps_what_was_said():
    body = [
        *events("Well", finish=None, usage=None, done=False),
        f"data: {json.dumps(FILTER_400)}\n\n".encode(),
    ]
    ((_, parts),), _ = run(lambda number, _: body, ask())
    assert (text_of(parts), parts[-1].refusal, parts[-1].finish) == ("Well", "", "content_filter")


def test_thoughts_and_lists_of_parts_are_told_apart_from_the_answer():
    deltas = (
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"reasoning_content": "!"},
        {"content": [{"type": "text", "text": "Good "}]},
        {"content": "morning."},
    )
    ((_, parts),), _ = run(answering(*deltas), ask())
    assert ("".join(p.thought for p in parts), text_of(parts)) == ("hm!", "Good morning.")


def test_one_body_in_the_place_of_a_stream_is_an_answer_too():
    ((_, parts),), _ = run(lambda *_: completion("Good morning."), ask())
    assert (text_of(parts), parts[-1].finish) == ("Good morning.", "stop")


def test_a_call_without_an_end_is_cut():
    piece = {"tool_calls": [{"index": 0, "function": {"arguments": "a"}}]}
    ((_, parts),), _ = run(
        answering(*[piece] * 500), ask(sampling=Sampling(max_tokens=7), tools=(TOOL,))
    )
    assert (parts[-1].finish, parts[-1].tool_calls) == ("length", ())


def test_more_tokens_than_asked_for_are_cut_and_the_endpoint_is_hung_up_on():
    ((_, parts),), _ = run(lambda *_: events(*["a "] * 5000), ask(sampling=Sampling(max_tokens=7)))
    assert (text_of(parts), parts[-1].finish) == ("a " * 7, "length")


def test_one_token_of_a_megabyte_is_cut():
    ((_, parts),), _ = run(answering("a" * 900_000), ask(sampling=Sampling(max_tokens=7)))
    assert (len(text_of(parts)), parts[-1].finish) == (7 * 256, "length")


CHUNK = b"x" * 65_536
FLOODS = {
    "a line without an end": [b"data: " + CHUNK, *[CHUNK] * 1000],
    "comments without an end": [b": " + CHUNK, *[CHUNK] * 1000],
    "comments": [b": keep-alive" + CHUNK[:1000] + b"\n\n"] * 20_000,
    "events without text": [b'data: {"model": "stub-1", "choices": [{"delta": {}}]}\n\n' * 1000]
    * 1000,
    "after the end": [*events("Good"), *[CHUNK] * 1000],
}


@pytest.mark.parametrize("name", FLOODS)
def test_an_endpoint_that_floods_is_hung_up_on_with_memory_flat(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ((_, error),), _ = run(
        lambda *_: FLOODS[name],
        ask(sampling=Sampling(max_tokens=16)),
        options={"most_bytes": 2**20},
    )
    assert isinstance(error, BackendDown)
    # KiB, of the stub's too
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_of_64_megabytes_is_not_read(status):
    with serving(lambda number, body: (status, b'{"a": "' + CHUNK * 1000)) as (url, _):
        backend = PreAnswerBackend(
            upstream=UpstreamOptions(url=url, tries=1),
            settings=GateSettings(model="stub-1"),
            scorer=WordScorer(),
        )
        ((_, error),) = asyncio.run(_gathered(backend, (ask(),)))
    assert isinstance(error, EngineError)


def test_what_the_endpoint_will_not_take_is_left_out_and_that_is_kept():
    def script(number, body):
        if "max_tokens" in body:
            return 400, {"error": {"param": "max_tokens", "code": "unsupported_parameter"}}
        if body.get("temperature", 1) != 1:
            message = "Unsupported value: 'temperature' does not support 0 with this model."
            return 400, {"error": {"message": message, "param": None}}
        return events("fine")

    asked = ask(sampling=Sampling(max_tokens=9, temperature=0.0))
    found, stub = run(script, asked)
    assert text_of(found[0][1]) == "fine"
    assert [b.get("max_completion_tokens") for b in stub.bodies] == [None, 9, 9]

    async def twice(backend):
        return [await _gathered_open(backend), await _gathered_open(backend)]

    with serving(script) as (url, stub):
        backend = PreAnswerBackend(
            upstream=UpstreamOptions(url=url, **QUICK),
            settings=GateSettings(model="stub-1"),
            scorer=WordScorer(),
        )
        assert asyncio.run(twice(backend)) == ["fine", "fine"]
        assert len(stub.bodies) == 3


def test_the_fields_can_be_settled_beforehand():
    options = {"token_limit": "max_completion_tokens", "leave_out": ("temperature", "seed")}
    _, stub = run(answering("fine"), ask(sampling=Sampling(max_tokens=9, seed=1)), options=options)
    assert len(stub.bodies) == 1
    assert {"max_completion_tokens", "top_p"} <= set(stub.bodies[0])
    assert not {"max_tokens", "temperature", "seed"} & set(stub.bodies[0])


def test_no_word_of_the_endpoint_or_of_a_person_reaches_the_log(caplog):
    canary = "zq7canary"
    said = (Message(role="user", content=f"About {canary}."),)
    bodies = [
        (400, {"error": {"message": f"bad: {canary}", "code": canary, "param": canary}}),
        (500, f"<html>{canary}"),
        [f"data: {canary}\n\n".encode()],
        [f'data: {{"error": {{"message": "{canary}"}}}}\n\n'.encode()],
        [f'data: {{"model": "stub-1", "choices": ["{canary}"]}}\n\n'.encode()],
        events("a", finish=canary),
        events({"content": [{"type": canary}]}),
    ]
    for body in bodies:
        ((_, error),), _ = run(lambda number, _, body=body: body, ask(said), answers_as="stub-1")
        assert isinstance(error, EngineError)
        assert canary not in str(error)
    assert canary not in caplog.text
