"""Right and wrong items of a benchmark, read from the files of harnesses; and results for model
cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.base.errors import ArtifactError, DataError
from demur.base.files import write_text
from demur.base.text import read_text
from demur.store.results.inspect_log import read_log

# the stem of lm-evaluation-harness's --log_samples
_SAMPLES = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d.-]+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question that was answered."""

    task: str
    id: str  # unique within its task
    correct: bool
    group: str  # items made from one another; the item's own id where it stands alone


@dataclass(frozen=True, kw_only=True, slots=True)
class CardEntry:
    """One result of a model card."""

    dataset: str  # of the benchmark on the Hugging Face hub
    task: str  # its name there
    value: float
    notes: str


def read_items(path: Path, metric: str = "acc") -> list[Item]:
    """Items of a file, or of all samples_*.jsonl in a folder, or else of all *.eval in it.

    A line of JSONL is {"task", "id", "correct", "group"?}, or what lm-evaluation-harness writes
    with --log_samples: then `metric` names the key that is 1 for a right answer, and an item is
    known by its place and the digest of its text. Logs of Inspect AI, .eval or .json: see
    demur.store.results.inspect_log. Raises DataError naming file and line of what cannot be read,
    ArtifactError if there is no file.
    """
    # A folder holds the files of one harness: samples of lm-evaluation-harness, else logs of
    # Inspect.
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("samples_*.jsonl")) or sorted(path.rglob("*.eval"))
    items = [item for file in files for item in _items(file, metric)]
    if not items:
        raise DataError(
            f"{path} holds no results",
            "give a JSONL file, or a folder with samples_*.jsonl or *.eval",
        )
    keys = [(item.task, item.id) for item in items]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(
            f"{path}: item {twice[1]!r} of {twice[0]!r} occurs twice", "give one run, of one filter"
        )
    return items


def write_card(path: Path, entries: Sequence[CardEntry]) -> None:
    """`.eval_results/*.yaml` of a model repository: a list of {dataset: {id, task_id}, value,
    notes}.

    Format: huggingface.co/docs/hub/eval-results and huggingface_hub 2.4 (EvalResultEntry). Written
    as JSON, which every reader of YAML reads.
    """
    rows = [
        {"dataset": {"id": e.dataset, "task_id": e.task}, "value": e.value, "notes": e.notes}
        for e in entries
    ]
    write_text(path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


def _items(file: Path, metric: str) -> list[Item]:
    if file.suffix in (".eval", ".json"):
        task, samples = read_log(file, metric)
        return [Item(task=task, id=s.id, correct=s.correct, group=s.group) for s in samples]
    lines = enumerate(read_text(file, ArtifactError).split("\n"), start=1)
    return [_item(line, file, metric, f"{file}:{n}") for n, line in lines if line.strip()]


def _item(line: str, file: Path, metric: str, where: str) -> Item:
    """The item of a line of JSONL, in demur's format or the harness's. Raises DataError."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        raise DataError(
            f"{where} is not JSON: {e.msg}", "one JSON object per line; is it cut off?"
        ) from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is no object", "one JSON object per line")
    # a line of lm-evaluation-harness; doc_hash tells two versions of a benchmark's item apart
    if "doc_id" in row:
        name = _SAMPLES.match(file.stem)
        doc = row.get("doc")
        row = {
            "task": name[1] if name else file.stem,
            "id": f"{row['doc_id']}:{row.get('doc_hash', '')}",
            "correct": _right(row, metric, where),
            "group": doc.get("group") if isinstance(doc, dict) else None,
        }
    return _checked(row, where)


def _right(row: Mapping[str, Any], metric: str, where: str) -> bool:
    """The metric of one item, if it says right or wrong. Raises DataError."""
    value = row.get(metric)
    if value not in (0, 1):
        known = ", ".join(str(m) for m in row.get("metrics", []))
        raise DataError(
            f"{where}: metric {metric!r} is {value!r}, not 0 or 1", f"name another; it has: {known}"
        )
    return bool(value)


def _checked(row: Mapping[str, Any], where: str) -> Item:
    task, name, correct = row.get("task"), row.get("id"), row.get("correct")
    if not (isinstance(task, str) and isinstance(name, str) and isinstance(correct, bool)):
        raise DataError(
            f"{where}: task {task!r}, id {name!r}, correct {correct!r}",
            "two texts and true or false, on every line",
        )
    group = row.get("group")
    return Item(
        task=task, id=name, correct=correct, group=group if isinstance(group, str) else name
    )
