"""A backend without weights: the fake engine's scores and texts, word by word, and set failures."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from demur.base.errors import BackendBusy, BackendDown, BackendTimeout
from demur.core.decision import decide_or_doubt
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import Stop, first_stop
from demur.core.serving import (
    AnswerPart,
    Finish,
    ServedRun,
    ServeReply,
    ServeRequest,
    generates_nothing,
    no_parts,
)
from demur.engines.fake.engine import FakeEngine
from demur.engines.stop_strings import StopStrings

# When a request is opened: down, busy, timeout. After the first part of an answer: break
# (BackendDown), stall (BackendTimeout).
Failure = Literal["down", "busy", "timeout", "break", "stall"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeOptions:
    """Settings of [backend] for the fake backend: none."""


@dataclass(kw_only=True, slots=True)
class FakeBackend:
    """Serves the fake engine. Implements demur.core.serving.Backend.

    Every word is a token. With a JSON schema the answer is {"answer": text}; a tool is called if
    tool_choice requires one. `failure` and `delay_s` may be changed while it runs.
    """

    Options: ClassVar = FakeOptions
    stops_nothing: ClassVar[None] = None

    engine: FakeEngine
    delay_s: float = 0.0  # before every part
    failure: Failure | None = None
    writing: int = field(default=0, init=False)  # replies being read now
    _closed: bool = field(default=False, init=False)

    @classmethod  # the port wants `options`; these are empty
    def from_run(cls, run: ServedRun, options: FakeOptions) -> FakeBackend:  # noqa: ARG003
        """Backend of the fake engine with default settings and the run's taxonomy."""
        return cls(engine=FakeEngine(taxonomy=run.taxonomy))

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the fake engine."""
        return self.engine.fingerprint

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Decide by the fake engine's score and begin the answer.

        Raises PolicyError on a policy of another model, and the error that `failure` names.
        """
        ask.policy.require_model(self.fingerprint)
        await self.ready()
        if self.failure == "busy":
            raise BackendBusy("the fake backend is full", "it was told to fail")
        if self.failure == "timeout":
            raise BackendTimeout("the fake backend did not answer in time", "it was told to fail")
        logp_C = self.engine.logp([ask.messages])[0]
        decision = decide_or_doubt(ask.policy, logp_C)
        parts = (
            no_parts() if generates_nothing(ask, decision) else self._write(ask, decision.column)
        )
        prompt_tokens = sum(len(m.content.split()) for m in ask.messages)
        return ServeReply(
            decision=decision, logp_C=logp_C, prompt_tokens=prompt_tokens, parts=parts
        )

    async def ready(self) -> None:
        """Return at once. Raises BackendDown after close, and while `failure` is "down"."""
        if self._closed or self.failure == "down":
            raise BackendDown("the fake backend is down", "it was closed, or told to fail")

    async def close(self) -> None:
        """Stop serving; replies that are being read end with BackendDown."""
        self._closed = True

    async def _write(self, ask: ServeRequest, column: int) -> AsyncIterator[AnswerPart]:
        """Parts of the answer after a control token (a score's column), one word each."""
        self.writing += 1
        try:
            if column == 0 and ask.tools and ask.tool_choice not in (None, "auto", "none"):
                yield AnswerPart(tokens=1, finish="tool_calls", tool_calls=(_tool_call(ask),))
                return
            words = self._words(ask, column)
            stop = None if column else self._stop(ask, len(words))
            if stop is None:
                async for part in self._text(ask, words, ask.sampling.max_tokens):
                    yield part
                return
            # Words ahead of the stop; nothing is written of a text that a stop string would end.
            async for part in self._text(ask, words[: stop.position + 1], stop.position):
                if part.finish == "stop":
                    yield part
                    return
                if part.finish is None:
                    yield part
            # The refusal shares the answer's limit, and its control token takes one of it.
            left = ask.sampling.max_tokens - stop.position - 1
            writes = ask.policy.writes(stop.column)
            ended: Finish | None = None if left else "length"
            yield AnswerPart(stop=stop, finish=ended if writes else "stop")
            if writes and left:
                async for part in self._text(ask, self._words(ask, stop.column), left):
                    yield replace(part, text="", refusal=part.text)
        finally:
            self.writing -= 1

    def _stop(self, ask: ServeRequest, words: int) -> Stop | None:
        """Where the policy's monitor stops an answer of so many words."""
        if ask.policy.monitor is None:
            return None
        size = min(words, ask.sampling.max_tokens)
        scores = self.engine.position_scores(ask.messages, "", size)
        return first_stop(ask.policy.monitor, scores)

    async def _text(
        self, ask: ServeRequest, words: list[str], most: int
    ) -> AsyncIterator[AnswerPart]:
        """Parts of a text of at most so many words, until a stop string ends it."""
        stop = StopStrings(ask.sampling.stop)
        for n, word in enumerate(words[:most]):
            await asyncio.sleep(self.delay_s)
            self._fail(n)
            text = stop.feed(word)
            if stop.met:
                yield AnswerPart(text=text, tokens=1, finish="stop")
                return
            yield AnswerPart(text=text, tokens=1)
        yield AnswerPart(text=stop.flush(), finish="length" if len(words) > most else "stop")

    def _words(self, ask: ServeRequest, column: int) -> list[str]:
        """Words of the answer, each with the white space before it, so that they join to it."""
        text = self.engine.branches([ask.messages], [[column]])[0][column].text
        if column == 0 and ask.json_schema is not None:
            text = json.dumps({"answer": text})
        return re.findall(r"\s*\S+", text)

    def _fail(self, part: int) -> None:
        """Raise the error that is set for an answer after its first part."""
        if self._closed or (self.failure == "break" and part > 0):
            raise BackendDown(
                "the fake backend broke off in mid-answer", "it was closed, or told to fail"
            )
        if self.failure == "stall" and part > 0:
            raise BackendTimeout("the fake backend went quiet in mid-answer", "it was told to fail")


def _tool_call(ask: ServeRequest) -> dict[str, Any]:
    """A call without arguments of the function that tool_choice names, else of the first one."""
    names = [str(tool["function"]["name"]) for tool in ask.tools]
    name = ask.tool_choice if ask.tool_choice in names else names[0]
    return {"id": "call_0", "type": "function", "function": {"name": name, "arguments": "{}"}}
