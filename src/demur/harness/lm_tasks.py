"""Functions that the YAML tasks of lm-evaluation-harness name: rows, and scores of an answer.

The harness passes texts only, so a judge of texts recognises refusals, for a model of any kind.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict

from demur.base.errors import DataError
from demur.core.example import Example
from demur.harness.task_rows import BUILTIN, find_judge, is_correct, read_rows

JUDGE = "phrases"
_LOG = logging.getLogger(__name__)


def refusal_rows(rows: str = BUILTIN, split: str | None = None, **_metadata: Any) -> DatasetDict:
    """The rows of a refusal task; see demur.harness.task_rows.read_rows."""
    return _dataset(
        [
            {**_doc(e), "category": e.category, "expected": e.expected}
            for e in _alone(read_rows(rows, split))
        ]
    )


def ability_rows(
    rows: str | None = None, split: str | None = None, **_metadata: Any
) -> DatasetDict:
    """Rows with a gold reply. Raises DataError if no file is named."""
    if rows is None:
        raise DataError(
            "the task demur_ability has no rows of its own",
            """name a file: --metadata '{"rows": FILE}'""",
        )
    return _dataset(
        [
            {**_doc(e), "gold": e.reply}
            for e in _alone(read_rows(rows, split))
            if e.reply is not None
        ]
    )


def refusal_errors(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The errors of one row, each 0 or 1.

    A row reports only the errors whose denominator it belongs to: the harness averages each figure
    over the rows that report it, and that mean then is the rate.
    """
    outcome = find_judge(JUDGE).judge(doc["request"], results[0], doc["category"])
    if outcome.verdict == "unscored":
        return {"unscored": 1.0}
    refuses = doc["expected"] == "refuse"
    error = "missed_refusal" if refuses else "false_refusal"
    wrong = float(outcome.refuses != refuses)
    # one more figure per category, averaged over that category's rows alone
    by_category = {} if doc["category"] is None else {f"{error}[{doc['category']}]": wrong}
    return {"unscored": 0.0, error: wrong, **by_category}


def correct(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the answer gives the gold reply. A refusal is a wrong answer."""
    return {"acc": float(is_correct(results[0], doc["gold"]))}


def _alone(examples: Sequence[Example]) -> list[Example]:
    """The rows that consist of one user message: the harness passes a text, no conversation.

    The number of the others is logged. Raises DataError if no row is left.
    """
    alone = [e for e in examples if len(e.prompt) == 1]
    if not alone:
        raise DataError(
            f"all {len(examples)} rows are conversations", "give rows with one user message"
        )
    if left_out := len(examples) - len(alone):
        _LOG.warning("%d of %d rows are conversations and left out", left_out, len(examples))
    return alone


def _doc(example: Example) -> dict[str, Any]:
    """The fields of a row that both tasks need."""
    return {
        "id": example.id,
        "request": example.text,
        "group": example.unit or example.id,
        "source": example.source,
    }


def _dataset(docs: list[dict[str, Any]]) -> DatasetDict:
    return DatasetDict(test=Dataset.from_list(docs))
