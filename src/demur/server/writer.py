"""Write the response of a decided request, whole or as a stream of events.

1. A choice's text comes from the backend in parts, or is the operator's own.
2. A stream withholds the newest tokens of an answer that a monitor watches; where the answer is
   stopped, whole sentences of these are sent still, and the refusal follows.
3. A response that is not streamed holds nothing of a stopped answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from demur.base.errors import BackendDown, DemurError
from demur.core.conversation.languages import refusal_text
from demur.core.midway.held_back import HeldBack
from demur.core.midway.monitor import Stop
from demur.core.serving import AnswerPart, Finish, ServeReply
from demur.server.errors import api_error
from demur.server.monitoring.log import log_event
from demur.server.monitoring.metrics import Metrics
from demur.server.requests.context import RequestContext
from demur.server.requests.prepare import PreparedRequest
from demur.server.responses import (
    DecisionWord,
    ResponseHead,
    decision_word,
    finish_reason,
    tool_call_deltas,
    usage,
)
from demur.server.settings import ServerSettings

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecidedChoice:
    """The decision about one of n choices, with the backend's reply to it."""

    reply: ServeReply | None  # None: no score decides, and the operator's `on_doubt` refused
    text: str | None  # of the refusal or the deferral, where it is the operator's own
    # refused or deferred for text in the tools or the schema, not for the conversation
    declared: bool = False

    @property
    def word(self) -> DecisionWord:
        """The decision as answers and logs have it."""
        return "undecided" if self.reply is None else decision_word(self.reply.decision)

    @property
    def refused(self) -> bool:
        """Whether the choice is a refusal."""
        return self.word in ("refuse", "undecided")

    @property
    def refused_with(self) -> str | None:
        """The category that the choice is refused with, if it is a refusal with one."""
        return self.reply.decision.category if self.reply and self.refused else None


