"""A cascade before a model in this process: what the front decides, the model writes."""

import asyncio
import math
from dataclasses import replace

import pytest

from demur.core.cascade.front import FrontEdges
from demur.core.policy import natural
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.engines.cascade.backend import CascadeBackend
from demur.engines.inprocess.backend import HfBackend
from tests.engines.checkpoints import user
from tests.engines.tiny_run import tiny_run
from tests.front_parts import front, wide_range

DIGEST = "sha256:" + "b" * 64


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("tiny") / "run")[0]


@pytest.mark.parametrize("text", ["moner ralat tidom.", "moner safety ralat."])
def test_the_model_writes_after_what_the_front_decided(engine, text):
    sure = replace(front(), edges=FrontEdges(answer=math.inf, refuse=None), range=wide_range())
    policy = natural(coconot(), engine.fingerprint.behind(DIGEST))

    async def answered():
        cascade = CascadeBackend(sure, DIGEST, HfBackend(engine))
        try:
            sampling = Sampling(max_tokens=8, temperature=0.0)
            ask = ServeRequest(
                messages=user(text), policy=policy, policy_digest="d", sampling=sampling
            )
            reply = await cascade.open(ask)
            return reply, "".join([part.text async for part in reply.parts])
        finally:
            await cascade.close()

    reply, said = asyncio.run(answered())
    expected = "safety" if "safety" in text else "respond"
    assert (reply.decision.choice, reply.by_front) == (expected, True)
    written = engine.branches([user(text)], [[reply.decision.column]])[0][reply.decision.column]
    assert said.strip()
    assert written.text.startswith(said.strip())  # a character cut in half is not sent
