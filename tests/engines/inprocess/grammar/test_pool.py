"""Schemas run in processes of their own: what one of them does is felt by nobody else."""

import asyncio
import json
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import psutil
import pytest
import torch

from demur.base.errors import BackendBusy, BackendDown, EngineError, SchemaTooCostly
from demur.base.schemas.limits import SchemaBounds, exceeded_bound
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess import backend, worker
from demur.engines.inprocess.grammar.pool import GrammarLimits, GrammarPool
from demur.engines.inprocess.grammar.process import wait
from tests.base.schemas.test_limits import chain
from tests.engines.checkpoints import make_tokenizer
from tests.engines.inprocess.test_backend import GREEDY, TOKENS, always, ask, serving, whole
from tests.waiting import settled

pytest.importorskip("llguidance")

# Everything passes: these tests are about what happens where the bounds have a hole.
UNBOUNDED = SchemaBounds(**dict.fromkeys(SchemaBounds.__dataclass_fields__, 10**9))
ENDS_A_PROCESS = chain(1300)
NEVER_DONE = {
    "type": "string",
    "allOf": [{"pattern": f"(a|b)*a(a|b){{{n + 4}}}"} for n in range(24)],
}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def schema_of(n):
    field = f"field{n}"
    fields = {field: {"type": "boolean"}}
    return {
        "type": "object",
        "properties": fields,
        "required": [field],
        "additionalProperties": False,
    }


# Limits that only a hang reaches, on whatever machine.
PATIENT = {"compile_s": 300.0, "step_s": 60.0, "answer_s": 300.0}
WATCHDOG_S = 60.0


@contextmanager
def grammars(**limits):
    tokenizer = make_tokenizer()
    limits = PATIENT | limits
    made = GrammarPool(
        tokenizer, frozenset({tokenizer.eos_token_id}), len(tokenizer), GrammarLimits(**limits)
    )
    try:
        yield made
    finally:
        made.close()


def children():
    """Processes below this one, those that have ended left out."""
    return [
        p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE
    ]


def written(grammar, tokenizer, most=200):
    """What comes of always taking the first token that is allowed, and what state that ends in."""
    ids = []
    wait([grammar], WATCHDOG_S)
    while grammar.state == "ready" and len(ids) < most:
        logits_V = torch.zeros(len(tokenizer))
        grammar.mask(logits_V)
        ids.append(int(logits_V.argmax()))
        grammar.take(ids[-1])
        wait([grammar], WATCHDOG_S)
    return tokenizer.decode(ids), grammar.state


def test_masks_lead_to_an_answer_that_fits_and_then_nothing_may_follow():
    with grammars() as made:
        for schema in (CITY, schema_of(1)):
            text, state = written(asyncio.run(made.begin(schema)), make_tokenizer())
            assert state == "finished"
            assert set(json.loads(text)) == set(schema["required"])


@pytest.mark.parametrize(
    "schema", [ENDS_A_PROCESS, NEVER_DONE], ids=["ends a process", "is never done"]
)
def test_a_schema_that_ends_or_holds_its_process_is_an_error_and_others_go_on(schema):
    assert exceeded_bound(schema)

    async def scenario(made):
        with pytest.raises(SchemaTooCostly) as told:
            await made.begin(schema, "me")
        with pytest.raises(SchemaTooCostly):  # it is not tried again
            await made.begin(schema, "me")
        return await made.begin(schema_of(2), "them"), str(told.value)

    with grammars(bounds=UNBOUNDED, compile_s=4.0) as made:
        beside, told = asyncio.run(scenario(made))
        assert written(beside, make_tokenizer())[1] == "finished"
        assert "a|b" not in told
        assert "#/$defs" not in told
        assert sum(p.memory_info().rss for p in children()) < 2**29


async def held(made, schema):
    """A schema that is under way and stays so: its process is stopped. Its task and its process."""
    before = set(children())
    task = asyncio.create_task(made.begin(schema, "me"))
    await settled(lambda: set(children()) - before)
    (process,) = set(children()) - before
    process.suspend()
    return task, process


def test_while_a_schema_is_compiled_others_are_compiled_and_written():
    async def scenario(made):
        await made.begin(CITY, "them")
        hostile, process = await held(made, NEVER_DONE)
        try:
            text, state = written(await made.begin(schema_of(2), "them"), make_tokenizer())
            assert not hostile.done()
        finally:
            process.kill()
        with pytest.raises(SchemaTooCostly):
            await hostile
        return text, state

    with grammars(bounds=UNBOUNDED) as made:
        assert asyncio.run(scenario(made)) == ('{"field2":false}', "finished")


def test_a_schema_that_cannot_be_followed_is_told_apart_and_its_text_stays_unsaid():
    with grammars() as made, pytest.raises(EngineError, match="cannot be followed") as told:
        asyncio.run(made.begin({"type": "no such secret type"}))
    assert "secret" not in str(told.value)
    assert not isinstance(told.value, SchemaTooCostly)


def test_the_bounds_hold_without_a_server_in_front():
    with grammars() as made:
        with pytest.raises(SchemaTooCostly, match="properties in one place"):
            asyncio.run(made.begin(ENDS_A_PROCESS))
        assert children() == []


def test_a_schema_whose_sender_has_gone_is_dropped_at_once():
    async def scenario(made):
        await made.begin(CITY)
        task, process = await held(made, NEVER_DONE)
        task.cancel()
        await settled(lambda: process not in children())  # long before its own limits

    with grammars(bounds=UNBOUNDED) as made:
        asyncio.run(scenario(made))


