"""State of one request in the decoding thread, and its results for the caller.

An answer that a monitor stops goes on as the model's own refusal, from the same cache: the refusal
token is the next token that the model reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from time import monotonic

from demur.base.arrays import Floats
from demur.base.errors import DemurError, SchemaTooCostly
from demur.core.decision import Decision
from demur.core.midway.monitor import MonitorState, Stop
from demur.core.serving import AnswerPart, Finish, ServeRequest
from demur.engines.answer_text import AnswerText
from demur.engines.hf.rules import DecodeRules
from demur.engines.hf.running_batch import PrefilledPrompts
from demur.engines.inprocess.grammar.process import Grammar


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """One request. The event loop sets `cancelled`; `last` to `unsent` belong to the worker."""

    ask: ServeRequest
    ids: tuple[int, ...]  # of the prompt
    limit: int  # tokens that may follow the control token
    text: AnswerText
    random: Random
    loop: asyncio.AbstractEventLoop
    decided: asyncio.Future[tuple[Decision, Floats]]
    parts: asyncio.Queue[AnswerPart | DemurError] = field(default_factory=asyncio.Queue)
    grammar: Grammar | None = None  # of an answer under a schema, once it is prepared
    # The monitor on an answer; None on a refusal, one that follows a stop included.
    watch: MonitorState | None = None
    logp_C: Floats | None = None  # position score of the token that is chosen next, where watched
    refusing: bool = False  # the monitor stopped the answer: what is written is its refusal
    cancelled: bool = False  # its caller has gone
    last: int = -1  # the last token, which the model has yet to read
    written: int = 0  # tokens after the control token; a stop's refusal token counts as one
    unsent: int = 0  # tokens of these that are in no part yet

    @property
    def room(self) -> int:
        """Most positions of the cache: prompt, control token and longest answer."""
        return len(self.ids) + 1 + self.limit

    def take(self, token: int, rules: DecodeRules) -> AnswerPart | None:
        """Append a token; returns the part to send now, if any. The last part has a `finish`.

        Raises ScoreError where the monitor has no score to read: such an answer is not written on.
        """
        if token in rules.stops:
            return self._part(self.text.end(), "stop")
        if self.watch is not None and self.logp_C is not None:
            stop = self.watch.push(self.logp_C)
            if stop is not None:
                return self._stop(stop, rules)
        self.last, self.written, self.unsent = token, self.written + 1, self.unsent + 1
        shown = self.text.push(token)
        if self.text.stopped:
            return self._part(shown, "stop")
        # Under a schema, the next mask says whether this token was the last: see `settle`.
        if self.grammar is not None:
            self.grammar.take(token)
        elif self.written >= self.limit:
            return self._cut(shown)
        return self._part(shown, None) if shown else None

    def _stop(self, stop: Stop, rules: DecodeRules) -> AnswerPart:
        """End the answer ahead of the token that was chosen, and turn to the refusal.

        Tokens that no part has shown are counted here; their text is dropped.
        """
        self.watch, self.refusing = None, True
        self.text = self.text.anew()
        if self.grammar is not None:  # a refusal is never forced into a schema
            self.grammar.close()
            self.grammar = None
        self.last, self.written = rules.control_ids[stop.column], self.written + 1
        finish: Finish | None = None
        if not self.ask.policy.writes(stop.column):
            finish = "stop"
        elif self.written >= self.limit:
            finish = "length"
        return replace(self._part("", finish), stop=stop)

    def settle(self) -> AnswerPart | None:
        """The last part of an answer under a schema, if it has ended.

        Raises SchemaTooCostly if its grammar exceeded its limits.
        """
        if self.grammar is None:
            return None
        if self.grammar.state == "failed":
            raise SchemaTooCostly(
                "the JSON schema takes more time or memory to follow than it may", "make it simpler"
            )
        if self.grammar.state == "finished":
            return self._part(self.text.end(), "stop")
        return self._cut("") if self.written >= self.limit else None

    def fail(self, error: DemurError) -> None:
        """On the event loop: set the error of the decision, or of the answer once decided."""
        if self.decided.done():
            self.parts.put_nowait(error)
        else:
            self.decided.set_exception(error)

    def resolve(self, decision: Decision, logp_C: Floats) -> None:
        """On the event loop: set the decision, unless the caller was cancelled."""
        if not self.decided.done():
            self.decided.set_result((decision, logp_C))

    def _cut(self, shown: str) -> AnswerPart:
        """The last part of an answer at its limit; the held text may still end in a stop string."""
        shown += self.text.end()
        return self._part(shown, "stop" if self.text.stopped else "length")

    def _part(self, text: str, finish: Finish | None) -> AnswerPart:
        """A part with the tokens since the last one."""
        tokens, self.unsent = self.unsent, 0
        if self.refusing:
            return AnswerPart(refusal=text, tokens=tokens, finish=finish)
        return AnswerPart(text=text, tokens=tokens, finish=finish)


@dataclass(kw_only=True, slots=True, eq=False)
class Parked:
    """An answer outside the batch while it waits for other processes."""

    job: Job
    prompts: PrefilledPrompts  # its cache, and the logits of its next token
    # True: waits for a mask. False: waits for its grammar; its control token is not read yet
    late: bool = False
    since_s: float = field(default_factory=monotonic)  # when it was parked


def by_like_length(jobs: Sequence[Job]) -> list[list[Job]]:
    """Sort requests into batches to read together, shortest first.

    No prompt has less than half as many tokens as the longest of its batch: at most half of a batch
    is padding.
    """
    batches: list[list[Job]] = []
    for job in sorted(jobs, key=lambda job: len(job.ids)):
        if batches and len(job.ids) <= 2 * len(batches[-1][0].ids):
            batches[-1].append(job)
        else:
            batches.append([job])
    return batches
