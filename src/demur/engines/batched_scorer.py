"""One scorer for many requests at once: what comes while it scores is scored together next, in a
thread of its own.
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
    """A scorer in an event loop. waiting: prompts that may await their score; rows: scored in one
    call.
    """

    def __init__(self, scorer: Scorer, *, waiting: int = 1024, rows: int = 64) -> None:
        self._scorer = scorer
        self._most_waiting, self._rows = waiting, rows
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="demur-score")
        self._waiting: deque[tuple[Prompt, asyncio.Future[Floats]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def logp(self, prompt: Prompt) -> Floats:
        """The score of one prompt, (C,). Raises what the scorer raises, BackendBusy, and
        BackendDown once closed.
        """
        if self._closed:
            raise BackendDown("the scorer was closed", "start the server again")
        if len(self._waiting) >= self._most_waiting:
            raise BackendBusy(
                f"{len(self._waiting)} prompts wait for their score", "try again later"
            )
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """Let go: whoever waits gets BackendDown."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        while self._waiting:
            _settle(
                self._waiting.popleft()[1],
                BackendDown("the scorer was closed", "start the server again"),
            )

    async def _work(self) -> None:
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(self._rows, len(self._waiting)))]
            # nobody waits for the others
            some = [(prompt, future) for prompt, future in some if not future.done()]
            try:
                prompts = [prompt for prompt, _ in some]
                found = await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._score, prompts
                )
                for (_, future), scored in zip(some, found, strict=True):
                    _settle(future, scored)
            finally:
                # there are any left only where the scorer has a bug, or is closed meanwhile
                for _, future in some:
                    _settle(
                        future, BackendDown("the scorer failed", "the log of this server says more")
                    )

    def _score(self, prompts: list[Prompt]) -> list[_Scored]:
        """A score each, or why there is none: what one prompt does to the scorer is not the others'
        fault.
        """
        try:
            return list(self._scorer.logp(prompts)) if prompts else []
        except BackendError as e:
            return [e] * len(prompts)
        except DemurError as e:
            return [e] if len(prompts) == 1 else [self._score([prompt])[0] for prompt in prompts]


def _settle(future: asyncio.Future[Floats], scored: _Scored) -> None:
    if future.done():
        return
    if isinstance(scored, DemurError):
        future.set_exception(scored)
    else:
        future.set_result(scored)
