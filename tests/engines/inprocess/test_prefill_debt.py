"""Long prompts wait while answers of others are written; short ones, and a tenant alone, do not."""

import asyncio

from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess import prefill_debt as module
from demur.engines.inprocess.prefill_debt import DECODE_PER_PREFILL, LONG_TOKENS, PrefillDebt
from tests.engines.inprocess.test_backend import TEXTS, TOKENS, always, ask, serving, whole


def test_after_a_long_prompt_the_next_one_waits_for_writing():
    debt = PrefillDebt()
    assert debt.may_prefill(LONG_TOKENS, beside_others=True)
    debt.prefilled(LONG_TOKENS, 1.0)
    assert not debt.may_prefill(LONG_TOKENS, beside_others=True)
    debt.decoded(0.9 * DECODE_PER_PREFILL)
    assert not debt.may_prefill(LONG_TOKENS, beside_others=True)
    debt.decoded(0.2 * DECODE_PER_PREFILL)
    assert debt.may_prefill(LONG_TOKENS, beside_others=True)


def test_short_prompts_and_a_tenant_alone_never_wait():
    debt = PrefillDebt()
    debt.prefilled(LONG_TOKENS - 1, 9.0)
    assert debt.may_prefill(LONG_TOKENS, beside_others=True)
    debt.prefilled(4 * LONG_TOKENS, 9.0)
    assert debt.may_prefill(LONG_TOKENS - 1, beside_others=True)
    assert debt.may_prefill(9 * LONG_TOKENS, beside_others=False)


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
