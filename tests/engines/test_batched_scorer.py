"""One scorer for many requests: what waits is scored together, in order, and nobody waits for
ever.
"""

import asyncio
import threading

import numpy as np
import pytest

from demur.base.errors import BackendBusy, BackendDown
from demur.core.example import Message
from demur.core.ports import no_progress
from demur.core.predictor import predictor_scores
from demur.engines.batched_scorer import BatchedScorer


class Counting:
    """Scores a prompt by the number it holds; its first call waits until it is told to go on."""

    def __init__(self, *, held=False):
        self.sizes, self.go = [], threading.Event()
        if not held:
            self.go.set()

    def logp(self, prompts, progress=no_progress):
        self.go.wait(timeout=20)
        self.sizes.append(len(prompts))
        return predictor_scores([int(p[0].content) / 1000 for p in prompts])


def prompt(n):
    return (Message(role="user", content=str(n)),)


def test_each_request_gets_its_own_score_and_waiting_ones_share_a_call():
    scorer = Counting(held=True)

    async def run():
        batches = BatchedScorer(scorer, rows=16)
        asked = [asyncio.create_task(batches.logp(prompt(n))) for n in range(50)]
        await asyncio.sleep(0.05)
        scorer.go.set()
        return await asyncio.gather(*asked)

    found = asyncio.run(run())
    assert np.array_equal(np.stack(found), predictor_scores([n / 1000 for n in range(50)]))
    assert scorer.sizes == [16, 16, 16, 2]


def test_no_more_wait_than_may():
    scorer = Counting(held=True)

    async def run():
        batches = BatchedScorer(scorer, waiting=2, rows=1)
        asked = [asyncio.create_task(batches.logp(prompt(n))) for n in range(5)]
        await asyncio.sleep(0.05)
        scorer.go.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(run())
    assert sum(isinstance(f, BackendBusy) for f in found) == 3
    assert sum(isinstance(f, np.ndarray) for f in found) == 2


def test_who_has_left_is_not_scored():
    scorer = Counting(held=True)

    async def run():
        batches = BatchedScorer(scorer, rows=1)
        first, second, third = (asyncio.create_task(batches.logp(prompt(n))) for n in range(3))
        await asyncio.sleep(0.05)
        second.cancel()
        scorer.go.set()
        return await first, await third

    first, third = asyncio.run(run())
    assert np.array_equal(np.stack([first, third]), predictor_scores([0.0, 0.002]))
    assert sum(scorer.sizes) == 2


def test_closing_leaves_nobody_waiting():
    scorer = Counting(held=True)

    async def run():
        batches = BatchedScorer(scorer, rows=1)
        asked = [asyncio.create_task(batches.logp(prompt(n))) for n in range(3)]
        await asyncio.sleep(0.05)
        batches.close()
        scorer.go.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(BackendDown):
            await batches.logp(prompt(4))
        return found

    found = asyncio.run(run())
    assert [isinstance(f, BackendDown) for f in found[1:]] == [True, True]
