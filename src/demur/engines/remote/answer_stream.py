"""Turn an upstream's event stream into the parts of one answer, for every remote backend.

1. Each event is read into a part by the backend's own function.
2. Parts are held to the number of tokens that were asked for; beyond it the answer is cut.
3. The last part is passed on only once the stream has ended properly, with the token counts that
   some servers send after it. A decline, in any form, ends the answer as "content_filter".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from demur.base.errors import BackendDown
from demur.core.serving import AnswerPart, Finish, no_parts
from demur.engines.remote.declines import FILTER, FilteredDecline, decline_word
from demur.engines.remote.upstream import LOG, EventStream

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", FILTER: FILTER}
_BROKEN_OFF = ("abort", "aborted", "error", "cancelled", "timeout")  # reasons that may be logged
DECLINED = "The model behind this server declined to answer."
# Bytes that a token may take, on average over an answer. Hardly any token of a vocabulary is
# longer, so a server that counts too few tokens is still cut.
_TOKEN_BYTES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRules:
    """Limits of one answer, whatever the upstream sends."""

    most_tokens: int
    declined: str = DECLINED  # the refusal where the upstream declines without a text


class AnswerStream:
    """The parts of one streamed answer, an asynchronous iterator.

    Raises BackendDown where the stream ends without a reason or with one that ends no answer.
    """

    def __init__(
        self,
        events: EventStream | None,  # None: the answer is `first` alone
        # parses an event; None for an event without a choice
        read: Callable[[bytes], AnswerPart | None],
        rules: AnswerRules,
        first: AnswerPart | None = None,  # read ahead
    ) -> None:
        self._events = events
        self._read = read
        self._rules = rules
        self._first = first
        self._ended = False  # the last part was passed on
        self._chosen = first is not None  # some event had a choice
        self._has_text = False
        self._over = False  # the rest of the stream is not read
        self._written, self._bytes = 0, 0  # tokens and bytes passed on

    async def begin(self) -> None:
        """Read the first part ahead: errors in the request are raised before the answer begins."""
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
            part = self._within_rules(await self._next())
            if part.finish is not None:
                self._ended = True
                part = await self._with_final_counts(part)
        except BaseException:  # also when the reader is cancelled: the rest is never read
            await self.aclose()
            raise
        return part

    async def aclose(self) -> None:
        """Close the connection, which makes the upstream stop writing."""
        self._ended = True
        if self._events is not None:
            await self._events.aclose()

    async def _next(self) -> AnswerPart:
        """The next part that is not empty; a decline is a part with that finish."""
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
        return AnswerPart(finish=FILTER)  # some endpoints decline by sending no choice at all

    def _within_rules(self, part: AnswerPart) -> AnswerPart:
        """The part cut to the tokens and bytes that are left; a decline without a text gets one."""
        rules, texts = self._rules, (part.text, part.refusal, part.thought)
        size = sum(len(t.encode("utf-8", "replace")) for t in texts)
        # A part with text counts as one token at least, whatever the upstream says. The last part's
        # count may include tokens that earlier parts counted already.
        self._written += max(part.tokens if part.finish is None else 0, bool(size))
        left, self._bytes = rules.most_tokens * _TOKEN_BYTES - self._bytes, self._bytes + size
        if self._written > rules.most_tokens or size > left:
            LOG.error(
                "upstream wrote beyond the %d tokens that were asked for: cut", rules.most_tokens
            )
            self._over = True
            kept = ""
            if self._written <= rules.most_tokens:
                # cut at a whole character: "ignore" drops the bytes of a divided one
                first = part.text.encode("utf-8", "replace")[: max(left, 0)]
                kept = first.decode("utf-8", "ignore")
            return AnswerPart(text=kept, tokens=int(bool(kept)), finish="length")
        self._has_text = self._has_text or bool(part.text or part.refusal)
        if part.finish == FILTER and not self._has_text:
            return replace(part, refusal=rules.declined)
        return part

    async def _with_final_counts(self, part: AnswerPart) -> AnswerPart:
        """The last part with the token counts that some servers send only after it.

        The rest of a cut answer is not waited for.
        """
        if self._over:
            await self.aclose()
            return part
        try:
            async for data in self._events or no_parts():
                if (after := self._read(data)) is not None:
                    part = replace(
                        part,
                        tokens=part.tokens + after.tokens,
                        prompt_tokens=after.prompt_tokens or part.prompt_tokens,
                    )
        except FilteredDecline:
            return replace(part, finish=FILTER)
        except BackendDown:
            # After a decline an error is often the last event, without an end mark.
            if part.finish != FILTER:
                raise
        return part


async def open_answer_stream(
    opening: Awaitable[EventStream],
    read: Callable[[bytes], AnswerPart | None],
    rules: AnswerRules,
    *,
    wait: bool = False,
) -> AnswerStream:
    """Open the parts of an answer; a decline in its place is an answer of one part.

    opening: yields the event stream. wait: for the first part, where a server accepts any request
    at first and reports its errors in the stream. Raises what `opening` raises.
    """
    try:
        parts = AnswerStream(await opening, read, rules)
    except FilteredDecline:
        return AnswerStream(None, read, rules, AnswerPart(finish=FILTER))
    if wait:
        await parts.begin()
    return parts


def finish_of(reason: str | None) -> Finish | None:
    """Our finish for an upstream's finish reason; None where there is none yet.

    Raises BackendDown for a reason that ends no answer, such as an abort.
    """
    if reason is None:
        return None
    known = FILTER if decline_word(reason) else reason
    if known not in _FINISHES:
        LOG.error(
            "upstream ended an answer with %s",
            reason if reason in _BROKEN_OFF else "a reason that is unknown",
        )
        raise BackendDown("the backend broke off the answer", "ask again")
    return _FINISHES[known]


def response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """OpenAI's `response_format` for a JSON schema; {}: any JSON object, None: any text."""
    if not schema:
        return None if schema is None else {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
