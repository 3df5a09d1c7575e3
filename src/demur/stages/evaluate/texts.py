"""The texts that the compared policies send, and those needed to compare tokens with texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from demur.core.policy import Policy
from demur.core.ports import Judge
from demur.core.settings import Which
from demur.stages.evaluate.comparison import Comparison
from demur.stages.texts import TextRow, Texts
from demur.store.answers.branch_cache import BranchCache


@dataclass(frozen=True, slots=True)
class JudgedComparison:
    """The rows whose texts are written, under the compared policies, and their judged texts."""

    comparison: Comparison
    texts: Texts


def join_texts(comparison: Comparison, judge: Judge, cache: BranchCache) -> JudgedComparison:
    """Join the rows of a comparison with their texts in the cache."""
    rows = {e.id: TextRow(id=e.id, prompt=e.prompt, category=e.label) for e in comparison.examples}
    choices = comparison.policy.taxonomy.choices
    return JudgedComparison(comparison, Texts(judge=judge, cache=cache, choices=choices, rows=rows))


def sent(judged: JudgedComparison) -> Iterator[tuple[TextRow, Policy, int]]:
    """(row, policy, column) of every text that a compared policy sends."""
    for compared in judged.comparison.compared:
        for row, column in zip(judged.texts.rows.values(), compared.choice_N.tolist(), strict=True):
            yield row, compared.policy, column


def needed(comparison: Comparison, which: Which) -> list[list[int]]:
    """The columns of the control tokens whose text is needed, for each row.

    which: "reachable" are the texts after respond, after each prompt's heaviest refusal token and
    after each token that a compared policy emits; "all" are those after every control token.
    """
    logp_NC = comparison.rows.table.logp_NC
    if which == "all":
        return [list(range(logp_NC.shape[1]))] * len(logp_NC)
    heaviest_N = logp_NC[:, 1:].argmax(axis=1) + 1
    reached = zip(
        heaviest_N.tolist(), *(c.choice_N.tolist() for c in comparison.compared), strict=True
    )
    # a deferral, below 0, needs no text of the model's
    return [sorted({0, *(c for c in columns if c >= 0)}) for columns in reached]
