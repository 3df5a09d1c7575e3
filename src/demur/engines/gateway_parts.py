"""From the events of a stream to the parts of an answer: what every remote backend shares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from demur.core.decision import Decision
from demur.core.errors import BackendDown
from demur.core.policy import GENERATE
from demur.core.serving import Ask, Finish, Part
from demur.engines.gateway_http import LOG, Events

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}


class Parts:
    """The parts of one streamed answer. The last is handed out only when the stream has ended as it should."""

    def __init__(self, events: Events, read: Callable[[bytes], Part | None], first: Part | None = None) -> None:
        self._events = events
        self._read = read  # one event's part; None for an event without one
        self._first = first  # read ahead
        self._ended = False

    async def begin(self) -> None:
        """Wait for the first part, so that what is wrong with the request is known before the answer begins."""
        try:
            self._first = await self._next()
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Part:
        if self._ended:
            raise StopAsyncIteration
        try:
            part = await self._next()
            if part.finish is not None:
                self._ended = True
                async for data in self._events:  # some count only now
                    part = _with_count(part, self._read(data))
        except BaseException:  # also when the reader is cancelled: nobody will ask for the rest
            await self.aclose()
            raise
        return part

    async def aclose(self) -> None:
        """Hang up: the server over there stops writing."""
        self._ended = True
        await self._events.aclose()

    async def _next(self) -> Part:
        if self._first is not None:
            part, self._first = self._first, None
            return part
        async for data in self._events:
            if (read := self._read(data)) is not None:
                return read
        raise BackendDown("the backend ended the answer without saying why", "ask again")


def _with_count(last: Part, after: Part | None) -> Part:
    if after is None:
        return last
    return replace(last, tokens=last.tokens + after.tokens, prompt_tokens=after.prompt_tokens or last.prompt_tokens)


def finish_of(reason: str | None) -> Finish | None:
    """Why an answer ended. Raises BackendDown for a reason that is no end of an answer, such as an abort."""
    if reason is None:
        return None
    if reason not in _FINISHES:
        LOG.error("upstream ended an answer with %r", reason)
        raise BackendDown("the backend broke off the answer", "ask again")
    return _FINISHES[reason]


def is_silent(ask: Ask, decision: Decision) -> bool:
    """Whether nothing is to be generated: an operator's own text stands for the refusal, or no answer is asked for."""
    if not decision.refuses:
        return not ask.answers
    return ask.policy.categories[decision.column - 1].on_refuse != GENERATE


async def nothing() -> AsyncIterator[Part]:
    """The parts of an answer for which nothing is generated."""
    none: tuple[Part, ...] = ()
    for part in none:
        yield part


def response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the answer must look like, in the words of OpenAI's protocol; {}: any JSON object, None: anything."""
    if not schema:
        return None if schema is None else {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
