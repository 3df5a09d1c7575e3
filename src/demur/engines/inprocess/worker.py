"""The thread that owns a model in service: reads prompts, decides, writes, for all requests at
once.

Between two steps of the answers under way it drops those that nobody waits for, reads prompts that
fit, hands out their decisions, and lets those that are answered join the batch. A prompt is read
once, decision included; a refusal whose text the operator holds never joins. Everything that
callers see is posted to their event loop, once a step.

An answer under a JSON schema is parked, with its cache, while other processes prepare its grammar,
and again whenever its next mask is late: nobody's schema holds up the step of all
(demur.engines.inprocess.grammar.pool).
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from time import monotonic

import torch

from demur.base.errors import BackendDown, DemurError, SchemaTooCostly
from demur.core.decision import decide_or_doubt
from demur.core.serving import AnswerPart, generates_nothing
from demur.engines.heads import control_scores
from demur.engines.hf.engine import LOGITS_PER_BATCH, HfEngine
from demur.engines.hf.running_batch import RunningBatch, concatenated, one_of, prefill_unmasked
from demur.engines.hf.sample import next_tokens
from demur.engines.inprocess.grammar.process import Grammar, wait
from demur.engines.inprocess.job import Job, Parked
from demur.engines.inprocess.limits import BackendLimits
from demur.engines.inprocess.outbox import Outbox
from demur.engines.inprocess.prefill_debt import PrefillDebt

GRACE_S = 0.002  # for which a step of all answers waits for masks that are late
# for which an answer is parked until its mask is there; the grammar's own limits end it before that
LATE_S = 15.0
# that reading one token of a prompt may take: far more than any machine in service needs
TOKEN_S = 0.02
# by which less is read between two steps where several tenants are served: none is held up for long
SHARED = 4
STOP_S = 15.0  # for a step to end when the server does
LOOK_S = 0.005  # between two looks for masks where every answer is parked


def by_like_length(jobs: Sequence[Job]) -> list[list[Job]]:
    """Requests to read together: none has less than half as many tokens as the longest beside it,
    shortest first.
    """
    batches: list[list[Job]] = []
    for job in sorted(jobs, key=lambda job: len(job.ids)):
        if batches and len(job.ids) <= 2 * len(batches[-1][0].ids):
            batches[-1].append(job)
        else:
            batches.append([job])
    return batches


class Worker:
    """A thread and its queue. `add`, `cancel` and `stop` may be called from any thread."""

    def __init__(self, engine: HfEngine, limits: BackendLimits) -> None:
        self._engine = engine
        self._limits = limits
        self._most_read = max(
            1, LOGITS_PER_BATCH // engine.network.get_output_embeddings().weight.shape[0]
        )
        self._wake = threading.Condition()  # guards _waiting, _open, _closing and _down
        self._waiting: deque[Job] = deque()
        self._open: set[Job] = set()  # added, and not yet told their end
        self._closing = False
        self._down: BackendDown | None = None
        self._batch = RunningBatch(engine.network)
        self._rows: list[Job] = []  # by row of the batch
        self._parked: list[Parked] = []
        self._debt = PrefillDebt()
        self._outbox = Outbox()
        self._due_s: float | None = None  # when the step under way should be over; None: none is
        # by those who want to know whether the model still computes
        self._probes: list[Future[None]] = []
        self._thread = threading.Thread(target=self._run, name="demur-model", daemon=True)
        self._thread.start()

    @property
    def writing(self) -> int:
        """Answers that are being written."""
        return len(self._rows) + len(self._parked)

    @property
    def stuck(self) -> bool:
        """Whether a step takes longer than any should."""
        due_s = self._due_s
        return due_s is not None and monotonic() > due_s

    @property
    def ended(self) -> BackendDown | None:
        """Why the thread has ended; None: it has not."""
        return self._down

    def check(self) -> None:
        """Raise BackendDown if the thread has ended, is told to, or is stuck."""
        with self._wake:
            if self._down is not None or self._closing:
                raise self._down or BackendDown(
                    "the model is shutting down", "start the server again"
                )
        if self.stuck:
            raise BackendDown("a step of the model does not end", "it is started again")

    def probe(self) -> Future[None]:
        """Done as soon as the model has computed something from now on: a step of answers, or one
        token for this.
        """
        asked: Future[None] = Future()
        with self._wake:
            self.check()
            self._probes.append(asked)
            self._wake.notify()
        return asked

    def abandon(self, why: str) -> None:
        """Give up a thread that may never come back: every open request gets BackendDown, and it is
        heard no more.
        """
        jobs, asked = self._closed(BackendDown(why, "it is started again"))
        outbox = Outbox()  # not the thread's own: it may be writing to that
        for job in jobs:
            outbox.add(job, job.fail, BackendDown(why, "ask again"))
        outbox.deliver()
        for one in asked:
            if one.set_running_or_notify_cancel():
                one.set_exception(BackendDown(why, "try again later"))

    def add(self, job: Job) -> None:
        """Queue a request. Raises BackendDown if nobody will take it up."""
        with self._wake:
            self.check()
            self._waiting.append(job)
            self._open.add(job)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """Free a request's place: in the queue at once, in the batch before its next step."""
        job.cancelled = True
        with self._wake:
            if job in self._waiting:
                self._waiting.remove(job)
                self._open.discard(job)

    def bind(self, job: Job, grammar: Grammar) -> None:
        """Let an answer under a schema begin: its grammar is there."""
        with self._wake:
            job.grammar = grammar
            if job.cancelled or job not in self._open:
                grammar.close()
            self._wake.notify()

    def stop(self) -> None:
        """End the thread; every open request gets BackendDown. A thread that is stuck is left
        behind.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            self.abandon("the model was shut down")

    def _run(self) -> None:
        try:
            if self._limits.threads is not None:
                torch.set_num_threads(self._limits.threads)
            with torch.inference_mode():
                while self._await_work():
                    self._step()
                    self._due_s = None
        finally:
            self._due_s = None
            cause = sys.exception()
            if self._down is None:  # else it was abandoned, and everybody has been told
                self._end(
                    "the model was shut down"
                    if cause is None
                    else f"the model's thread ended: {cause!r}"
                )

    def _await_work(self) -> bool:
        with self._wake:
            if self._parked and not self._rows:
                self._wake.wait(LOOK_S)
            else:
                self._wake.wait_for(
                    lambda: self._waiting or self._rows or self._closing or self._probes
                )
            return not self._closing and self._down is None

    def _begin(self, tokens: int = 0) -> None:
        """Note that the model computes from here on. tokens: of prompts that it reads."""
        self._due_s = monotonic() + self._limits.step_s + TOKEN_S * tokens

    def _end(self, why: str) -> None:
        jobs, asked = self._closed(
            BackendDown(why, "start the server again; the log has the reason")
        )
        self._rows.clear()
        self._parked.clear()
        for job in jobs:
            self._outbox.add(job, job.fail, BackendDown(why, "try again later"))
        self._outbox.deliver()
        for one in asked:
            if one.set_running_or_notify_cancel():
                one.set_exception(BackendDown(why, "try again later"))

    def _closed(self, why: BackendDown) -> tuple[set[Job], list[Future[None]]]:
        """Take up nothing more; those who have to be told."""
        with self._wake:
            self._down = why
            jobs, self._open = self._open, set()
            asked, self._probes = self._probes, []
            self._waiting.clear()
            self._wake.notify()
        for job in jobs:
            if job.grammar is not None:
                job.grammar.close()
        return jobs, asked

    def _answer_probes(self) -> None:
        """Tell those who ask whether the model computes; let it, where no answer is under way."""
        with self._wake:
            asked = list(self._probes)
        if asked and not self._rows:
            self._begin()
            prefill_unmasked(
                self._engine.network, [self._engine.encoder.token_ids[:1]], self._engine.filler
            )
        with self._wake:
            if self._down is not None:  # abandoned: they have been told
                return
            self._probes = self._probes[len(asked) :]
        for one in asked:
            if one.set_running_or_notify_cancel():  # else its time was over
                one.set_result(None)

    def _step(self) -> None:
        self._keep([r for r, job in enumerate(self._rows) if not job.cancelled])
        self._unpark()
        for batch in by_like_length(self._admit()):
            self._read(batch)
            self._post()
        if self._rows:
            start_s = monotonic()
            self._write()
            self._debt.decoded(monotonic() - start_s)
            self._post()
        self._answer_probes()

    def _admit(self) -> list[Job]:
        """The next requests in line that fit in beside those under way. A long prompt may have to
        wait for its turn.
        """
        jobs: list[Job] = []
        with self._wake:
            written = {job.ask.tenant for job in self._rows}
            active = written | {job.ask.tenant for job in self._waiting}
            most = self._limits.prefill_tokens // (SHARED if len(active) > 1 else 1)
            for job in tuple(self._waiting):
                if not self._debt.may_prefill(
                    len(job.ids), beside_others=bool(written - {job.ask.tenant})
                ):
                    continue
                if not self._fits(jobs, job, most):
                    break
                jobs.append(job)
                self._waiting.remove(job)
        return jobs

    def _fits(self, jobs: list[Job], job: Job, most_tokens: int) -> bool:
        limits, held = self._limits, [*self._rows, *(p.job for p in self._parked)]
        rows = len(held) + len(jobs) + 1
        if rows == 1:
            return True
        tokens = sum(len(one.ids) for one in (*jobs, job))
        read_ok = not jobs or (len(jobs) < self._most_read and tokens <= most_tokens)
        room = max(one.room for one in (*held, *jobs, job))
        return read_ok and rows <= limits.rows and rows * room <= limits.cache_tokens

    def _read(self, jobs: list[Job]) -> None:
        """Read prompts, decide each on its own score, and let those that are written join the
        batch.
        """
        start_s = monotonic()
        self._begin(sum(len(job.ids) for job in jobs))
        prompts = prefill_unmasked(
            self._engine.network, [job.ids for job in jobs], self._engine.filler
        )
        control_ids = self._engine.encoder.token_ids
        joining = []
        for b, (job, logp_C) in enumerate(
            zip(jobs, control_scores(prompts.logits_BV, control_ids), strict=True)
        ):
            try:
                decision = decide_or_doubt(job.ask.policy, logp_C)
            except DemurError as e:  # of this request's own policy and score: the others go on
                self._outbox.add(job, job.fail, e)
                self._forget(job)
                continue
            self._outbox.add(job, job.resolve, decision, logp_C)
            if generates_nothing(job.ask, decision):
                self._forget(job)
            elif job.limit < 1:
                self._outbox.add(job, job.parts.put_nowait, AnswerPart(finish="length"))
                self._forget(job)
            else:
                job.last = control_ids[decision.column]
                if job.ask.json_schema is not None and not decision.refuses:
                    self._parked.append(Parked(job=job, prompts=one_of(prompts, b)))
                else:
                    joining.append(b)
        self._batch.join(prompts, joining)
        self._debt.prefilled(max(prompts.lengths), monotonic() - start_s)
        self._rows += [jobs[b] for b in joining]

    def _unpark(self) -> None:
        """Let parked answers go on whose grammar, or next mask, has come."""
        wait((p.job.grammar for p in self._parked if p.late and p.job.grammar is not None), 0.0)
        parked, self._parked = self._parked, []
        joining = []
        for one in parked:
            if one.job.cancelled:
                self._forget(one.job)
            elif one.late and one.job.grammar is not None and one.job.grammar.state != "waiting":
                if self._choose(one.prompts.logits_BV, [one.job]):
                    joining.append(one)
                else:  # that was the end of it
                    self._forget(one.job)
            elif not one.late and one.job.grammar is not None:
                joining.append(one)  # the mask is computed while the model reads the control token
            elif one.late and monotonic() > one.since_s + LATE_S:
                self._fail(
                    one.job,
                    SchemaTooCostly("the JSON schema takes too long to follow", "make it simpler"),
                )
            else:
                self._parked.append(one)
        if joining:  # all at once: each time, the cache of the whole batch is copied
            self._batch.join(concatenated([one.prompts for one in joining]), range(len(joining)))
            self._rows += [one.job for one in joining]
        self._post()

    def _write(self) -> None:
        """One more token for every answer under way but those whose mask is late: they are
        parked.
        """
        self._begin()
        logits_RV = self._batch.step([job.last for job in self._rows])
        logits_RV[:, list(self._engine.rules.banned)] = -torch.inf
        wait((job.grammar for job in self._rows if job.grammar is not None), GRACE_S)
        late = {
            r
            for r, job in enumerate(self._rows)
            if job.grammar is not None and job.grammar.state == "waiting"
        }
        for r in late:
            prompts = self._batch.copy_of(r, logits_RV[r])
            self._parked.append(Parked(job=self._rows[r], prompts=prompts, late=True))
        here = [r for r in range(len(self._rows)) if r not in late]
        if here:
            kept = self._choose(
                logits_RV if not late else logits_RV[here], [self._rows[r] for r in here]
            )
            self._keep([here[k] for k in kept], parked=late)
        else:
            self._keep([], parked=late)

    def _choose(self, logits_RV: torch.Tensor, jobs: Sequence[Job]) -> list[int]:
        """Choose and hand out a token for every answer; the places of those that go on. logits_RV:
        its rows.
        """
        going = []
        for r, job in enumerate(jobs):
            try:
                part = job.settle()
            except SchemaTooCostly as e:
                self._fail(job, e)
                continue
            if part is not None:
                self._outbox.add(job, job.parts.put_nowait, part)
                continue
            going.append(r)
            if job.grammar is not None:
                job.grammar.mask(logits_RV[r])
        if not going:
            return []
        writing = [jobs[r] for r in going]
        rows_RV = logits_RV if len(going) == len(jobs) else logits_RV[going]
        tokens = next_tokens(
            rows_RV, [j.ask.sampling for j in writing], [j.random.random() for j in writing]
        )
        kept = []
        for r, job, token in zip(going, writing, tokens, strict=True):
            part = job.take(token, self._engine.rules.stops)
            if part is not None:
                self._outbox.add(job, job.parts.put_nowait, part)
            if part is None or part.finish is None:
                kept.append(r)
        return kept

    def _fail(self, job: Job, error: DemurError) -> None:
        """End one answer; the others go on."""
        self._outbox.add(job, job.fail, error)
        self._forget(job)

    def _keep(self, rows: list[int], parked: Collection[int] = ()) -> None:
        """Let all other rows of the batch go; those that are parked are not over."""
        if len(rows) < len(self._rows):
            for r in set(range(len(self._rows))) - set(rows) - set(parked):
                self._forget(self._rows[r])
            self._rows = [self._rows[r] for r in rows]
            self._batch.keep(rows)

    def _forget(self, job: Job) -> None:
        if job.grammar is not None:
            job.grammar.close()
        with self._wake:
            self._open.discard(job)

    def _post(self) -> None:
        """Hand everything out, unless somebody else has told all callers that this thread is given
        up.
        """
        if self._down is None:
            self._outbox.deliver()
        else:
            self._outbox.clear()
