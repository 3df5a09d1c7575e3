"""A model in this process as a backend: many requests at once, each answered from one prefill.

1. The event loop encodes and computes nothing.
2. Prompts are encoded in one thread.
3. The model runs in another (demur.engines.inprocess.worker), which reads prompts, decides and
   writes for all requests; a supervisor replaces it if it hangs.
4. Decisions and parts of answers reach the event loop by futures and queues (Job).

Backend of `demur serve` when no other software is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from random import Random
from typing import ClassVar

import torch

from demur.base.arrays import Floats
from demur.base.errors import BackendBusy, BackendDown, DemurError, EngineError, PromptTooLong
from demur.core.decision import Decision
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import MonitorState
from demur.core.serving import (
    AnswerPart,
    ServedRun,
    ServeReply,
    ServeRequest,
    generates_nothing,
    no_parts,
)
from demur.engines.answer_text import AnswerText
from demur.engines.hf.engine import HfEngine
from demur.engines.hf.running_batch import batching_gap
from demur.engines.inprocess.grammar.pool import GrammarLimits, GrammarPool
from demur.engines.inprocess.job import Job
from demur.engines.inprocess.limits import BackendLimits
from demur.engines.inprocess.supervised import SupervisedWorker
from demur.engines.tool_calls import Schema, mode_of, text_or_call, with_tools

# Longest wait for a step of the model before the server counts as not ready: long enough for a
# step, short enough for a load balancer's probe.
PROBE_S = 5.0


class HfBackend:
    """Serves an HfEngine. Implements demur.core.serving.Backend.

    The engine belongs to the backend from now on: no other code may run its network. Construction
    reads the weight files for the fingerprint, and raises EngineError if rows that join a batch are
    read otherwise than alone. Greedy answers are those of HfEngine.branches; a seed fixes the draws
    of a sampled answer.
    """

    Options = BackendLimits
    stops_nothing: ClassVar[None] = None

    @classmethod
    def from_run(cls, run: ServedRun, options: BackendLimits) -> HfBackend:
        """Load the run's checkpoint and serve it, whichever engine scored the run."""
        return cls(run.load(), options)

    def __init__(self, engine: HfEngine, limits: BackendLimits | None = None) -> None:
        self._engine = engine
        self._limits = limits or BackendLimits()
        self._fingerprint = engine.fingerprint
        _require_batching(engine)
        vocabulary = engine.network.get_output_embeddings().weight.shape[0]
        self._grammars = GrammarPool(
            engine.tokenizer, engine.rules.stops, vocabulary, GrammarLimits()
        )
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="demur-encode")
        self._undecided = 0  # requests that await their decision
        self._worker = SupervisedWorker(engine, self._limits)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the engine."""
        return self._fingerprint

    @property
    def writing(self) -> int:
        """Number of answers that are being written."""
        return self._worker.writing

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Wait for a place, read the prompt, decide, and begin the answer.

        Raises BackendBusy when too many requests wait, BackendDown when the model has stopped,
        PolicyError on a policy of another model, PromptTooLong, and EngineError on a schema or a
        tool choice that cannot be honoured.
        """
        ask.policy.require_model(self._fingerprint)
        mode = mode_of(ask)
        if mode != "none":
            # Functions that leave no room for an answer are an error, whatever will be decided.
            described = replace(ask, messages=with_tools(ask))
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._encoding, self._prepare, described)
        job, decision, logp_C = await self._decide(ask)
        parts: AsyncIterator[AnswerPart] = no_parts()
        if mode != "none" and decision.outcome == "answer":
            # The decision is made without the functions, the answer is written with them: from
            # another prompt, so this job ends here.
            self._worker.cancel(job)
            parts = await text_or_call(
                ask, mode, partial(self._go_on, replace(ask, messages=with_tools(ask)))
            )
        elif not generates_nothing(ask, decision):
            parts = await self._begun(job, decision)
        return ServeReply(decision=decision, logp_C=logp_C, prompt_tokens=len(job.ids), parts=parts)

    async def _go_on(self, ask: ServeRequest, schema: Schema | None) -> JobParts:
        """Write an answer to a request that was decided on another prompt."""
        # Every score leads to the answer that was decided; the monitor watches it all the same.
        job, decision, _ = await self._decide(
            replace(ask, policy=ask.policy.passing(), json_schema=schema, tools=())
        )
        return await self._begun(job, decision)

    async def _begun(self, job: Job, decision: Decision) -> JobParts:
        """Parts of a decided request's answer; first waits for the grammar of its JSON schema."""
        schema = job.ask.json_schema
        if schema is not None and decision.outcome == "answer":
            try:
                grammar = await self._grammars.begin(schema, job.ask.tenant)
            except BaseException:  # cancellation too: a request without a caller keeps no place
                self._worker.cancel(job)
                raise
            self._worker.bind(job, grammar)
        return JobParts(job, self._worker)

    async def _decide(self, ask: ServeRequest) -> tuple[Job, Decision, Floats]:
        """Queue a prompt and wait for its decision; the worker goes on with its answer."""
        self._worker.check()
        if self._undecided >= self._limits.waiting:
            raise BackendBusy(
                f"{self._undecided} requests wait already", "try again later, or allow more to wait"
            )
        self._undecided += 1
        try:
            loop = asyncio.get_running_loop()
            make_job = await loop.run_in_executor(self._encoding, self._prepare, ask)
            job = make_job(loop=loop, decided=loop.create_future())
            self._worker.add(job)
            try:
                decision, logp_C = await job.decided
            except asyncio.CancelledError:
                self._worker.cancel(job)
                raise
        finally:
            self._undecided -= 1
        return job, decision, logp_C

    async def ready(self) -> None:
        """Return once the model has computed a step of the answers under way, or one token.

        Raises BackendDown, with the reason, when its thread has ended or is stuck, and when it has
        computed nothing within PROBE_S.
        """
        try:
            async with asyncio.timeout(PROBE_S):
                await asyncio.wrap_future(self._worker.probe())
        except TimeoutError:
            raise BackendDown(
                f"the model has computed nothing for {PROBE_S:g} s", "try again later"
            ) from None

    async def close(self) -> None:
        """Stop the model; open replies end with BackendDown."""
        await asyncio.to_thread(self._worker.stop)
        await asyncio.to_thread(self._grammars.close)
        self._encoding.shutdown(wait=False)

    def _prepare(self, ask: ServeRequest) -> partial[Job]:
        """Encode a request, outside the event loop; a Job without its loop and future.

        Raises PromptTooLong if the prompt and its control token do not fit the context.
        """
        engine, sampling, monitor = self._engine, ask.sampling, ask.policy.monitor
        context = engine.rules.context
        # Encoding takes time with a text's length, and all requests share this thread: a text that
        # cannot fit is refused by its lower bound of tokens, without encoding it.
        if context is not None and (fewest := engine.encoder.fewest_tokens(ask.messages)) > context:
            raise PromptTooLong(
                f"the prompt has {fewest} tokens or more; the model reads {context}",
                "shorten the messages",
            )
        ids = tuple(engine.encoder.prompt(ask.messages))
        room = sampling.max_tokens if context is None else context - len(ids) - 1
        if room < 0:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens and needs 1 more for its control token; the "
                f"model reads {context}",
                "shorten the messages",
            )
        return partial(
            Job,
            ask=ask,
            ids=ids,
            limit=min(sampling.max_tokens, room),
            text=AnswerText(self._decode, sampling.stop),
            random=Random(sampling.seed),
            watch=None if monitor is None else MonitorState(monitor),
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self._engine.tokenizer.decode(ids, skip_special_tokens=True))


