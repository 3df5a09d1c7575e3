"""JSON answers: a pool of processes that compute which tokens may come next under a JSON schema.

A schema is a program that a client sends, and llguidance (an optional package, extra "json") runs
it. So each schema has a process of its own, with limits of time and memory.

1. `GrammarPool.begin`, called after the decision, begins an answer under a schema. Processes are
   kept by the schema's digest: those in use, and a few idle ones. Schemas that exceeded a limit are
   remembered and refused for a while.
2. A fork server (fork_server.py, started by fork_client.py) makes a process. Requests for it wait
   in a queue that serves tenants in turn (fair_queue.py).
3. `Grammar.take` (process.py) sends the token that was written; the process computes the next mask
   while the model runs.
4. The decoding thread reads masks from sockets with `wait`, always with a limit of time.

A grammar applies to answers only: it begins after the control token, so that no refusal is forced
into a schema.
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

# Waiting time beyond a child's limit of processor time, for it to be scheduled on a busy machine.
SLACK_S = 5.0
_REMEMBERED = 1024  # most digests of schemas that exceeded a limit
_REFUSED_S = (
    600.0  # seconds for which these are refused; not longer: the machine may have been busy
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrammarLimits:
    """Limits of one schema (processor time, memory, size) and of the pool."""

    compile_s: float = 2.0  # to compile it
    step_s: float = 0.5  # to compute one mask
    answer_s: float = 10.0  # to compute all masks of an answer
    memory_bytes: int = 128 * 2**20  # beyond the tokenizer's
    bounds: SchemaBounds = TOGETHER
    processes: int = 16  # processes held at once, in use or idle
    at_once: int = 2  # schemas compiled at once
    waiting: int = 8  # schemas of one tenant that wait to be compiled


class GrammarPool:
    """Processes of the schemas of one tokenizer. Safe to use from any thread.

    stops: ids that end an answer; they are allowed where the JSON may end. vocabulary: number of
    logits of the model. No process is started before the first use, which raises MissingDependency
    when llguidance is not installed or the system cannot fork.
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
        self._server: ForkServer | None = None
        self._starting = threading.Lock()
        self._lock = threading.Lock()  # guards everything below
        # by digest of the schema; the one used last comes last
        self._held: OrderedDict[str, SchemaProcess] = OrderedDict()
        self._preparing: dict[str, _Preparation] = {}
        # digest -> reason, and the time until which the schema is refused
        self._refused: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._closed = False

    async def begin(self, schema: Mapping[str, Any], tenant: str = "") -> Grammar:
        """Begin an answer under a JSON schema; {}: any JSON object. May be cancelled at any time.

        Raises EngineError if the schema cannot be followed, SchemaTooCostly if it exceeds a limit,
        and BackendBusy if the tenant has many waiting or in use.
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
                # Shielded: a caller that is cancelled must not cancel the future of the others.
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
        if self._server is not None:
            self._server.close()

    def _awaited(self, digest: str, text: str, tenant: str) -> _Preparation:
        """Wait for the preparation of a schema's process; begins it if none is under way.

        The lock is held. Raises BackendDown after close, BackendBusy without a place, and the
        refusal of a schema that is remembered.
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
        """Raise BackendBusy if schemas in use take all places, or a tenant's half of them."""
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
        """Stop waiting for a preparation; the last one to stop cancels it."""
        with self._lock:
            preparation.waiting -= 1
            if preparation.waiting or preparation.done.done():
                return
            self._forget(preparation)  # the next request for this schema begins another one
            if self._server is not None and preparation.number is not None:
                self._server.kill(preparation.number)

    def _forget(self, preparation: _Preparation) -> None:
        """Remove a preparation unless another one has its place. The lock is held."""
        if self._preparing.get(preparation.digest) is preparation:
            del self._preparing[preparation.digest]

    def _prepare(self, preparation: _Preparation) -> None:
        """Have a schema's process made, in a thread of the queue, and set the future."""
        process: SchemaProcess | None = None
        error: DemurError | None = None
        try:
            process = self._compiled(preparation) if preparation.waiting else None
        except _Refused as e:
            error = _refusal(e.why)
            with self._lock:
                # One that was cancelled and killed did not necessarily exceed a limit.
                if preparation.waiting:
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
        """Remember a schema that exceeded a limit, for a while. The lock is held."""
        self._refused[digest] = (why, monotonic() + _REFUSED_S)
        while len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)

    def _hold(self, digest: str, process: SchemaProcess) -> None:
        """Keep a process; close surplus idle ones, least recently used first. The lock is held."""
        if self._closed:
            process.close()
            return
        self._held[digest] = process
        spare = [d for d, p in self._held.items() if not p.in_use and d != digest]
        for old in spare[: max(0, len(self._held) - self._limits.processes)]:
            self._held.pop(old).close()

    def _settings(self) -> dict[str, Any]:
        """The settings that the fork server reads."""
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
        """Have a schema compiled by a new process.

        Raises _Refused if the schema cannot be followed or exceeds a limit, BackendDown if there is
        no process.
        """
        with self._starting:  # not _lock: starting takes seconds, in which answers go on
            if self._server is None or not self._server.alive:
                self._server = ForkServer(self._settings())
        line, preparation.number = self._server.start()
        line.settimeout(self._limits.compile_s + SLACK_S)
        data = preparation.text.encode()
        # The reply is one byte. No byte in time, or a closed socket: the child exceeded a limit.
        try:
            line.sendall(fork_server.LENGTH.pack(len(data)) + data)
            said = line.recv(1)
        except TimeoutError:
            self._server.kill(preparation.number)
            said = b""
        except OSError:
            said = b""
        if said != fork_server.COMPILED:
            line.close()
            if not self._server.alive:  # then the schema was not necessarily at fault
                raise BackendDown("the process that prepares JSON schemas has ended", "ask again")
            raise _Refused("unfit" if said == fork_server.UNFIT else "costly")
        line.settimeout(None)
        # A mask has a bit per logit, in words of 32 bits.
        return SchemaProcess(line, 4 * -(-self._vocabulary // 32), preparation.tenant)


@dataclass(kw_only=True, slots=True, eq=False)
class _Preparation:
    """A schema's process that is being made, and the requests that wait for it."""

    digest: str  # of the schema
    text: str  # the schema
    tenant: str  # of the first request
    waiting: int = 0  # requests
    number: int | None = None  # of the child at the fork server
    done: Future[None] = field(default_factory=Future)


class _Refused(Exception):
    """A schema that got no process. why: "unfit", llguidance cannot follow it; "costly", it
    exceeded a limit.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _refusal(why: str) -> EngineError:
    """The error of a refused schema, for the caller."""
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
    """Raise MissingDependency without llguidance, or on a system without fork."""
    if find_spec("llguidance") is None:
        raise MissingDependency("JSON answers need llguidance", "pip install 'demur[json]'")
    if not hasattr(os, "fork"):
        raise MissingDependency(
            "JSON answers need a system that can fork processes", "serve with another back end"
        )
