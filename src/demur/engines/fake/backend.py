"""A backend without weights: the fake engine's scores and texts, word by word, with failures on
request.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from demur.base.errors import BackendBusy, BackendDown, BackendTimeout
from demur.core.decision import decide_or_doubt
from demur.core.policy import Fingerprint
from demur.core.serving import Ask, Part, Reply, ServedRun, is_silent, nothing
from demur.engines.fake.engine import FakeEngine
from demur.engines.stop_strings import StopStrings

# At open: down, busy, timeout. In mid-answer, after the first part: break (BackendDown), stall
# (BackendTimeout).
Failure = Literal["down", "busy", "timeout", "break", "stall"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeOptions:
    """[backend] of a fake one: nothing to set."""


@dataclass(kw_only=True, slots=True)
class FakeBackend:
    """Implements demur.core.serving.Backend. `failure` and `delay_s` may be changed while it runs.

    Every word is a token. With a JSON schema the answer is {"answer": text}; a tool is called when
    it is required.
    """

    Options: ClassVar = FakeOptions

    engine: FakeEngine
    delay_s: float = 0.0  # before every part
    failure: Failure | None = None
    writing: int = field(default=0, init=False)  # replies being read now
    _closed: bool = field(default=False, init=False)

    @classmethod
    # there is nothing in them
    def from_run(cls, run: ServedRun, options: FakeOptions) -> FakeBackend:  # noqa: ARG003
        """Over the fake engine with its default settings, in the run's taxonomy."""
        return cls(engine=FakeEngine(taxonomy=run.taxonomy))

    @property
    def fingerprint(self) -> Fingerprint:
        """The fake engine's."""
        return self.engine.fingerprint

    async def open(self, ask: Ask) -> Reply:
        """Decide by the fake engine's score. Raises PolicyError on a policy of another model, or as
        `failure` says.
        """
        ask.policy.require_model(self.fingerprint)
        await self.ready()
        if self.failure == "busy":
            raise BackendBusy("the fake backend is full", "it was told to fail")
        if self.failure == "timeout":
            raise BackendTimeout("the fake backend did not answer in time", "it was told to fail")
        logp_C = self.engine.logp([ask.messages])[0]
        decision = decide_or_doubt(ask.policy, logp_C)
        parts = nothing() if is_silent(ask, decision) else self._write(ask, decision.column)
        prompt_tokens = sum(len(m.content.split()) for m in ask.messages)
        return Reply(decision=decision, logp_C=logp_C, prompt_tokens=prompt_tokens, parts=parts)

    async def ready(self) -> None:
        """Raises BackendDown after close, and while `failure` is "down"."""
        if self._closed or self.failure == "down":
            raise BackendDown("the fake backend is down", "it was closed, or told to fail")

    async def close(self) -> None:
        """Replies being read end with BackendDown."""
        self._closed = True

    async def _write(self, ask: Ask, column: int) -> AsyncIterator[Part]:
        self.writing += 1
        try:
            if column == 0 and ask.tools and ask.tool_choice not in (None, "auto", "none"):
                yield Part(tokens=1, finish="tool_calls", tool_calls=(_tool_call(ask),))
                return
            words = self._words(ask, column)
            stop = StopStrings(ask.sampling.stop)
            for n, word in enumerate(words[: ask.sampling.max_tokens]):
                await asyncio.sleep(self.delay_s)
                self._fail(n)
                text = stop.feed(word)
                if stop.met:
                    yield Part(text=text, tokens=1, finish="stop")
                    return
                yield Part(text=text, tokens=1)
            yield Part(
                text=stop.flush(),
                finish="length" if len(words) > ask.sampling.max_tokens else "stop",
            )
        finally:
            self.writing -= 1

    def _words(self, ask: Ask, column: int) -> list[str]:
        """The answer's words, each with the space before it."""
        text = self.engine.branches([ask.messages], [[column]])[0][column].text
        if column == 0 and ask.json_schema is not None:
            text = json.dumps({"answer": text})
        return re.findall(r"\s*\S+", text)

    def _fail(self, part: int) -> None:
        if self._closed or (self.failure == "break" and part > 0):
            raise BackendDown(
                "the fake backend broke off in mid-answer", "it was closed, or told to fail"
            )
        if self.failure == "stall" and part > 0:
            raise BackendTimeout("the fake backend went quiet in mid-answer", "it was told to fail")


def _tool_call(ask: Ask) -> dict[str, Any]:
    """A call, without arguments, of the function that was asked for by name, else of the first."""
    names = [str(tool["function"]["name"]) for tool in ask.tools]
    name = ask.tool_choice if ask.tool_choice in names else names[0]
    return {"id": "call_0", "type": "function", "function": {"name": name, "arguments": "{}"}}
