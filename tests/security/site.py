"""The server that is attacked: a tiny model in process behind a real socket, five tenants, and what
it gives away.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import numpy as np

from demur.core.example import Message
from demur.core.policy import CategoryPolicy, DoubtRule, Policy, Sensitivity
from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess.backend import HfBackend
from demur.server.admission import connection
from demur.server.monitoring.log import JsonLines
from demur.server.settings import RequestLimits
from tests.engines.checkpoints import make_checkpoint, user
from tests.security.attempt import CALLER, EXPIRED, KEYS, NARROW, OPERATOR, OTHER, TUNER, Attempt
from tests.server.live_server import Running, folder_of, serving

GENTLE = "gentle"  # a sensitivity of the policy `tuned`
LIMITS = RequestLimits(
    body_bytes=20_000,
    body_s=1.0,
    messages=20,
    choices=2,
    answer_tokens=3,
    most_answer_tokens=16,
    in_flight=64,
)
ORDINARY = (
    "Name a river.",
    "bake bread",
    "What is the capital of France?",
    "Tell me how you feel.",
    "the sea",
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running server, and what can be seen of it from within."""

    server: Running
    oracle: HfEngine  # the same model once more, to decide by itself
    policies: dict[str, Policy]  # by tenant's key
    read: list[list[list[int]]]  # ids that the served model has read, by forward pass and row
    log: list[str]  # lines

    def send(self, attempt: Attempt) -> Answer:
        """Send an attempt as it is: no client library tidies its path or headers up."""
        place = urlsplit(self.server.url)
        line = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        try:
            named = {name.lower() for name, _ in attempt.headers}
            line.putrequest(
                attempt.method, attempt.path, skip_host="host" in named, skip_accept_encoding=True
            )
            for name, value in (*attempt.headers, *_usual(attempt, named)):
                line.putheader(name, value)
            line.endheaders(attempt.content)
            got = line.getresponse()
            headers = tuple(got.getheaders())
            return Answer(status=got.status, headers=headers, text=got.read().decode())
        finally:
            line.close()


def _usual(attempt: Attempt, named: set[str]) -> Iterator[tuple[str, str]]:
    if attempt.key is not None:
        yield "authorization", f"Bearer {attempt.key}"
    if attempt.content is not None:
        yield "content-length", str(len(attempt.content))
        if "content-type" not in named:
            yield "content-type", "application/json"


class Lines(logging.Handler):
    """Keeps the log as an operator would see it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def policies_for(engine: HfEngine) -> dict[str, Policy]:
    """By name. `guarded` refuses about half of ORDINARY; one category of `tuned` is locked, one has
    limits.
    """
    half = float(np.median(np.exp(engine.logp([user(t) for t in ORDINARY])[:, 1:]).max(axis=1)))

    def made(name: str, threshold: float, **special: CategoryPolicy) -> Policy:
        categories = tuple(
            special.get(n, CategoryPolicy(threshold=threshold)) for n in coconot().names
        )
        return Policy(
            name=name,
            taxonomy=coconot(),
            rule="heaviest",
            categories=categories,
            fingerprint=engine.fingerprint,
            # a random model: all would be refused, and half is to be answered
            doubt=DoubtRule(most_leftover=1.0),
        )

    locked = CategoryPolicy(threshold=half, locked=True)
    tuned = made(
        "tuned", 0.5, safety=locked, humanizing=CategoryPolicy(threshold=0.5, limits=(0.2, 0.8))
    )
    gentle = Sensitivity(name=GENTLE, thresholds=(("incomplete", 0.6),))
    tuned = replace(tuned, sensitivities=(gentle,))
    strict = made("strict", 0.0)
    strict = replace(strict, categories=tuple(replace(c, locked=True) for c in strict.categories))
    return {"guarded": made("guarded", half), "tuned": tuned, "strict": strict}


def tenants_toml(path: Path) -> Path:
    """Five tenants; the caller has two keys, one of them expired."""
    rows: Sequence[tuple[str, str, str, str]] = (
        ("caller", "guarded", "requests_per_minute = 100000", CALLER),
        ("tuner", "tuned", "requests_per_minute = 100000\nmay_override = true", TUNER),
        ("other", "strict", "requests_per_minute = 100000", OTHER),
        ("operator", "guarded", "sees_scores = true", OPERATOR),
        ("narrow", "guarded", "requests_per_minute = 6\nconcurrent = 1", NARROW),
    )
    text = ""
    for name, policy, more, key in rows:
        text += f'[tenants.{name}]\npolicies = ["{policy}"]\n{more}\n{_key(name, "current", key)}'
    text += _key("caller", "former", EXPIRED) + "expires = 2020-01-01T00:00:00Z\n"
    path.write_text(text, encoding="utf-8")
    return path


def _key(tenant: str, label: str, key: str) -> str:
    return (
        f'[[tenants.{tenant}.keys]]\nlabel = "{label}"\nsha256 = '
        f'"{hashlib.sha256(key.encode()).hexdigest()}"\n'
    )


def logged_secrets(log: Sequence[str], canary: str) -> list[str]:
    """Lines that hold a key or what was said."""
    return [line for line in log if canary in line or any(key in line for key in KEYS)]


@contextmanager
def site(root: Path) -> Iterator[Site]:
    """The server, running."""
    checkpoint = make_checkpoint(root / "model", "llama")
    served, oracle = (HfEngine(model=checkpoint, tokens=coconot().tokens) for _ in range(2))
    policies = policies_for(oracle)
    read: list[list[list[int]]] = []

    def see(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read.append((args[0] if args else kwargs["input_ids"]).tolist())

    lines = Lines()
    logging.getLogger().addHandler(lines)
    before = logging.getLogger("demur").level
    logging.getLogger("demur").setLevel(logging.DEBUG)
    folder = folder_of(root / "policies", *policies.values())
    backend = HfBackend(served)
    hook = served.network.register_forward_pre_hook(see, with_kwargs=True)
    by_key = {CALLER: policies["guarded"], TUNER: policies["tuned"], OTHER: policies["strict"]}
    try:
        # A connection without a request is closed after seconds, so that trying it does not take
        # long.
        idle = patch.object(connection, "IDLE_S", 2.0)
        with (
            idle,
            serving(
                folder, tenants_toml(root / "tenants.toml"), backend=backend, limits=LIMITS
            ) as server,
        ):
            yield Site(server=server, oracle=oracle, policies=by_key, read=read, log=lines.lines)
    finally:
        hook.remove()
        logging.getLogger().removeHandler(lines)
        logging.getLogger("demur").setLevel(before)


def messages(turns: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Turns as the engine takes them."""
    return tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]
