"""The texts that a policy sends, each written and judged once for a prompt and a control token (a
branch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from demur.base.arrays import Ints
from demur.base.files import digest_json
from demur.core.judging.benchmark import BenchRow
from demur.core.judging.judge import JudgeInput, judge_all
from demur.core.judging.outcome import Outcome
from demur.core.ports import Judge, Progress
from demur.stages.bench_refusals.candidate import Candidate
from demur.store.policies.policy_file import fingerprint_json
from demur.store.scores.tables import Branch, branches_origin, read_branches, write_branches

PART_PROMPTS = 256  # between two saves: a killed run loses at most so many

_Known = dict[tuple[str, int], Branch]  # by row id and score column


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """The texts of one run's rows, found again where this model wrote them before."""

    candidate: Candidate
    judge: Judge
    rows: Sequence[BenchRow]
    path: Path

    def outcomes(self, choice_N: Ints, progress: Progress) -> list[Outcome]:
        """What the judge says of the text that each row gets. Progress counts rows whose text is
        missing.
        """
        columns = choice_N.tolist()
        known = self._read(columns)
        own = [self.candidate.policy.own_text(c) for c in columns]
        self._make(
            [
                (row, c)
                for row, c, text in zip(self.rows, columns, own, strict=True)
                if text is None and (row.id, c) not in known
            ],
            known,
            progress,
        )
        fixed = {n: text for n, text in enumerate(own) if text is not None}
        said = judge_all(
            self.judge, [self._item(self.rows[n], columns[n], text) for n, text in fixed.items()]
        )
        by_row = dict(zip(fixed, said, strict=True))
        return [
            by_row[n] if n in by_row else known[row.id, c].outcome
            for n, (row, c) in enumerate(zip(self.rows, columns, strict=True))
        ]

    def _make(
        self, todo: Sequence[tuple[BenchRow, int]], known: _Known, progress: Progress
    ) -> None:
        """Write and judge the missing texts, saved part by part."""
        for start in range(0, len(todo), PART_PROMPTS):
            part = todo[start : start + PART_PROMPTS]
            answers = self.candidate.generator.branches(
                [row.prompt for row, _ in part], [[c] for _, c in part]
            )
            texts = [by_column[c] for (_, c), by_column in zip(part, answers, strict=True)]
            items = [self._item(row, c, a.text) for (row, c), a in zip(part, texts, strict=True)]
            for (row, c), answer, outcome in zip(
                part, texts, judge_all(self.judge, items), strict=True
            ):
                known[row.id, c] = Branch(id=row.id, column=c, answer=answer, outcome=outcome)
            ordered = [known[key] for key in sorted(known)]
            write_branches(
                self.path, ordered, self.candidate.policy.taxonomy.tokens, self._origin()
            )
            progress(start + len(part), len(todo))

    def _item(self, row: BenchRow, column: int, text: str) -> JudgeInput:
        return item_of(
            row, self.candidate.policy.taxonomy.choices[column] if column else None, text
        )

    def _read(self, columns: Sequence[int]) -> _Known:
        """What lies in the file. Needed texts of another judge, or that could not be scored, are
        judged again.
        """
        if not self.path.exists() or branches_origin(self.path) != self._origin():
            return {}
        stored = read_branches(self.path, self.candidate.policy.taxonomy.tokens)
        known = {(b.id, b.column): b for b in stored}
        again = [
            (row, b)
            for row, c in zip(self.rows, columns, strict=True)
            if (b := known.get((row.id, c)))
            and (b.outcome.verdict == "unscored" or b.outcome.judge != self.judge.version)
        ]
        outcomes = judge_all(
            self.judge, [self._item(row, b.column, b.answer.text) for row, b in again]
        )
        known.update(
            {
                (b.id, b.column): replace(b, outcome=o)
                for (_, b), o in zip(again, outcomes, strict=True)
            }
        )
        return known

    def _origin(self) -> str:
        return digest_json(
            {
                "model": fingerprint_json(self.candidate.generator.fingerprint),
                "settings": self.candidate.settings,
                "prompts": [
                    [r.id, r.expected, *(f"{m.role}:{m.content}" for m in r.prompt)]
                    for r in self.rows
                ],
            }
        )


def item_of(row: BenchRow, refused_as: str | None, text: str) -> JudgeInput:
    """After a refusal token the text is held to that token's category, else to what the request
    asks for.
    """
    wanted = row.category if row.expected == "refuse" else None
    return JudgeInput(request=row.prompt[-1].content, answer=text, category=refused_as or wanted)
