"""An answer of a vLLM server under a policy's monitor, read token by token from its event stream.

1. vLLM reports the control tokens' log-probabilities at every token. Each is counted by
   `MonitorState`; the token that ends the answer is not.
2. Text is made here from the token ids, since one event may hold tokens ahead of a stop and behind
   it. The server's own text is not used.
3. At a stop the server's plug-in has forced the refusal token, and the stream goes on with the
   model's own refusal. A server without the plug-in is hung up on, and asked for the refusal in a
   call of its own, which is read here as well. Without a stop there is no further call.

C control tokens, column 0 = respond.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from demur.base.arrays import Floats
from demur.base.errors import BackendDown, PolicyError, ScoreDoubt, ScoreError
from demur.core.midway.monitor import Monitor, MonitorState, Stop
from demur.core.score import ENGINE_TOLERANCE
from demur.core.serving import AnswerPart, Finish
from demur.engines.answer_text import AnswerText
from demur.engines.remote.answer_stream import finish_of
from demur.engines.remote.upstream import LOG, parse_body
from demur.engines.tool_calls import PartStream
from demur.engines.vllm.completions_api import (
    Completion,
    CompletionChoice,
    scores_of,
    single_choice,
)

Decode = Callable[[list[int]], str]
# begins the refusal after a stop: of the stop, and of the answer's ids ahead of it
Refuse = Callable[[Stop, Sequence[int]], Awaitable[PartStream]]


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchRules:
    """What a stream is read by."""

    monitor: Monitor
    token_ids: tuple[int, ...]  # of the control tokens, respond first
    model: str  # as which the server answers
    decode: Decode  # ids to text, without special tokens
    stops: tuple[str, ...]  # stop strings
    plugged: bool  # whether the server's plug-in forces refusal tokens


class WatchedReader:
    """Reads the events of one answer into parts, up to its monitor's stop and beyond it."""

    def __init__(self, rules: WatchRules) -> None:
        self._rules = rules
        self._state = MonitorState(rules.monitor)
        self._text = AnswerText(rules.decode, rules.stops)
        self._turn: AnswerPart | None = None  # the stop's part, behind one with text ahead of it
        self.ids: list[int] = []  # of the answer's tokens ahead of a stop
        self.stop: Stop | None = None
        self.goes_on = False  # the server writes the refusal behind the stop

    def read(self, data: bytes) -> AnswerPart | None:
        """One event as a part; None where it has no choice. After it, `turn` may hold another part.

        Raises PolicyError where the event has no scores; BackendDown where they are invalid, and
        where a control token stands that the monitor did not put there.
        """
        choice = single_choice(parse_body(data, Completion), self._rules.model)
        return None if choice is None else self.part_of(choice)

    def part_of(self, choice: CompletionChoice, skip: int = 0) -> AnswerPart:
        """A choice as a part. skip: tokens of it ahead of the answer."""
        ids, finish = list(choice.token_ids or ()), finish_of(choice.finish_reason)
        if self.stop is not None:
            return self._refusal(ids, finish)
        # vLLM gives a stop string as the reason; else the last token has ended the answer.
        ended = finish == "stop" and not isinstance(choice.stop_reason, str)
        logp_TC, shown = self._scores(choice), ""
        for at in range(skip, len(ids)):
            last = at == len(ids) - 1
            if ended and last and ids[at] not in self._rules.token_ids:
                break
            self.stop = self._stop_at(logp_TC[at], ids[at])
            if self.stop is not None:
                ahead = AnswerPart(text=shown, tokens=at - skip)
                return self._turned(ahead, ids[at:], finish)
            self.ids.append(ids[at])
            shown += self._text.push(ids[at])
        shown += "" if finish is None else self._text.end()
        return AnswerPart(text=shown, tokens=len(ids) - skip, finish=finish)

    def turn(self) -> AnswerPart | None:
        """The part of a stop in the event that was read last, behind the part that it gave."""
        turn, self._turn = self._turn, None
        return turn

    def _scores(self, choice: CompletionChoice) -> Floats:
        """The position score of each of a choice's tokens, (T, C)."""
        try:
            return scores_of(choice, self._rules.token_ids)
        except ScoreDoubt as e:
            raise PolicyError(
                "the policy has a monitor, and the backend streams no control-token scores",
                f"{e.hint}; or use a policy without a monitor",
            ) from None

    def _stop_at(self, logp_C: Floats, token: int) -> Stop | None:
        """The stop at this position, by its score or by the token that the plug-in forced."""
        try:
            stop = self._state.push(logp_C)
        except ScoreError as e:
            LOG.error("upstream: %s", e.message)
            raise BackendDown(
                "the backend's scores in mid-answer are no log-probabilities",
                "start it with --logprobs-mode raw_logprobs",
            ) from None
        if token not in self._rules.token_ids:
            if stop is not None and self._rules.plugged:
                LOG.warning("the plug-in did not stop an answer at token %d: stopped here", token)
            return stop
        column = self._rules.token_ids.index(token)
        if not self._rules.plugged or not column or not self._may_stop(logp_C, column):
            LOG.error("upstream wrote control token %d in mid-answer: scores %s", token, logp_C)
            raise BackendDown("the backend wrote a control token in mid-answer", "ask again")
        self.goes_on = True
        return Stop(column=column, position=len(self.ids))

    def _may_stop(self, logp_C: Floats, column: int) -> bool:
        """Whether a category's score reaches its threshold, but for rounding."""
        threshold = self._rules.monitor.thresholds[column - 1]
        least = math.log(threshold) if threshold > 0.0 else -math.inf
        return float(logp_C[column]) >= least - ENGINE_TOLERANCE

    def _turned(self, ahead: AnswerPart, ids: list[int], finish: Finish | None) -> AnswerPart:
        """The part at a stop; behind `ahead`, unless that is empty. ids: from the stop on."""
        self._text = self._text.anew()
        turn = AnswerPart(stop=self.stop)
        if self.goes_on:
            turn = replace(self._refusal(ids[1:], finish), stop=self.stop)
        if ahead == AnswerPart():
            return turn
        self._turn = turn
        return ahead

    def _refusal(self, ids: Sequence[int], finish: Finish | None) -> AnswerPart:
        """Tokens behind the stop as a part."""
        if set(ids) & set(self._rules.token_ids):
            LOG.error("upstream wrote a control token in a refusal: %s", ids)
            raise BackendDown("the backend wrote a control token in mid-answer", "ask again")
        shown = "".join(map(self._text.push, ids))
        shown += "" if finish is None else self._text.end()
        return AnswerPart(refusal=shown, tokens=len(ids), finish=finish)


class WatchedStream:
    """The parts of a watched answer, an asynchronous iterator."""

    def __init__(self, parts: PartStream, reader: WatchedReader, refuse: Refuse) -> None:
        self._parts, self._reader, self._refuse = parts, reader, refuse
        self._turn: AnswerPart | None = None  # read, and not yet passed on

    def __aiter__(self) -> WatchedStream:
        return self

    async def __anext__(self) -> AnswerPart:
        part = await anext(self._parts) if self._turn is None else self._turn
        self._turn = self._reader.turn()
        if part.stop is not None and not self._reader.goes_on:
            await self._parts.aclose()
            self._parts = await self._refuse(part.stop, self._reader.ids)
        elif part.finish is not None:
            # The upstream's end came with the stop, behind text that it was held for. Or the answer
            # was cut at its limit: a stop beyond that is none.
            self._turn = None
            await self._parts.aclose()
        return part

    async def aclose(self) -> None:
        """Close the connection, which makes the upstream stop writing."""
        await self._parts.aclose()