class JobParts:
    """Parts of one request's answer as they are written. Closing it frees the request's place."""

    def __init__(self, job: Job, worker: SupervisedWorker) -> None:
        self._job = job
        self._worker = worker
        self._ended = False

    def __aiter__(self) -> JobParts:
        return self

    async def __anext__(self) -> AnswerPart:
        if self._ended:
            raise StopAsyncIteration
        part = await self._job.parts.get()
        if isinstance(part, DemurError):
            self._ended = True
            raise part
        self._ended = part.finish is not None
        return part

    async def aclose(self) -> None:
        """Stop writing the answer if it has not ended."""
        self._ended = True
        self._worker.cancel(self._job)


def _require_batching(engine: HfEngine) -> None:
    """Raise EngineError if padding, or joining a running batch, changes the model's scores."""
    with torch.inference_mode():
        if not engine.padding_is_harmless:
            raise EngineError(
                f"padding on the right changes the scores of {type(engine.network).__name__}",
                "in-process serving needs a causal decoder; serve the model with another back end",
            )
        # Control and stop ids are valid tokens of any model; rows of three lengths need padding.
        short = [engine.encoder.token_ids[0], *sorted(engine.rules.stops)]
        gap, allowed = batching_gap(engine.network, [short, short * 3, short * 2], engine.filler)
    if not gap <= allowed:
        raise EngineError(
            f"rows that join a batch of {type(engine.network).__name__} are read otherwise than "
            f"alone: their log-probabilities differ by {gap:.2g}, rounding explains {allowed:.2g}",
            "serve the model with another back end",
        )