def test_two_that_send_the_same_schema_share_its_process_and_one_may_leave():
    async def scenario(made):
        tasks = [asyncio.create_task(made.begin(CITY)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        kept = await asyncio.gather(*tasks[1:])
        again = await made.begin(CITY)
        return [*kept, again]

    with grammars() as made:
        kept = asyncio.run(scenario(made))
        assert len(children()) == 2  # the host, and one
        assert {written(g, make_tokenizer())[0] for g in kept} == {'{"city":"Oslo"}'}


def test_idle_schemas_are_kept_up_to_a_number_and_the_oldest_goes():
    with grammars(processes=3) as made:
        for n in (0, 1, 2, 0, 3):
            asyncio.run(made.begin(schema_of(n))).close()
        asyncio.run(settled(lambda: len(children()) == 4))
        pids = {p.pid for p in children()}
        for n in (0, 2, 3):
            asyncio.run(made.begin(schema_of(n))).close()
        assert {p.pid for p in children()} == pids


def test_one_tenant_gets_half_of_the_places():
    async def scenario(made):
        mine = [await made.begin(schema_of(n), "me") for n in range(2)]
        with pytest.raises(BackendBusy, match="2 of this tenant"):
            await made.begin(schema_of(2), "me")
        await made.begin(schema_of(3), "them")
        mine[0].close()
        await made.begin(schema_of(2), "me")

    with grammars(processes=4) as made:
        asyncio.run(scenario(made))


@pytest.mark.parametrize("limits", [{"step_s": 0.0}, {"answer_s": 0.0}])
def test_an_answer_whose_masks_take_too_long_fails_alone(limits):
    with grammars(**limits) as made:
        grammar = asyncio.run(made.begin(CITY))
        wait([grammar], WATCHDOG_S)
        assert grammar.state == "failed"


def test_a_host_that_was_ended_is_started_again():
    with grammars() as made:
        grammar = asyncio.run(made.begin(CITY))
        wait([grammar], WATCHDOG_S)
        for process in children():
            process.kill()
        asyncio.run(settled(lambda: not children()))
        grammar.take(0)
        wait([grammar], WATCHDOG_S)
        assert grammar.state == "failed"
        made.close()
        with pytest.raises(BackendDown, match="shutting down"):
            asyncio.run(made.begin(schema_of(7)))
    with grammars() as made:
        asyncio.run(made.begin(CITY))
        (first, *_) = children()
        first.kill()
        asyncio.run(settled(lambda: first not in children()))
        assert written(asyncio.run(made.begin(schema_of(1))), make_tokenizer())[1] == "finished"


def test_nothing_is_left_behind():
    before = len(children())
    open_files = psutil.Process().num_fds()
    with grammars() as made:
        for n in range(6):
            asyncio.run(made.begin(schema_of(n)))
    asyncio.run(settled(lambda: len(children()) == before))
    assert psutil.Process().num_fds() <= open_files + 1


def test_a_process_that_hangs_in_mid_answer_holds_up_no_other_answer(checkpoints, monkeypatch):
    monkeypatch.setattr(worker, "LATE_S", WATCHDOG_S)
    monkeypatch.setattr(backend, "GrammarLimits", partial(GrammarLimits, **PATIENT))
    engine = HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)
    sampling = replace(GREEDY, max_tokens=120)

    async def scenario():
        async with serving(engine) as backend:
            alone = (
                await whole(backend, ask("Hi", always(engine, 0), sampling, json_schema=CITY))
            )[1]
            reply = await backend.open(ask("Hi", always(engine, 0), sampling, json_schema=CITY))
            first = await anext(reply.parts)
            (_, process) = sorted(children(), key=lambda p: p.pid)
            process.suspend()
            try:
                beside = await asyncio.gather(
                    *(whole(backend, ask(t, always(engine, 0))) for t in ("a", "b", "c"))
                )
                assert backend.writing == 1  # the one that is held up
            finally:
                process.resume()
            rest = "".join([p.text async for p in reply.parts])
            return alone, first.text + rest, [text for _, text, _ in beside]

    alone, resumed, beside = asyncio.run(scenario())
    assert resumed == alone
    assert json.loads(resumed)["city"] in ("Oslo", "Rome")
    assert all(beside)


@pytest.mark.parametrize(("most", "finish"), [(120, "stop"), (3, "length")])
def test_an_answer_whose_last_mask_is_late_gives_its_places_back(
    checkpoints, monkeypatch, most, finish
):
    engine = HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)

    def never_in_time(grammars, seconds):
        if seconds != worker.GRACE_S:
            wait(grammars, seconds)

    monkeypatch.setattr(worker, "wait", never_in_time)

    async def scenario():
        async with serving(engine) as backend:
            sampling = replace(GREEDY, max_tokens=most)
            ended = (
                await whole(backend, ask("Hi", always(engine, 0), sampling, json_schema=CITY))
            )[2][-1].finish
            await settled(lambda: not backend._worker._worker._open)
            return ended, [p.in_use for p in backend._grammars._held.values()]

    assert asyncio.run(scenario()) == (finish, [0])


def test_a_refused_prompt_compiles_nothing(checkpoints):
    engine = HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)

    async def scenario():
        async with serving(engine) as backend:
            await whole(backend, ask("Hi", always(engine, 2), json_schema=ENDS_A_PROCESS))
            return children()

    assert asyncio.run(scenario()) == []
