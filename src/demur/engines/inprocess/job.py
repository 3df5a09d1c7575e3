"""One request on its way through the worker: what it has come to, and what its caller is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from time import monotonic

from demur.base.arrays import Floats
from demur.base.errors import DemurError, SchemaTooCostly
from demur.core.decision import Decision
from demur.core.serving import AnswerPart, Finish, ServeRequest
from demur.engines.answer_text import AnswerText
from demur.engines.hf.running_batch import PrefilledPrompts
from demur.engines.inprocess.grammar.process import Grammar


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """One request on its way. `cancelled` is set by the event loop, `last` to `unsent` belong to
    the worker.
    """

    ask: ServeRequest
    ids: tuple[int, ...]  # of the prompt
    limit: int  # tokens that may follow the control token
    text: AnswerText
    random: Random
    loop: asyncio.AbstractEventLoop
    decided: asyncio.Future[tuple[Decision, Floats]]
    parts: asyncio.Queue[AnswerPart | DemurError] = field(default_factory=asyncio.Queue)
    grammar: Grammar | None = None  # of an answer under a schema, once it is prepared
    cancelled: bool = False  # nobody waits for it any more
    last: int = -1  # the token that the model has yet to read
    written: int = 0  # tokens after the control token
    unsent: int = 0  # of them, not yet in a part

    @property
    def room(self) -> int:
        """Positions that it may come to need."""
        return len(self.ids) + 1 + self.limit

    def take(self, token: int, stops: frozenset[int]) -> AnswerPart | None:
        """Note the next token; the part that may be sent now, if any. The last one has a
        `finish`.
        """
        if token in stops:
            return self._part(self.text.end(), "stop")
        self.last, self.written, self.unsent = token, self.written + 1, self.unsent + 1
        shown = self.text.push(token)
        if self.text.stopped:
            return self._part(shown, "stop")
        if self.grammar is not None:  # whether this was the last one is known with the next mask
            self.grammar.take(token)
        elif self.written >= self.limit:
            return self._cut(shown)
        return self._part(shown, None) if shown else None

    def settle(self) -> AnswerPart | None:
        """The end of an answer under a schema, if it is over. Raises SchemaTooCostly if its grammar
        gave up.
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
        """On the event loop: tell whoever waits."""
        if self.decided.done():
            self.parts.put_nowait(error)
        else:
            self.decided.set_exception(error)

    def resolve(self, decision: Decision, logp_C: Floats) -> None:
        """On the event loop: hand out the decision."""
        if not self.decided.done():
            self.decided.set_result((decision, logp_C))

    def _cut(self, shown: str) -> AnswerPart:
        shown += self.text.end()
        return self._part(shown, "stop" if self.text.stopped else "length")

    def _part(self, text: str, finish: Finish | None) -> AnswerPart:
        part = AnswerPart(text=text, tokens=self.unsent, finish=finish)
        self.unsent = 0
        return part


@dataclass(kw_only=True, slots=True, eq=False)
class Parked:
    """An answer that is not in the batch for now."""

    job: Job
    prompts: PrefilledPrompts  # what the model has read of it, and what it said last
    # its mask is awaited; else it awaits its grammar, and has not read its control token
    late: bool = False
    since_s: float = field(default_factory=monotonic)
