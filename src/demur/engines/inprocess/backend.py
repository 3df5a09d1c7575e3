"""A model in this very process behind a server: many requests at once, each decided and answered
from one prefill.

The event loop encodes nothing and computes nothing: prompts are encoded in one thread, the model
runs in another (demur.engines.inprocess.worker). Backend of `demur serve` when no other software is
named.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from random import Random

import torch

from demur.base.arrays import Floats
from demur.base.errors import BackendBusy, BackendDown, DemurError, EngineError, PromptTooLong
from demur.core.decision import Decision
from demur.core.fingerprint import Fingerprint
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

# for the model to show that it computes: a load balancer is to look elsewhere meanwhile
PROBE_S = 5.0


class HfBackend:
    """An HfEngine in service. Implements demur.core.serving.Backend.

    The engine belongs to the backend from now on: nobody else may run its network. Construction
    reads the weight files for the fingerprint and tries out that rows which join a batch are read
    as they are alone; it raises EngineError if they are not. Greedy answers are those of
    HfEngine.branches; a seed fixes the draws of a sampled one.
    """

    Options = BackendLimits

    @classmethod
    def from_run(cls, run: ServedRun, options: BackendLimits) -> HfBackend:
        """Around the run's checkpoint, loaded here. Whatever scored the run: the same fingerprint
        is the same model.
        """
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
        self._undecided = 0
        self._worker = SupervisedWorker(engine, self._limits)

    @property
    def fingerprint(self) -> Fingerprint:
        """The engine's."""
        return self._fingerprint

    @property
    def writing(self) -> int:
        """Answers that are being written."""
        return self._worker.writing

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Wait for a place, read the prompt, decide.

        Raises BackendBusy when too many requests wait, BackendDown when the model has stopped,
        PolicyError on a policy of another model, PromptTooLong, and EngineError on a schema or a
        tool choice that cannot be honoured.
        """
        ask.policy.require_model(self._fingerprint)
        mode = mode_of(ask)
        if mode != "none":
            await self._require_callable(ask)
        job, decision, logp_C = await self._decide(ask)
        parts: AsyncIterator[AnswerPart] = no_parts()
        if mode != "none" and not decision.refuses:
            self._worker.cancel(job)  # decided without the functions; the answer is to know of them
            parts = await text_or_call(
                ask, mode, partial(self._go_on, replace(ask, messages=with_tools(ask)))
            )
        elif not generates_nothing(ask, decision):
            parts = await self._begun(job, decision)
        return ServeReply(decision=decision, logp_C=logp_C, prompt_tokens=len(job.ids), parts=parts)

    async def _require_callable(self, ask: ServeRequest) -> None:
        """Raise PromptTooLong for functions that leave no room for an answer, whatever will be
        decided.
        """
        described = replace(ask, messages=with_tools(ask))
        await asyncio.get_running_loop().run_in_executor(self._encoding, self._prepare, described)

    async def _go_on(self, ask: ServeRequest, schema: Schema | None) -> JobParts:
        """Write an answer to a request that was decided under another prompt."""
        answered = tuple(replace(c, override="suppress") for c in ask.policy.categories)
        policy = replace(ask.policy, categories=answered)
        job, decision, _ = await self._decide(
            replace(ask, policy=policy, json_schema=schema, tools=())
        )
        return await self._begun(job, decision)

    async def _begun(self, job: Job, decision: Decision) -> JobParts:
        """The answer of a decided request, under way once its schema is prepared, if it has one to
        follow.
        """
        schema = job.ask.json_schema
        if schema is not None and not decision.refuses:
            try:
                grammar = await self._grammars.begin(schema, job.ask.tenant)
            except BaseException:  # also when the caller is gone: the answer is to keep no place
                self._worker.cancel(job)
                raise
            self._worker.bind(job, grammar)
        return JobParts(job, self._worker)

    async def _decide(self, ask: ServeRequest) -> tuple[Job, Decision, Floats]:
        """Have the model read a prompt; what is to be written after it is under way."""
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
        """Return once the model has computed something: a step of the answers under way, or one
        token for this.

        Raises BackendDown when its thread has ended or is stuck, and why, and when nothing came
        within PROBE_S.
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
        """What can be made of a request outside the event loop. Raises EngineError; see open."""
        engine, sampling = self._engine, ask.sampling
        context = engine.rules.context
        # Encoding a text takes as long as it is: nobody waits here for one that cannot fit.
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
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self._engine.tokenizer.decode(ids, skip_special_tokens=True))


class JobParts:
    """The answer of one request, as it is written. Closing it, read or unread, frees its place."""

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
        """Stop writing, if it is not over."""
        self._ended = True
        self._worker.cancel(self._job)


def _require_batching(engine: HfEngine) -> None:
    """Raise EngineError unless neither padding nor joining a running batch changes what the model
    says.
    """
    with torch.inference_mode():
        if not engine.padding_is_harmless:
            raise EngineError(
                f"padding on the right changes the scores of {type(engine.network).__name__}",
                "in-process serving needs a causal decoder; serve the model with another back end",
            )
        short = [engine.encoder.token_ids[0], *sorted(engine.rules.stops)]
        gap, allowed = batching_gap(engine.network, [short, short * 3, short * 2], engine.filler)
    if not gap <= allowed:
        raise EngineError(
            f"rows that join a batch of {type(engine.network).__name__} are read otherwise than "
            f"alone: their log-probabilities differ by {gap:.2g}, rounding explains {allowed:.2g}",
            "serve the model with another back end",
        )
