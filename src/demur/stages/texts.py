"""Texts that a model writes, shared by the stages that judge them: each is written once, judged
once, then looked up.

1. For given decoding, a text depends on its prompt and on the control token forced before it, and
   on nothing else. Such a text is a branch, so that the texts of every threshold, policy and cost
   are among the branches of a prompt.
2. generate_missing writes and judges the branches that the cache lacks, and saves them part by
   part.
3. judge_again judges stored branches that another judge read, or that could not be scored.
4. A policy may send a fixed refusal in place of a branch: judge_fixed judges those.
5. A prompt that is longer than the model can read must not cost the others theirs: of_fitting and
   scores_of leave it out.

Columns are those of scores: 0 = respond, k = the k-th category.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import PromptTooLong
from demur.core.judging.judge import ChatAnswer, Declined, JudgeInput, judge_all, judge_rows
from demur.core.judging.outcome import Outcome
from demur.core.policy import Policy
from demur.core.ports import (
    Generator,
    Judge,
    Progress,
    Prompt,
    Scorer,
    no_progress,
    progress_of_part,
)
from demur.store.answers.branch_cache import BranchCache
from demur.store.scores.tables import Branch

PART_PROMPTS = 256  # between two saves: a killed run loses at most so many
PART_TEXTS = 2048  # the same where texts are only judged again
PART_SCORES = 1000  # prompts scored between two reports of progress
ENDPOINT = "endpoint"  # the judge's name in outcomes of prompts that the endpoint itself declined

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRow:
    """A prompt whose texts are judged."""

    id: str
    prompt: Prompt
    # that it ought to be refused with; None: it ought to be answered, or the category is unknown
    category: str | None

    def judge_input(self, text: str, token: str | None = None) -> JudgeInput:
        """The input of the judge. token: the category of the refusal token before the text, to
        which it is held; None: the text is held to the category of the request.
        """
        return JudgeInput(
            request=self.prompt[-1].content, answer=text, category=token or self.category
        )


# of a deferral's text, which neither answers nor declines: no judge is asked
DEFERRED = Outcome(verdict="unscored", reason="deferred: the policy's own text", judge="none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """The judged texts of some rows: branches in the cache, fixed refusals in `fixed`."""

    judge: Judge
    cache: BranchCache
    choices: tuple[str, ...]  # respond, then the categories
    rows: Mapping[str, TextRow]  # by id
    fixed: dict[JudgeInput, Outcome] = field(default_factory=dict)  # see judge_fixed

    def judge_input(self, row: TextRow, column: int, text: str) -> JudgeInput:
        """The input of the judge for a text after the control token of a column."""
        return row.judge_input(text, self.choices[column] if column else None)

    def outcome(self, row: TextRow, policy: Policy, column: int) -> Outcome:
        """The outcome of the text that a policy sends after a control token; below 0, of a
        deferral's. Raises ArtifactError if that text was never written.
        """
        if column < 0:
            return DEFERRED
        fixed = policy.own_text(column)
        if fixed is None:
            return self.cache.get(row.id, column).outcome
        return self.fixed[self.judge_input(row, column, fixed)]


def generate_missing(
    texts: Texts,
    generator: Generator,
    wanted: Iterable[tuple[TextRow, Sequence[int]]],
    progress: Progress,
) -> None:
    """Write and judge the branches that the cache lacks, saved part by part. Progress counts
    prompts.

    wanted: the columns of each row. A prompt takes one prefill, whatever the number of its columns.
    """
    todo = [
        (r, missing) for r, columns in wanted if (missing := texts.cache.missing(r.id, columns))
    ]
    for start in range(0, len(todo), PART_PROMPTS):
        part = todo[start : start + PART_PROMPTS]
        answers = generator.branches(
            [row.prompt for row, _ in part],
            [columns for _, columns in part],
            progress_of_part(progress, start, len(todo)),
        )
        # answers has a dict by column for each row: (row, column, answer) of every new text.
        made = [
            (row, column, answer)
            for (row, _), by_column in zip(part, answers, strict=True)
            for column, answer in by_column.items()
        ]
        outcomes = judge_all(texts.judge, [texts.judge_input(r, c, a.text) for r, c, a in made])
        texts.cache.add(
            [
                Branch(id=r.id, column=c, answer=a, outcome=o)
                for (r, c, a), o in zip(made, outcomes, strict=True)
            ]
        )


def judge_again(
    texts: Texts,
    progress: Progress = no_progress,
    only: Collection[tuple[str, int]] | None = None,
) -> None:
    """Judge the stored texts of the rows that another judge read, or that could not be scored, say
    for want of budget. None is written again.

    A text that this judge still cannot score stays as it was. Progress counts texts. only: keys of
    the branches to look at; None: all of these rows.
    """
    todo = [
        b
        for key, b in texts.cache.known.items()
        if b.id in texts.rows
        and (only is None or key in only)
        and (b.outcome.judge != texts.judge.version or b.outcome.verdict == "unscored")
    ]
    for start in range(0, len(todo), PART_TEXTS):
        part = todo[start : start + PART_TEXTS]
        inputs = [texts.judge_input(texts.rows[b.id], b.column, b.answer.text) for b in part]
        outcomes = judge_all(texts.judge, inputs, progress_of_part(progress, start, len(todo)))
        # Only changes are saved: otherwise each try at a text without a verdict adds a file.
        changed = [
            replace(b, outcome=o)
            for b, o in zip(part, outcomes, strict=True)
            if (o.judge, o.verdict) != (b.outcome.judge, b.outcome.verdict)
        ]
        if changed:
            texts.cache.add(changed)


def judge_fixed(texts: Texts, sent: Iterable[tuple[TextRow, Policy, int]]) -> None:
    """Judge the fixed refusals among the texts sent, each once for a request.

    sent: (row, policy, column of the control token).
    """
    inputs = [
        texts.judge_input(row, column, fixed)
        for row, policy, column in sent
        if column >= 0 and (fixed := policy.own_text(column)) is not None
    ]
    # Several policies may send the same text for the same request.
    inputs = list(dict.fromkeys(inputs))
    texts.fixed.update(zip(inputs, judge_all(texts.judge, inputs), strict=True))


def reply_outcomes(
    judge: Judge,
    rows: Sequence[TextRow],
    replies: Sequence[ChatAnswer | Declined],
    progress: Progress,
) -> list[Outcome]:
    """One outcome per reply of an endpoint, in order: refusal for a decline by its filter or by the
    model in a field of its own, else the judge's. Progress counts answers.
    """
    inputs = [
        row.judge_input(r.text)
        for row, r in zip(rows, replies, strict=True)
        if isinstance(r, ChatAnswer)
    ]
    # The judge's outcomes are taken in the order of the answers that it read.
    judged = iter(judge_rows(judge, inputs, progress))
    return [
        Outcome(verdict="refusal", reason=r.reason, judge=ENDPOINT)
        if isinstance(r, Declined)
        else next(judged)
        for r in replies
    ]


def scores_of(
    scorer: Scorer, prompts: Sequence[Prompt], progress: Progress = no_progress
) -> tuple[list[int], Floats]:
    """Score the prompts that fit: (their indices, their scores, shape (len(indices), C))."""
    found: list[tuple[list[int], Floats]] = []
    for start in range(0, len(prompts), PART_SCORES):
        part = range(start, min(start + PART_SCORES, len(prompts)))
        found += of_fitting(lambda indices: scorer.logp([prompts[n] for n in indices]), part)
        progress(part.stop, len(prompts))
    fit = [n for indices, _ in found for n in indices]
    # `empty` gives the result its columns where no prompt fits at all.
    empty = np.zeros((0, len(scorer.fingerprint.tokens)), dtype=np.float32)
    return fit, np.concatenate([empty, *(logp_NC for _, logp_NC in found)])


def of_fitting(
    make: Callable[[Sequence[int]], Made], part: Sequence[int]
) -> list[tuple[list[int], Made]]:
    """Make something of the prompts of these indices that the model can read: (indices, made).

    An engine refuses a whole part for one long prompt: the part is halved until that prompt stands
    alone (about 2 log2(len(part)) more calls a long prompt).
    """
    try:
        return [(list(part), make(part))]
    except PromptTooLong:
        if len(part) == 1:
            return []
        middle = len(part) // 2
        return [*of_fitting(make, part[:middle]), *of_fitting(make, part[middle:])]
