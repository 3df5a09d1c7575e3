"""bench-refusals: a model under a policy, benchmarks -> bench.json, bench.md: both error
directions, never one alone.

1. All prompts are scored and decided (run). With a judge, the texts that the policy sends are
   written and judged, and stored in branches.parquet for a later run, policy or judge.
2. A model behind an endpoint has no decisions: its answers are judged (run_endpoint).
3. Errors are counted per benchmark, category and subcategory (counts), also without the rows that
   the model was trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from demur.base.arrays import Ints
from demur.base.errors import ConfigError, DataError
from demur.base.files import write_text
from demur.core.decision import decide_many
from demur.core.example import Example, prompt_key
from demur.core.judging.benchmark import BenchRow, BenchSet
from demur.core.judging.judge import ChatQuestion, NoAnswer
from demur.core.judging.outcome import Outcome
from demur.core.ports import Progress, no_progress
from demur.core.rows.linking import linked_rows
from demur.core.training.seen import seen_prompts
from demur.pages.page import render_markdown
from demur.stages.bench_refusals.candidate import Candidate, Endpoint
from demur.stages.bench_refusals.content import HEADER, page_of, table_rows
from demur.stages.bench_refusals.counts import level_errors, text_errors
from demur.stages.bench_refusals.texts import text_outcomes, text_row
from demur.stages.texts import ENDPOINT, reply_outcomes, scores_of
from demur.stats.sample import evenly_spaced
from demur.store.policies.policy_file import policy_digest
from demur.store.results.bench_file import (
    BenchFile,
    BenchLevel,
    BenchmarkRow,
    BenchText,
    UnseenRow,
    write_bench,
)

__all__ = ["HEADER", "Candidate", "Config", "Endpoint", "run", "run_endpoint", "table_rows"]

TOO_LONG = "longer than the model can read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How much to measure. Raises ConfigError on a limit below 1."""

    limit: int | None = None  # at most so many rows of each benchmark, in even steps

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(
                f"limit = {self.limit} must be at least 1", "correct it, or leave it out"
            )


def run(
    config: Config,
    candidate: Candidate,
    sets: Sequence[BenchSet],
    out: Path,
    progress: Progress = no_progress,
) -> BenchFile:
    """Measure a policy on benchmarks; write <out>/bench.json and bench.md. Progress counts prompts,
    then texts.

    A benchmark none of whose rows can be measured stays in the result, without figures. Raises
    DataError if that is so for all of them or if one is given twice, PolicyError if the policy was
    made for another model.
    """
    candidate.policy.require_model(candidate.scorer.fingerprint)
    candidate.policy.require_no_deferral("a benchmark")
    sampled = _sampled(config, sets)
    prompts = [row.prompt for s in sampled for row in s.rows]
    # `fit` has the indices of the prompts that the model can read; the others are left out, by
    # reason.
    fit, logp_NC = scores_of(candidate.scorer, prompts, progress)
    chosen = _without(sampled, dict.fromkeys(set(range(len(prompts))) - set(fit), TOO_LONG))
    rows = [row for s in chosen for row in s.rows]
    choice_N = decide_many(candidate.policy, logp_NC).choice_N
    outcomes = text_outcomes(candidate, rows, choice_N, out / "branches.parquet", progress)
    # Choices and outcomes are in one row over all benchmarks: `part` is where this one's lie.
    measured, start = [], 0
    for s in chosen:
        part = slice(start, start + len(s.rows))
        measured.append(
            _measured(s, candidate, choice_N[part], None if outcomes is None else outcomes[part])
        )
        start = part.stop
    bench = BenchFile(
        model=candidate.scorer.fingerprint,
        policy=candidate.policy.name,
        policy_digest=policy_digest(candidate.policy),
        judge=candidate.judge.version if candidate.judge else None,
        limit=config.limit,
        benchmarks=tuple(measured),
    )
    return _written(bench, out)


def run_endpoint(
    config: Config,
    endpoint: Endpoint,
    sets: Sequence[BenchSet],
    out: Path,
    progress: Progress = no_progress,
) -> BenchFile:
    """Measure the answers of a model behind an endpoint. Progress counts answers; stored ones are
    not asked for again.

    A prompt that the endpoint itself declined is a refusal, whatever the judge. A prompt without an
    answer is left out and counted by reason. Raises DataError as `run`, EngineError when the
    endpoint answers under two names.
    """
    sampled = _sampled(config, sets)
    rows = [row for s in sampled for row in s.rows]
    replies = endpoint.asker.ask(
        [ChatQuestion(messages=r.prompt) for r in rows], lambda n: progress(n, len(rows))
    )
    # Prompts without a reply are left out of their benchmark, and counted by reason.
    silent = {
        n: f"no answer: {reply.reason}"
        for n, reply in enumerate(replies)
        if isinstance(reply, NoAnswer)
    }
    chosen = _without(sampled, silent)
    answered = [text_row(row) for s in chosen for row in s.rows]
    given = [r for r in replies if not isinstance(r, NoAnswer)]
    outcomes = reply_outcomes(endpoint.judge, answered, given, progress)
    # Outcomes are in one row over all benchmarks.
    start, measured = 0, []
    for s in chosen:
        part = outcomes[start : start + len(s.rows)]
        start += len(s.rows)
        declined = Counter(o.reason for o in part if o.judge == ENDPOINT)
        row = _row(s, None, text_errors(s.rows, None, part))
        measured.append(row.model_copy(update={"declined": dict(declined.most_common())}))
    bench = BenchFile(
        model=None,
        endpoint=endpoint.asker.model or endpoint.asker.chat.model,
        policy=None,
        policy_digest=None,
        judge=endpoint.judge.version,
        limit=config.limit,
        benchmarks=tuple(measured),
    )
    return _written(bench, out)


