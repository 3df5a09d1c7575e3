"""Long prompts wait while answers of others are written; short ones, and a tenant alone, do not."""

import asyncio

from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess import turns as module
from demur.engines.inprocess.turns import LONG_TOKENS, WRITING_PER_READING, Turns
from tests.engines.inprocess.test_backend import TEXTS, TOKENS, always, ask, serving, whole


def test_after_a_long_prompt_the_next_one_waits_for_writing():
    turns = Turns()
    assert turns.may_read(LONG_TOKENS, beside_others=True)
    turns.read(LONG_TOKENS, 1.0)
    assert not turns.may_read(LONG_TOKENS, beside_others=True)
    turns.wrote(0.9 * WRITING_PER_READING)
    assert not turns.may_read(LONG_TOKENS, beside_others=True)
    turns.wrote(0.2 * WRITING_PER_READING)
    assert turns.may_read(LONG_TOKENS, beside_others=True)


def test_short_prompts_and_a_tenant_alone_never_wait():
    turns = Turns()
    turns.read(LONG_TOKENS - 1, 9.0)
    assert turns.may_read(LONG_TOKENS, beside_others=True)
    turns.read(4 * LONG_TOKENS, 9.0)
    assert turns.may_read(LONG_TOKENS - 1, beside_others=True)
    assert turns.may_read(9 * LONG_TOKENS, beside_others=False)


def test_long_prompts_of_several_tenants_are_all_answered(checkpoints, monkeypatch):
    monkeypatch.setattr(module, "LONG_TOKENS", 2)
    engine = HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)

    async def scenario():
        async with serving(engine, rows=4) as backend, asyncio.timeout(60):
            asks = [
                ask(TEXTS[n % 5], always(engine, n % 3), tenant="abc"[n % 3]) for n in range(24)
            ]
            return await asyncio.gather(*(whole(backend, a) for a in asks))

    assert len(asyncio.run(scenario())) == 24