class ResponseWriter:
    """Reads the replies of a request's choices and builds the response body, whole or streamed."""

    def __init__(
        self,
        settings: ServerSettings,
        metrics: Metrics,
        prepared: PreparedRequest,
        choices: Sequence[DecidedChoice],
        context: RequestContext,
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._policy = prepared.effective.policy
        self._prepared = prepared
        self._choices = choices
        self._context = context
        first = choices[0].reply
        self._prompt_tokens, self._tokens = first.prompt_tokens if first else 0, 0

    async def whole(self, head: ResponseHead) -> dict[str, Any]:
        """Return the body of a response that is not streamed; choices are read concurrently."""
        choices = await asyncio.gather(
            *(self._choice(head, at, v) for at, v in enumerate(self._choices))
        )
        return head.completion(choices, self._usage())

    async def events(self, head: ResponseHead) -> AsyncIterator[bytes]:
        """Yield the server-sent events of a streamed response, one choice after the other.

        An error ends the stream with an error event and without [DONE]: the status is sent already.
        """
        try:
            for at, decided in enumerate(self._choices):
                async for event_bytes in self._choice_events(head, at, decided):
                    yield event_bytes
        except DemurError as e:
            error = api_error(e, decided=True)
            self._context.code = error.code
            log_event(
                logging.ERROR,
                "broken stream",
                request_id=self._context.request_id,
                reason=e.message,
                hint=e.hint,
            )
            yield _event(error.body())
            return
        counted = self._usage()  # also for the log, whether or not the client asked for it
        if self._prepared.include_usage:
            yield _event(head.usage_chunk(counted))
        yield DONE

    async def _choice(self, head: ResponseHead, at: int, decided: DecidedChoice) -> dict[str, Any]:
        text, refusal, thought, finish = "", "", "", None
        calls: list[Mapping[str, Any]] = []
        stopped: dict[str, Any] | None = None
        async for part in self._parts(decided):
            if part.stop is not None:
                text, thought, calls = "", "", []
                stopped = self._stop_note(part.stop, leaked=0)
            text, refusal, thought = (
                text + part.text,
                refusal + part.refusal,
                thought + part.thought,
            )
            finish = part.finish
            calls += part.tool_calls
        # A refusal of ours is in `refusal`; so is one that the model behind sent apart. `content`
        # is null only beside a refusal or tool calls, as in OpenAI's responses.
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": refusal or None}
        if decided.refused:
            message["refusal"] = text + refusal
        elif text or not (calls or refusal):
            message["content"] = text
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        return {"index": at, "message": message, "logprobs": None} | self._end(
            head, finish, decided, stopped
        )

    async def _choice_events(
        self, head: ResponseHead, at: int, decided: DecidedChoice
    ) -> AsyncIterator[bytes]:
        filters = {"content_filter_results": head.filter_results(decided.refused_with)}
        field = "refusal" if decided.refused else "content"
        # OpenAI's clients expect the role before any text; the note travels with the first chunk
        opening = {"role": "assistant", "content": None if decided.refused else "", "refusal": None}
        yield _event(head.chunk(_delta(at, opening, **filters), with_note=at == 0))
        finish, stopped = None, None
        held = HeldBack(self._held_back(decided))
        async for part in self._parts(decided):
            if part.stop is None:
                due = held.push(part)
            else:
                # The part of the stop may hold the refusal, too, which is not withheld.
                due = [*held.cut(), part]
                # Counted ahead of what is sent: the client may be gone by then.
                stopped = self._stop_note(part.stop, leaked=held.sent)
                held = HeldBack(0)
            for one in due:
                if delta := _delta_of(one, field):
                    yield _event(head.chunk(_delta(at, delta)))
            finish = part.finish
        yield _event(head.chunk(_delta(at, {}) | self._end(head, finish, decided, stopped)))

    def _held_back(self, decided: DecidedChoice) -> int:
        """Newest tokens of a choice that a stream withholds."""
        monitor = self._policy.monitor
        own = decided.refused or decided.text is not None
        return 0 if monitor is None or own else monitor.held_back

    async def _parts(self, decided: DecidedChoice) -> AsyncIterator[AnswerPart]:
        """Yield the parts of one choice, counting tokens; an operator's own text is a single part.

        Parts behind a stop hold the refusal alone. Raises BackendDown if the backend ends without a
        finish reason: the text may be cut off.
        """
        if decided.text is not None or decided.reply is None:
            yield AnswerPart(text=decided.text or "", finish="stop")
            return
        ended, stop, said = False, None, False
        async for part in decided.reply.parts:
            self._tokens += part.tokens
            if part.prompt_tokens is not None:
                self._prompt_tokens = part.prompt_tokens
            ended = part.finish is not None
            stop = stop or part.stop
            if stop is None:
                yield part
            else:
                refusal = self._refusal_of(part, stop, said=said)
                said = said or bool(refusal.refusal.strip())
                yield refusal
        if not ended:
            raise BackendDown("the backend ended an answer without a finish reason", "see its log")

    def _refusal_of(self, part: AnswerPart, stop: Stop, *, said: bool) -> AnswerPart:
        """The refusal in a part behind a stop, or the operator's text in place of it, at the end.

        said: whether parts before this one held a refusal.
        """
        own = refusal_text(self._policy.categories[stop.column - 1], self._context.languages)
        refusal = part.refusal if own is None else ""
        if part.finish is not None and not said and not refusal.strip():
            # A limit of tokens may leave none for the model's own refusal.
            refusal = self._settings.doubt_text if own is None else own
        return replace(part, text="", thought="", tool_calls=(), refusal=refusal)

    def _stop_note(self, stop: Stop, *, leaked: int) -> dict[str, Any]:
        """Count a stop in metrics and context, and return the note of its choice."""
        category = self._policy.taxonomy.choices[stop.column]
        if self._context.stopped is None:
            self._context.stopped, self._context.leaked = category, leaked
            self._context.stop_position = stop.position
        self._metrics.record_stop(self._context, category, leaked)
        return {
            "stopped": True,
            "category": category,
            "position": stop.position,
            "leaked": leaked,
        }

    def _end(
        self,
        head: ResponseHead,
        finish: Finish | None,
        decided: DecidedChoice,
        stopped: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """The fields that say how a choice ended. stopped: the note of its stop, or None."""
        settings = self._settings
        reason = finish_reason(
            finish or "stop",
            refused=decided.refused or stopped is not None,
            of_refusals=settings.refusal_finish if stopped is None else settings.stop_finish,
        )
        self._context.finish = reason
        category = decided.refused_with if stopped is None else stopped["category"]
        end = {"finish_reason": reason, "content_filter_results": head.filter_results(category)}
        return end if stopped is None else {**end, "demur": stopped}

    def _usage(self) -> dict[str, int]:
        prompt_tokens = self._prompt_tokens + self._context.beside_tokens
        self._context.prompt_tokens = prompt_tokens
        self._context.completion_tokens = self._tokens
        return usage(prompt_tokens, self._tokens)


def _delta(at: int, delta: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"index": at, "delta": delta, "logprobs": None, "finish_reason": None, **beside}


def _delta_of(part: AnswerPart, field: str) -> dict[str, Any]:
    """The delta of a part; {} where it holds nothing. field: of its text."""
    delta: dict[str, Any] = {field: part.text} if part.text else {}
    if part.refusal:
        delta["refusal"] = part.refusal
    if part.thought:
        delta["reasoning_content"] = part.thought
    if part.tool_calls:
        delta["tool_calls"] = tool_call_deltas(part.tool_calls)
    return delta


def _event(value: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