def _written(bench: BenchFile, out: Path) -> BenchFile:
    """Write a result and return it. bench.json comes last: where it is, the result is whole."""
    write_text(out / "bench.md", render_markdown(page_of(bench)))
    write_bench(out / "bench.json", bench)
    return bench


def _sampled(config: Config, sets: Sequence[BenchSet]) -> list[BenchSet]:
    """At most `config.limit` rows of each set. Raises DataError on an id that occurs twice, and
    without any row.
    """
    # Rows of several benchmarks share one list of scores and texts: ids must tell them apart.
    sampled = [replace(s, rows=_linked(evenly_spaced(s.rows, config.limit))) for s in sets]
    ids = Counter(row.id for s in sampled for row in s.rows)
    if ids and (twice := ids.most_common(1)[0])[1] > 1:
        raise DataError(
            f"row {twice[0]!r} is there twice", "name each benchmark, or each part of it, once"
        )
    if not ids:
        reasons = "; ".join(
            f"{s.name}: {n} rows with {why}" for s in sampled for why, n in s.left_out.items()
        )
        raise DataError(
            f"no row can be measured ({reasons or 'no benchmark is given'})",
            "is it the right file?",
        )
    return sampled


def _linked(rows: Sequence[BenchRow]) -> tuple[BenchRow, ...]:
    """The rows with their groups: those whose prompts are the same or near copies err together."""
    examples = [
        Example(id=r.id, source="benchmark", messages=r.prompt, kind="benign") for r in rows
    ]
    first = linked_rows([(e, prompt_key(e)) for e in examples])
    return tuple(replace(r, group=rows[n].id) for r, n in zip(rows, first, strict=True))


def _without(sets: Sequence[BenchSet], why: Mapping[int, str]) -> list[BenchSet]:
    """The sets without the rows in `why`, which are counted by reason. why: reason by index of the
    row, over all sets.
    """
    start, found = 0, []
    for s in sets:
        rows = tuple(row for n, row in enumerate(s.rows, start) if n not in why)
        reasons = Counter(why[n] for n in range(start, start + len(s.rows)) if n in why)
        found.append(replace(s, rows=rows, left_out={**s.left_out, **reasons}))
        start += len(s.rows)
    return found


def _measured(
    s: BenchSet, candidate: Candidate, choice_N: Ints, outcomes: Sequence[Outcome] | None
) -> BenchmarkRow:
    """The figures of one benchmark, on all of its rows and on those that the model has not seen."""
    decision, text = _figures(s.rows, choice_N, outcomes)
    row = _row(s, decision, text)
    if candidate.seen is None:
        return row
    row = row.model_copy(update={"unrecorded": (*candidate.seen.unknown, *candidate.seen.missing)})
    # With a record missing, it is unknown which rows are unseen: no figures of such.
    if candidate.seen.missing:
        return row
    seen = set(seen_prompts(candidate.seen, [r.prompt for r in s.rows]))
    left = [n for n in range(len(s.rows)) if n not in seen]
    unseen = None
    if seen:
        some = None if outcomes is None else [outcomes[n] for n in left]
        decision, text = _figures([s.rows[n] for n in left], choice_N[left], some)
        unseen = UnseenRow(rows=len(left), decision=decision, text=text)
    ids = tuple(s.rows[n].id for n in sorted(seen))
    return row.model_copy(update={"seen": len(seen), "seen_rows": ids, "unseen": unseen})


def _figures(
    rows: Sequence[BenchRow], choice_N: Ints, outcomes: Sequence[Outcome] | None
) -> tuple[BenchLevel, BenchText | None]:
    text = None if outcomes is None else text_errors(rows, choice_N > 0, outcomes)
    return level_errors(rows, choice_N > 0), text


def _row(s: BenchSet, decision: BenchLevel | None, text: BenchText | None) -> BenchmarkRow:
    return BenchmarkRow(
        name=s.name,
        source=s.source,
        licence=s.licence,
        rows=len(s.rows),
        left_out=dict(s.left_out),
        seen=None,  # until _measured has counted them
        decision=decision,
        text=text,
    )
