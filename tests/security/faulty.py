"""Gate and gateways in front of a server behind that misbehaves, and what must come of each
request.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from demur.core.policy import CategoryPolicy, DoubtRule, Policy
from demur.core.taxonomy import Taxonomy, coconot, single
from demur.engines.hf.engine import HfEngine
from demur.engines.remote.chat_backend import OpenAiBackend
from demur.engines.remote.pre_answer import GateSettings, PreAnswerBackend
from demur.engines.remote.upstream import UpstreamOptions
from demur.engines.vllm.two_call_backend import TwoCallBackend
from tests.engines.chat_stub import events
from tests.engines.chat_stub import serving as stub_serving
from tests.engines.checkpoints import make_checkpoint
from tests.engines.upstream import Upstream
from tests.security.attempt import CANARY
from tests.security.faults import TRAP, Behind, behind, faults
from tests.security.gate import MarkScorer
from tests.security.site import Lines
from tests.server.live_server import Running, folder_of, serving

FRONTS = ("gate", "gateway, answer", "gateway, decision", "openai, answer", "openai, decision")
SAID = f"{CANARY} Name a river."
PATIENCE_S = 60.0  # a watchdog: the limits below, many times over
TAKEN = 16 << 20  # bytes: those that demur bounds, and what sockets on both sides hold
STATUSES = (400, 429, 502, 503, 504)


def upstream_options(url: str, name: str) -> UpstreamOptions:
    """Impatient with what is at fault."""
    decide_s = 0.5 if "decision" in name else 4.0
    return UpstreamOptions(
        url=url,
        tries=1,
        backoff_s=0.01,
        connect_s=2.0,
        decide_s=decide_s,
        first_token_s=0.5,
        stall_s=0.3,
    )


def is_streamed(body: dict[str, Any]) -> bool:
    """Whether the answer is asked for, after the decision."""
    return bool(body.get("stream"))


@dataclass
class Faulty:
    """One way to stand in front, with what stands behind."""

    name: str
    server: Running
    behind: Behind
    lines: list[str]
    names: tuple[str, ...]

    def verdict(self, name: str) -> str | None:
        """What a fault achieved; None: nothing. Every other one is met by a caller who streams."""
        self.behind.said, self.behind.fault, self.behind.sent = SAID, faults()[name], 0
        asked, trapped, logged = self.behind.asked, TRAP.asked, len(self.lines)
        stream = self.names.index(name) % 2 == 1
        began_s = time.monotonic()
        try:
            got = self.server.chat(SAID, stream=stream, max_tokens=4)
        except httpx.HTTPError as e:
            return f"no answer: {type(e).__name__}"
        finally:
            self.behind.fault = None
        found = list(self._achieved(got, stream=stream, took_s=time.monotonic() - began_s))
        if self.behind.asked == asked:
            found.append("nothing was asked")
        if TRAP.asked != trapped:
            found.append("the redirect was followed")
        found += (f"logged: {line[:200]}" for line in self.lines[logged:] if CANARY in line)
        return "; ".join(found) or None

    def _achieved(self, got: httpx.Response, *, stream: bool, took_s: float) -> Iterator[str]:
        if took_s > PATIENCE_S:
            yield f"it took {took_s:.1f} s"
        if self.behind.sent > TAKEN:
            yield f"{self.behind.sent} bytes were taken"
        if CANARY in f"{got.text}{got.headers}":
            yield f"what was said came back: {got.text[:200]}"
        if got.status_code != 200:
            error = got.json().get("error", {})
            if got.status_code not in STATUSES or set(error) != {
                "message",
                "type",
                "param",
                "code",
            }:
                yield f"status {got.status_code}: {got.text[:200]}"
            return
        yield from (self._stream(got.text) if stream else self._message(got.json()))

    def _message(self, body: dict[str, Any]) -> Iterator[str]:
        message = body["choices"][0]["message"]
        if not (message["content"] or message["refusal"] or message.get("tool_calls")):
            yield "an empty success"
        if "decision" in self.name and body["demur"]["decision"] == "respond":
            yield "answered without a score"

    def _stream(self, text: str) -> Iterator[str]:
        events = [e.removeprefix("data: ") for e in text.split("\n\n") if e]
        values = [json.loads(e) for e in events if e != "[DONE]"]
        choices = [c for v in values for c in v.get("choices", ())]
        said = "".join(
            (c["delta"].get("content") or "") + (c["delta"].get("refusal") or "") for c in choices
        )
        called = any(c["delta"].get("tool_calls") for c in choices)
        broken = "error" in values[-1]
        if broken == (events[-1] == "[DONE]"):
            yield "an error, and an end like any other" if broken else "no end"
        if not (broken or said or called):
            yield "an empty success"
        if not broken and choices[-1]["finish_reason"] is None:
            yield "no reason for the end"
        if "decision" in self.name and values[0].get("demur", {}).get("decision") == "respond":
            yield "answered without a score"

    def plain(self) -> str | None:
        """Whether a request is answered now, as if nothing had been."""
        got = self.server.chat(SAID, max_tokens=4)
        answered = got.status_code == 200 and got.json()["demur"]["decision"] == "respond"
        return None if answered else f"{got.status_code}: {got.text[:200]}"


@contextmanager
def front(name: str, root: Path) -> Iterator[Faulty]:
    """One of FRONTS, running."""
    if not TRAP.url:
        TRAP.start()
    if name == "gate":
        with (
            stub_serving(lambda number, body: events("fine", model="tiny")) as (url, stub),
            behind(url) as made,
        ):
            stub.models = ["tiny"]
            scorer = MarkScorer()
            backend = PreAnswerBackend(
                upstream=upstream_options(made.url, name),
                settings=GateSettings(model="tiny"),
                scorer=scorer,
            )
            with _running(name, root, backend, single(), made) as faulty:
                yield faulty
        return
    engine = HfEngine(model=make_checkpoint(root / "model", "llama"), tokens=coconot().tokens)
    with Upstream(engine) as upstream, behind(upstream.url) as made:
        if name.startswith("gateway"):
            here = str(engine.model)
            backend = TwoCallBackend(
                upstream=upstream_options(made.url, name),
                model="tiny",
                tokenizer=here,
                declared=engine.fingerprint,
            )
        else:
            backend = OpenAiBackend(
                upstream=upstream_options(made.url, name), model="tiny", declared=engine.fingerprint
            )
        with _running(name, root, backend, coconot(), made) as faulty:
            yield faulty


@contextmanager
def _running(
    name: str, root: Path, backend: Any, taxonomy: Taxonomy, made: Behind
) -> Iterator[Faulty]:
    categories = tuple(CategoryPolicy(threshold=0.9) for _ in taxonomy.names)
    policy = Policy(
        name="p",
        taxonomy=taxonomy,
        rule="heaviest",
        categories=categories,
        fingerprint=backend.fingerprint,
        doubt=DoubtRule(most_leftover=1.0),
    )
    if "decision" not in name:
        made.hit = is_streamed
    lines = Lines()
    logging.getLogger().addHandler(lines)
    try:
        with serving(folder_of(root / "policies", policy), backend=backend) as server:
            faulty = Faulty(
                name=name, server=server, behind=made, lines=lines.lines, names=tuple(faults())
            )
            if what := faulty.plain():
                raise RuntimeError(f"{name} answers nothing without a fault: {what}")
            yield faulty
    finally:
        logging.getLogger().removeHandler(lines)
