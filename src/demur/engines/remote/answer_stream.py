"""From the events of a stream to the parts of an answer: what every remote backend shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from demur.base.errors import BackendDown
from demur.core.serving import AnswerPart, Finish, no_parts
from demur.engines.remote.declines import FILTER, FilteredDecline, decline_word
from demur.engines.remote.upstream import LOG, EventStream

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", FILTER: FILTER}
_NO_ENDS = ("abort", "aborted", "error", "cancelled", "timeout")
DECLINED = "The model behind this server declined to answer."
_TOKEN_BYTES = 256  # no vocabulary has longer tokens in number


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRules:
    """What an answer is held to, whatever the server behind sends."""

    most_tokens: int
    declined: str = DECLINED  # the refusal where the server behind declines without a word


class AnswerStream:
    """The parts of one streamed answer. The last is handed out only when the stream has ended as it
    should.

    A decline in mid-stream, or a stream without a choice, ends it with finish "content_filter". One
    that goes on beyond the tokens that were asked for is cut, and the server behind hung up on.
    """

    def __init__(
        self,
        events: EventStream | None,  # None: there is `first` and no more
        # one event's part; None for an event without a choice
        read: Callable[[bytes], AnswerPart | None],
        rules: AnswerRules,
        first: AnswerPart | None = None,  # read ahead
    ) -> None:
        self._events = events
        self._read = read
        self._rules = rules
        self._first = first
        self._ended = False
        self._chosen = first is not None
        self._said = self._over = False  # over: nothing more is read, whatever comes
        self._written, self._bytes = 0, 0

    async def begin(self) -> None:
        """Wait for the first part, so that what is wrong with the request is known before the
        answer begins.
        """
        try:
            self._first = await self._next()
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> AnswerPart:
        if self._ended:
            raise StopAsyncIteration
        try:
            part = self._held(await self._next())
            if part.finish is not None:
                self._ended = True
                part = await self._drained(part)
        except BaseException:  # also when the reader is cancelled: nobody will ask for the rest
            await self.aclose()
            raise
        return part

    async def aclose(self) -> None:
        """Hang up: the server over there stops writing."""
        self._ended = True
        if self._events is not None:
            await self._events.aclose()

    async def _next(self) -> AnswerPart:
        if self._first is not None:
            part, self._first = self._first, None
            return part
        try:
            async for data in self._events or no_parts():
                read = self._read(data)
                self._chosen = self._chosen or read is not None
                if read is not None and read != AnswerPart():
                    return read
        except FilteredDecline:
            self._over = True
            return AnswerPart(finish=FILTER)
        if self._chosen:
            raise BackendDown("the backend ended the answer without saying why", "ask again")
        self._over = True
        return AnswerPart(finish=FILTER)  # no choice at all: that is how some decline

    def _held(self, part: AnswerPart) -> AnswerPart:
        """The part within what may be written; a decline without a word gets the operator's."""
        rules, size = self._rules, sum(len(t.encode("utf-8", "replace")) for t in _texts(part))
        self._written += max(part.tokens if part.finish is None else 0, bool(size))
        left, self._bytes = rules.most_tokens * _TOKEN_BYTES - self._bytes, self._bytes + size
        if self._written > rules.most_tokens or size > left:
            LOG.error(
                "upstream wrote beyond the %d tokens that were asked for: cut", rules.most_tokens
            )
            self._over = True
            kept = (
                "" if self._written > rules.most_tokens else _first_bytes(part.text, max(left, 0))
            )
            return AnswerPart(text=kept, tokens=int(bool(kept)), finish="length")
        self._said = self._said or bool(part.text or part.refusal)
        if part.finish == FILTER and not self._said:
            return replace(part, refusal=rules.declined)
        return part

    async def _drained(self, part: AnswerPart) -> AnswerPart:
        """The last part with what some servers count only after it; the rest of a cut answer is not
        waited for.
        """
        if self._over:
            await self.aclose()
            return part
        try:
            async for data in self._events or no_parts():
                part = _with_count(part, self._read(data))
        except FilteredDecline:
            return replace(part, finish=FILTER)
        except BackendDown:
            if part.finish != FILTER:  # an error is often the last that comes, without an end mark
                raise
        return part


async def open_answer_stream(
    opening: Awaitable[EventStream],
    read: Callable[[bytes], AnswerPart | None],
    rules: AnswerRules,
    *,
    wait: bool = False,
) -> AnswerStream:
    """The parts of an answer that is being opened; a decline in its place is an answer too.

    wait: for the first part, where a server accepts anything at first and says what is wrong with
    it in the stream.
    """
    try:
        parts = AnswerStream(await opening, read, rules)
    except FilteredDecline:
        return AnswerStream(None, read, rules, AnswerPart(finish=FILTER))
    if wait:
        await parts.begin()
    return parts


def _texts(part: AnswerPart) -> tuple[str, str, str]:
    return part.text, part.refusal, part.thought


def _first_bytes(text: str, most: int) -> str:
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _with_count(last: AnswerPart, after: AnswerPart | None) -> AnswerPart:
    if after is None:
        return last
    return replace(
        last,
        tokens=last.tokens + after.tokens,
        prompt_tokens=after.prompt_tokens or last.prompt_tokens,
    )


def finish_of(reason: str | None) -> Finish | None:
    """Why an answer ended. Raises BackendDown for a reason that is no end of an answer, such as an
    abort.
    """
    if reason is None:
        return None
    known = FILTER if decline_word(reason) else reason
    if known not in _FINISHES:
        LOG.error(
            "upstream ended an answer with %s",
            reason if reason in _NO_ENDS else "a reason that is unknown",
        )
        raise BackendDown("the backend broke off the answer", "ask again")
    return _FINISHES[known]


def response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the answer must look like, in the words of OpenAI's protocol; {}: any JSON object, None:
    anything.
    """
    if not schema:
        return None if schema is None else {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
