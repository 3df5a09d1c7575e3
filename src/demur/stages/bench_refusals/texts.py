"""The outcomes of the texts that a policy sends for the rows of benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demur.base.arrays import Ints
from demur.base.files import digest_json
from demur.core.judging.benchmark import BenchRow
from demur.core.judging.outcome import Outcome
from demur.core.ports import Progress
from demur.stages.bench_refusals.candidate import Candidate
from demur.stages.texts import TextRow, Texts, generate_missing, judge_again, judge_fixed
from demur.store.answers.branch_cache import BranchCache
from demur.store.fingerprint_json import fingerprint_json


def text_outcomes(
    candidate: Candidate,
    rows: Sequence[BenchRow],
    choice_N: Ints,
    path: Path,
    progress: Progress,
) -> list[Outcome] | None:
    """Judge the text that the policy sends for each row; None without a judge. Progress counts rows
    whose text is missing.

    choice_N: the control token of each row, as a score column. path: the file of branches, in which
    texts of this model and these rows are found again.
    """
    if candidate.judge is None:
        return None
    policy, columns = candidate.policy, choice_N.tolist()
    asked = {r.id: text_row(r) for r in rows}
    cache = BranchCache(
        file=path,
        parts=path.with_suffix(".parts"),
        tokens=policy.taxonomy.tokens,
        origin=_origin(candidate, rows),
    )
    cache.load()
    texts = Texts(judge=candidate.judge, cache=cache, choices=policy.taxonomy.choices, rows=asked)
    sent = list(zip(asked.values(), columns, strict=True))
    # Texts after other tokens, of an earlier policy, are kept as they are: judging costs.
    judge_again(texts, only={(row.id, column) for row, column in sent})
    wanted = [(row, [column] if policy.writes(column) else []) for row, column in sent]
    generate_missing(texts, candidate.generator, wanted, progress)
    judge_fixed(texts, [(row, policy, column) for row, column in sent])
    if cache.known:
        cache.merge()
    return [texts.outcome(row, policy, column) for row, column in sent]


def text_row(row: BenchRow) -> TextRow:
    """A row of a benchmark as one whose texts are judged."""
    category = row.category if row.expected == "refuse" else None
    return TextRow(id=row.id, prompt=row.prompt, category=category)


def _origin(candidate: Candidate, rows: Sequence[BenchRow]) -> str:
    """The digest of everything that a branch depends on: model, settings and prompts."""
    model = fingerprint_json(candidate.generator.fingerprint)
    prompts = [[r.id, r.expected, *(f"{m.role}:{m.content}" for m in r.prompt)] for r in rows]
    return digest_json({"model": model, "settings": candidate.settings, "prompts": prompts})
