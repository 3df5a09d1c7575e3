"""The decoding thread of a model in service: reads prompts, decides and writes, for all requests.

Each turn of its loop

1. drops the answers of callers that have gone;
2. lets parked answers join the batch whose grammar or mask has come;
3. reads waiting prompts that fit and decides each on the score of that one prefill. A refusal whose
   text the operator holds ends here; other answers join the batch;
4. writes one token of every answer in the batch, or turns an answer to a refusal in its place where
   the policy's monitor stops it;
5. posts decisions and parts to the callers' event loops.

An answer under a JSON schema is parked, with its cache, while other processes prepare its grammar
(demur.engines.inprocess.grammar.pool), and whenever its next mask is late, so that no schema delays
the other answers.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from time import monotonic

import torch

from demur.base.errors import BackendDown, DemurError, SchemaTooCostly, ScoreError
from demur.core.decision import decide_or_doubt
from demur.core.serving import AnswerPart, generates_nothing
from demur.engines.heads import control_scores
from demur.engines.hf.engine import LOGITS_PER_BATCH, HfEngine
from demur.engines.hf.running_batch import RunningBatch, concatenated, one_of, prefill_unmasked
from demur.engines.hf.sample import next_tokens
from demur.engines.inprocess.grammar.process import Grammar, wait
from demur.engines.inprocess.job import Job, Parked, by_like_length
from demur.engines.inprocess.limits import BackendLimits
from demur.engines.inprocess.outbox import Outbox
from demur.engines.inprocess.prefill_debt import PrefillDebt

GRACE_S = 0.002  # longest time that a step of all answers waits for late masks
# Longest time that an answer is parked for its mask; the grammar's own limits are shorter.
LATE_S = 15.0
# Longest time to read one token of a prompt: far more than any machine in service needs.
TOKEN_S = 0.02
# With several tenants, this divides the tokens read between two steps, so that none waits long.
SHARED = 4
STOP_S = 15.0  # longest time that `stop` waits for the step under way
LOOK_S = 0.005  # interval of looks for masks while every answer is parked


class Worker:
    """The decoding thread and its queue. Methods without "_" may be called from any thread."""

    def __init__(self, engine: HfEngine, limits: BackendLimits) -> None:
        self._engine = engine
        self._limits = limits
        # most prompts of one prefill: their logits at the first answer position exist at once
        self._most_read = max(
            1, LOGITS_PER_BATCH // engine.network.get_output_embeddings().weight.shape[0]
        )
        # guards _waiting, _open, _closing, _down and _probes; all else is the thread's own
        self._wake = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._open: set[Job] = set()  # requests without an end yet, waiting ones included
        self._closing = False
        self._down: BackendDown | None = None
        self._batch = RunningBatch(engine.network)
        self._rows: list[Job] = []  # by row of the batch
        self._parked: list[Parked] = []
        self._debt = PrefillDebt()
        self._outbox = Outbox()
        self._due_s: float | None = None  # latest end of the step under way; None: no step is
        # futures to set when the model has computed something
        self._probes: list[Future[None]] = []
        self._thread = threading.Thread(target=self._run, name="demur-model", daemon=True)
        self._thread.start()

    @property
    def writing(self) -> int:
        """Number of answers that are being written."""
        return len(self._rows) + len(self._parked)

    @property
    def stuck(self) -> bool:
        """Whether the step under way takes longer than its limit."""
        due_s = self._due_s
        return due_s is not None and monotonic() > due_s

    @property
    def ended(self) -> BackendDown | None:
        """The reason that the thread has ended or was abandoned; None: it runs."""
        return self._down

    def check(self) -> None:
        """Raise BackendDown if the thread has ended, is about to, or is stuck."""
        with self._wake:
            if self._down is not None or self._closing:
                raise self._down or BackendDown(
                    "the model is shutting down", "start the server again"
                )
        if self.stuck:
            raise BackendDown("a step of the model does not end", "it is started again")

    def probe(self) -> Future[None]:
        """A future that is done when the model has computed a step of answers, or one token.

        Raises BackendDown as `check` does.
        """
        probe: Future[None] = Future()
        with self._wake:
            self.check()
            self._probes.append(probe)
            self._wake.notify()
        return probe

    def abandon(self, why: str) -> None:
        """Give up a thread that may never return; every open request gets BackendDown.

        Whatever the thread still posts is dropped.
        """
        # An outbox of its own: the thread may be writing to the other one.
        self._close(BackendDown(why, "it is started again"), Outbox())

    def add(self, job: Job) -> None:
        """Queue a request. Raises BackendDown as `check` does."""
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
        """Begin an answer under a schema, whose grammar is ready."""
        with self._wake:
            job.grammar = grammar
            # The request may have ended before its grammar came: then nothing else closes it.
            if job.cancelled or job not in self._open:
                grammar.close()
            self._wake.notify()

    def stop(self) -> None:
        """End the thread; every open request gets BackendDown. A stuck thread is abandoned."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            self.abandon("the model was shut down")

    def _run(self) -> None:
        """The thread: turns of the loop until `stop`, `abandon` or an error."""
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
            if self._down is None:  # else it was abandoned, and every request has its error
                why = "the model was shut down"
                if cause is not None:
                    why = f"the model's thread ended: {cause!r}"
                self._rows.clear()
                self._parked.clear()
                down = BackendDown(why, "start the server again; the log has the reason")
                self._close(down, self._outbox)

    def _await_work(self) -> bool:
        """Wait for work; False when the thread is to end."""
        with self._wake:
            if self._parked and not self._rows:
                # Masks come by sockets, which wake no condition: look for them at intervals.
                self._wake.wait(LOOK_S)
            else:
                self._wake.wait_for(
                    lambda: self._waiting or self._rows or self._closing or self._probes
                )
            return not self._closing and self._down is None

    def _begin(self, tokens: int = 0) -> None:
        """Set the latest end of the step that begins. tokens: of the prompts that it reads."""
        self._due_s = monotonic() + self._limits.step_s + TOKEN_S * tokens

    def _close(self, down: BackendDown, outbox: Outbox) -> None:
        """Accept no more work; open requests and probes get BackendDown, by `outbox`."""
        with self._wake:
            self._down = down
            jobs, self._open = self._open, set()
            probes, self._probes = self._probes, []
            self._waiting.clear()
            self._wake.notify()
        for job in jobs:
            if job.grammar is not None:
                job.grammar.close()
            outbox.add(job, job.fail, BackendDown(down.message, "try again later"))
        outbox.deliver()
        for probe in probes:
            if probe.set_running_or_notify_cancel():
                probe.set_exception(BackendDown(down.message, "try again later"))

    def _answer_probes(self) -> None:
        """Set the probes' futures; the model computes one token if no answer is under way."""
        with self._wake:
            probes = list(self._probes)
        if probes and not self._rows:
            self._begin()
            prefill_unmasked(
                self._engine.network, [self._engine.encoder.token_ids[:1]], self._engine.filler
            )
        with self._wake:
            if self._down is not None:  # abandoned: the probes have their error
                return
            self._probes = self._probes[len(probes) :]
        for probe in probes:
            if probe.set_running_or_notify_cancel():  # else its caller has stopped waiting
                probe.set_result(None)

    def _step(self) -> None:
        """One turn of the loop; see the head of this file."""
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
        """Take the next requests from the queue that fit beside those under way."""
        jobs: list[Job] = []
        with self._wake:
            written = {job.ask.tenant for job in self._rows}
            active = written | {job.ask.tenant for job in self._waiting}
            most = self._limits.prefill_tokens // (SHARED if len(active) > 1 else 1)
            for job in tuple(self._waiting):
                if not self._debt.may_prefill(
                    len(job.ids), beside_others=bool(written - {job.ask.tenant})
                ):
                    continue  # others may overtake a long prompt that waits for its turn
                if not self._fits(jobs, job, most):
                    break  # none overtakes for lack of room, or a large request would never fit
                jobs.append(job)
                self._waiting.remove(job)
        return jobs

    def _fits(self, jobs: list[Job], job: Job, most_tokens: int) -> bool:
        """Whether a request fits beside those under way and the `jobs` to be read with it."""
        limits, held = self._limits, [*self._rows, *(p.job for p in self._parked)]
        rows = len(held) + len(jobs) + 1
        if rows == 1:  # alone, a request may exceed every limit: it would otherwise wait for ever
            return True
        tokens = sum(len(one.ids) for one in (*jobs, job))
        read_ok = not jobs or (len(jobs) < self._most_read and tokens <= most_tokens)
        # Every row of the cache is as wide as the widest.
        room = max(one.room for one in (*held, *jobs, job))
        return read_ok and rows <= limits.rows and rows * room <= limits.cache_tokens

    def _read(self, jobs: list[Job]) -> None:
        """Read prompts, decide each on its own score, and add the answers to the batch."""
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
            except DemurError as e:  # of this request's policy and score: the others go on
                self._fail(job, e)
                continue
            self._outbox.add(job, job.resolve, decision, logp_C)
            if generates_nothing(job.ask, decision):  # no text of the model is wanted
                self._forget(job)
            elif job.limit < 1:
                self._outbox.add(job, job.parts.put_nowait, AnswerPart(finish="length"))
                self._forget(job)
            else:
                job.last = control_ids[decision.column]
                job.watch = None if decision.refuses else job.watch
                # A refusal is never forced into a schema.
                if job.ask.json_schema is not None and not decision.refuses:
                    self._parked.append(Parked(job=job, prompts=one_of(prompts, b)))
                else:
                    joining.append(b)
        self._batch.join(prompts, joining)
        self._debt.prefilled(max(prompts.lengths), monotonic() - start_s)
        self._rows += [jobs[b] for b in joining]

    def _unpark(self) -> None:
        """Let parked answers join the batch whose grammar or next mask has come."""
        wait((p.job.grammar for p in self._parked if p.late and p.job.grammar is not None), 0.0)
        parked, self._parked = self._parked, []
        joining = []
        for one in parked:
            if one.job.cancelled:
                self._forget(one.job)
            elif one.late and one.job.grammar is not None and one.job.grammar.state != "waiting":
                if self._choose(one.prompts.logits_BV, [one.job]):
                    joining.append(one)
                else:  # the answer ended with this token
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
        """Write one token of every answer in the batch; those with a late mask are parked."""
        self._begin()
        logits_RV = self._batch.step([job.last for job in self._rows])
        self._score(logits_RV)
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
        # Parked answers keep the logits of this step: their token is chosen when the mask comes.
        here = [r for r in range(len(self._rows)) if r not in late]
        if here:
            kept = self._choose(
                logits_RV if not late else logits_RV[here], [self._rows[r] for r in here]
            )
            self._keep([here[k] for k in kept], parked=late)
        else:
            self._keep([], parked=late)

    def _score(self, logits_RV: torch.Tensor) -> None:
        """Keep the position scores of the watched answers in the batch, read off raw logits."""
        watched = [r for r, job in enumerate(self._rows) if job.watch is not None]
        if watched:
            watched_RV = logits_RV if len(watched) == len(self._rows) else logits_RV[watched]
            logp_RC = control_scores(watched_RV, self._engine.encoder.token_ids)
            for r, logp_C in zip(watched, logp_RC, strict=True):
                self._rows[r].logp_C = logp_C

    def _choose(self, logits_RV: torch.Tensor, jobs: Sequence[Job]) -> list[int]:
        """Choose a token for each of R answers and post its part; indices of those that go on."""
        going = []  # answers that have not ended; their masks are applied
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
            try:
                part = job.take(token, self._engine.rules)
            except ScoreError as e:  # a position that cannot be watched
                self._fail(job, e)
                continue
            if part is not None:
                self._outbox.add(job, job.parts.put_nowait, part)
            if part is None or part.finish is None:
                kept.append(r)
        return kept

    def _fail(self, job: Job, error: DemurError) -> None:
        """End one request with an error; the others go on."""
        self._outbox.add(job, job.fail, error)
        self._forget(job)

    def _keep(self, rows: list[int], parked: Collection[int] = ()) -> None:
        """Drop all other rows of the batch; those of parked answers have not ended."""
        if len(rows) < len(self._rows):
            for r in set(range(len(self._rows))) - set(rows) - set(parked):
                self._forget(self._rows[r])
            self._rows = [self._rows[r] for r in rows]
            self._batch.keep(rows)

    def _forget(self, job: Job) -> None:
        """Free the grammar of a request that has ended, and its place among the open ones."""
        if job.grammar is not None:
            job.grammar.close()
        with self._wake:
            self._open.discard(job)

    def _post(self) -> None:
        """Deliver what is posted, unless this thread was abandoned and callers have their error."""
        if self._down is None:
            self._outbox.deliver()
        else:
            self._outbox.clear()
