"""Dynamic batching: prompts that arrive while a scorer is busy are scored in its next call.

The scorer runs in a thread of its own, so the event loop waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from demur.base.arrays import Floats
from demur.base.errors import BackendBusy, BackendDown, BackendError, DemurError
from demur.core.ports import Prompt, Scorer

_Scored = Floats | DemurError


class BatchedScorer:
    """Scores prompts of many requests in batches. Belongs to one event loop.

    waiting: prompts that may await their score; rows: prompts scored in one call.
    """

    def __init__(self, scorer: Scorer, *, waiting: int = 1024, rows: int = 64) -> None:
        self._scorer = scorer
        self._most_waiting, self._rows = waiting, rows
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="demur-score")
        self._waiting: deque[tuple[Prompt, asyncio.Future[Floats]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def logp(self, prompt: Prompt) -> Floats:
        """Score of one prompt, (C,) natural-log probabilities.

        Raises the scorer's errors, BackendBusy if too many prompts wait, BackendDown once closed.
        """
        if self._closed:
            raise BackendDown("the scorer was closed", "start the server again")
        if len(self._waiting) >= self._most_waiting:
            raise BackendBusy(
                f"{len(self._waiting)} prompts wait for their score", "try again later"
            )
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, future))
        # One task works the queue off; it ends with the queue, so that an idle scorer holds none.
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """Stop scoring; prompts that wait get BackendDown."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        while self._waiting:
            _settle(
                self._waiting.popleft()[1],
                BackendDown("the scorer was closed", "start the server again"),
            )

    async def _work(self) -> None:
        """Score batches of waiting prompts until none waits."""
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(self._rows, len(self._waiting)))]
            # A future is done where its request was cancelled: nobody waits for that score.
            some = [(prompt, future) for prompt, future in some if not future.done()]
            try:
                prompts = [prompt for prompt, _ in some]
                found = await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._score, prompts
                )
                for (_, future), scored in zip(some, found, strict=True):
                    _settle(future, scored)
            finally:
                # Futures without a score: the scorer raised an unexpected error, or was closed.
                for _, future in some:
                    _settle(
                        future, BackendDown("the scorer failed", "the log of this server says more")
                    )

    def _score(self, prompts: list[Prompt]) -> list[_Scored]:
        """Score or error of each prompt. One prompt's error does not reach the others."""
        try:
            return list(self._scorer.logp(prompts)) if prompts else []
        except BackendError as e:  # the scorer itself is at fault: scoring again would not help
            return [e] * len(prompts)
        except DemurError as e:
            # Some prompt is at fault; scored one by one, only that prompt gets the error.
            return [e] if len(prompts) == 1 else [self._score([prompt])[0] for prompt in prompts]


def _settle(future: asyncio.Future[Floats], scored: _Scored) -> None:
    """Set a future's score or error, unless its request was cancelled."""
    if future.done():
        return
    if isinstance(scored, DemurError):
        future.set_exception(scored)
    else:
        future.set_result(scored)
