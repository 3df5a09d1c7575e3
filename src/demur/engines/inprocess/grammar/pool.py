"""JSON answers: which tokens may come next under a JSON schema, found out by other processes than
this one.

A schema is a program that a client sends, and llguidance (an optional package, extra "json") runs
it. So it runs in a process per schema, forked by demur.engines.inprocess.grammar.fork_server, with
limits on its time and memory. The decoding thread reads finished masks from sockets, and waits for
none of them longer than it says.

1. `GrammarPool.begin`, after the decision: an answer under a schema. The process of a schema is
   kept while answers use it, and a few idle ones afterwards, by the digest of the schema. Schemas
   that were too much are remembered too.
2. `Grammar.take` tells the process which token was written; the next mask is computed while the
   model runs.
3. `wait` lets the decoding thread wait a moment for masks that are late. It must never wait without
   a limit.

A grammar binds answers only. It begins after the control token, so a refusal is never forced into a
schema.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from time import monotonic
from typing import Any

from transformers import PreTrainedTokenizerFast

from demur.base.errors import (
    BackendBusy,
    BackendDown,
    DemurError,
    EngineError,
    MissingDependency,
    SchemaTooCostly,
)
from demur.base.schemas.limits import TOGETHER, SchemaBounds, exceeded_bound
from demur.engines.inprocess.grammar import fork_server
from demur.engines.inprocess.grammar.fair_queue import FairQueue
from demur.engines.inprocess.grammar.fork_client import ForkServer, tokenizer_text
from demur.engines.inprocess.grammar.process import Grammar, SchemaProcess

SLACK_S = 5.0  # for a child to be scheduled, beyond its own limit, on a busy machine
_REMEMBERED = 1024  # digests of schemas that were too much
_REFUSED_S = 600.0  # for which they are refused unseen: the machine may have been at fault


@dataclass(frozen=True, kw_only=True, slots=True)
class GrammarLimits:
    """What one schema may take."""

    compile_s: float = 2.0  # to prepare it
    step_s: float = 0.5  # to find out which tokens may come next, once
    answer_s: float = 10.0  # the same, over a whole answer
    memory_bytes: int = 128 * 2**20  # beyond what the tokenizer takes
    bounds: SchemaBounds = TOGETHER
    processes: int = 16  # schemas that are held at once, in use or not
    at_once: int = 2  # schemas that are prepared at once
    waiting: int = 8  # of one tenant, for a place


class GrammarPool:
    """Grammars for one tokenizer. Safe to use from any thread; nothing is started before the first
    use.

    stops: ids that end an answer; they are allowed where the JSON may end. vocabulary: logits that
    the model has. Raises MissingDependency, on use, when llguidance is not installed or the system
    cannot fork.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        stops: frozenset[int],
        vocabulary: int,
        limits: GrammarLimits,
    ) -> None:
        self._limits = limits
        self._stops = sorted(stops)
        self._vocabulary = vocabulary
        self._tokenizer = tokenizer
        self._queue: FairQueue | None = None
        self._host: ForkServer | None = None
        self._starting = threading.Lock()
        self._lock = threading.Lock()  # guards everything below
        # by digest; the one used last comes last
        self._held: OrderedDict[str, SchemaProcess] = OrderedDict()
        self._preparing: dict[str, _Preparation] = {}
        self._refused: OrderedDict[str, tuple[str, float]] = OrderedDict()  # why, and until when
        self._closed = False

    async def begin(self, schema: Mapping[str, Any], tenant: str = "") -> Grammar:
        """An answer under a JSON schema; {}: any JSON object. Cancelling lets go of it, and of what
        is under way.

        Raises EngineError if the schema cannot be followed, SchemaTooCostly if it takes more than
        its limits, and BackendBusy if the tenant has many waiting or in use.
        """
        _require_parts()
        if found := exceeded_bound(schema, self._limits.bounds):
            raise SchemaTooCostly(f"the JSON schema is not taken: {found}", "make it smaller")
        text = json.dumps(dict(schema) or {"type": "object"})
        digest = sha256(text.encode()).hexdigest()
        while True:
            with self._lock:
                process = self._held.get(digest)
                if process is not None and process.alive:
                    self._held.move_to_end(digest)
                    return process.begin()
                if process is not None and process.died:
                    self._refuse(digest, "costly")
                    del self._held[digest]
                preparation = self._awaited(digest, text, tenant)
            try:
                await asyncio.shield(asyncio.wrap_future(preparation.done))
            finally:
                self._leave(preparation)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            held, self._held = self._held, OrderedDict()
        if self._queue is not None:
            self._queue.close()
        for process in held.values():
            process.close()
        if self._host is not None:
            self._host.close()

    def _awaited(self, digest: str, text: str, tenant: str) -> _Preparation:
        """The process under way for a schema, begun if there is none, with one more who waits. The
        lock is held.
        """
        if self._closed:
            raise BackendDown("the model is shutting down", "start the server again")
        why, until_s = self._refused.get(digest, ("", 0.0))
        if monotonic() < until_s:
            raise _refusal(why)
        preparation = self._preparing.get(digest)
        if preparation is None:
            self._require_place(tenant)
            preparation = _Preparation(digest=digest, text=text, tenant=tenant)
            if self._queue is None:
                self._queue = FairQueue(self._limits.at_once, self._limits.waiting, "demur-grammar")
            self._queue.put(tenant, partial(self._prepare, preparation))
            self._preparing[digest] = preparation
        preparation.waiting += 1
        return preparation

    def _require_place(self, tenant: str) -> None:
        """Raise BackendBusy if all places, or a tenant's half of them, are taken by schemas in
        use.
        """
        used = [p.tenant for p in self._held.values() if p.in_use] + [
            c.tenant for c in self._preparing.values()
        ]
        most = self._limits.processes
        if len(used) >= most or used.count(tenant) >= max(1, most // 2):
            raise BackendBusy(
                f"{len(used)} JSON schemas are in use, {used.count(tenant)} of this tenant",
                "try later",
            )

    def _leave(self, preparation: _Preparation) -> None:
        """One fewer waits; if nobody does, the work is dropped."""
        with self._lock:
            preparation.waiting -= 1
            if preparation.waiting or preparation.done.done():
                return
            self._forget(preparation)  # who asks for the same schema now has it begun anew
            if self._host is not None and preparation.number is not None:
                self._host.kill(preparation.number)

    def _forget(self, preparation: _Preparation) -> None:
        if self._preparing.get(preparation.digest) is preparation:
            del self._preparing[preparation.digest]

    def _prepare(self, preparation: _Preparation) -> None:
        """In a thread of the queue: have a process made that holds the schema."""
        process: SchemaProcess | None = None
        error: DemurError | None = None
        try:
            process = self._compiled(preparation) if preparation.waiting else None
        except _Refused as e:
            error = _refusal(e.why)
            with self._lock:
                if preparation.waiting:  # one that was dropped was perhaps not too much
                    self._refuse(preparation.digest, e.why)
        except DemurError as e:
            error = e
        except OSError as e:
            error = BackendDown(
                f"no process for a JSON schema can be had: {e.strerror}",
                "look at the system's limits",
            )
        with self._lock:
            self._forget(preparation)
            if process is not None:
                self._hold(preparation.digest, process)
        if error is not None and preparation.waiting:
            preparation.done.set_exception(error)
        else:
            preparation.done.set_result(None)

    def _refuse(self, digest: str, why: str) -> None:
        """Remember a schema that was too much, for a while. The lock is held."""
        self._refused[digest] = (why, monotonic() + _REFUSED_S)
        while len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)

    def _hold(self, digest: str, process: SchemaProcess) -> None:
        """Keep a process, and let the idle ones go that were used least lately. The lock is
        held.
        """
        if self._closed:
            process.close()
            return
        self._held[digest] = process
        spare = [d for d, p in self._held.items() if not p.in_use and d != digest]
        for old in spare[: max(0, len(self._held) - self._limits.processes)]:
            self._held.pop(old).close()

    def _settings(self) -> dict[str, Any]:
        limits = self._limits
        return {
            "tokenizer": tokenizer_text(self._tokenizer),
            "vocabulary": self._vocabulary,
            "stops": self._stops,
            "compile_s": limits.compile_s,
            "step_s": limits.step_s,
            "answer_s": limits.answer_s,
            "memory_bytes": limits.memory_bytes,
        }

    def _compiled(self, preparation: _Preparation) -> SchemaProcess:
        """A process that holds the schema. Raises _Refused, and BackendDown where none can be
        had.
        """
        with self._starting:
            if self._host is None or not self._host.alive:
                self._host = ForkServer(self._settings())
        line, preparation.number = self._host.start()
        line.settimeout(self._limits.compile_s + SLACK_S)
        data = preparation.text.encode()
        try:
            line.sendall(fork_server.LENGTH.pack(len(data)) + data)
            said = line.recv(1)
        except TimeoutError:
            self._host.kill(preparation.number)
            said = b""
        except OSError:
            said = b""
        if said != fork_server.COMPILED:
            line.close()
            if not self._host.alive:  # the schema may be blameless
                raise BackendDown("the process that prepares JSON schemas has ended", "ask again")
            raise _Refused("unfit" if said == fork_server.UNFIT else "costly")
        line.settimeout(None)
        return SchemaProcess(line, 4 * -(-self._vocabulary // 32), preparation.tenant)


@dataclass(kw_only=True, slots=True, eq=False)
class _Preparation:
    """A process that is being made, and how many wait for it."""

    digest: str
    text: str
    tenant: str
    waiting: int = 0
    number: int | None = None  # at the host
    done: Future[None] = field(default_factory=Future)


class _Refused(Exception):
    """A schema that got no process: "unfit" (llguidance does not follow it) or "costly" (it took
    more than it may).
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _refusal(why: str) -> EngineError:
    if why == "costly":
        return SchemaTooCostly(
            "the JSON schema takes more time or memory than one may", "make it simpler"
        )
    return EngineError(
        "the JSON schema cannot be followed: it contradicts itself, or uses what is not supported",
        "leave out keywords beyond types, properties, items, enum, const, anyOf, allOf, $ref, "
        "pattern and bounds",
    )


def _require_parts() -> None:
    if find_spec("llguidance") is None:
        raise MissingDependency("JSON answers need llguidance", "pip install 'demur[json]'")
    if not hasattr(os, "fork"):
        raise MissingDependency(
            "JSON answers need a system that can fork processes", "serve with another back end"
        )
