"""What people say of answers, as JSONL: {"id": ..., "token": ..., "label": ...}, one line a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from demur.core.errors import DataError
from demur.core.rates import Verdict
from demur.store.boundary import Strict, validated
from demur.store.rows import read_jsonl


class LabelRow(Strict):
    """One line: the text that follows a control token, labelled by hand."""

    id: str  # of the prompt
    token: str  # "respond" or a category: the control token before the text
    label: Literal["refusal", "partial", "compliance"]


def read_labels(path: Path, choices: Sequence[str]) -> dict[tuple[str, int], Verdict]:
    """Labels by prompt id and score column. Raises DataError naming file and line of a bad or repeated one."""
    found: dict[tuple[str, int], Verdict] = {}
    for number, value in read_jsonl(path):
        row = validated(LabelRow, value, f"{path}:{number}", DataError)
        if row.token not in choices:
            raise DataError(f"{path}:{number}: {row.token!r} is no control token", f"known: {', '.join(choices)}")
        key = (row.id, list(choices).index(row.token))
        if key in found:
            raise DataError(f"{path}:{number}: prompt {row.id!r} after {row.token!r} is labelled twice", "keep one")
        found[key] = row.label
    if not found:
        raise DataError(f"{path} holds no label", "one JSON object per line: id, token, label")
    return found
