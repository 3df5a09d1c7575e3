"""ability: two runs over the same items -> items gained and lost, and a bound on the loss. No model
is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.base.errors import ConfigError, DataError
from demur.stats.paired import Paired, compare_paired, holm
from demur.stats.points import Resampling
from demur.store.results.item_results import Item, read_items

__all__ = ["Config", "Paired", "TaskComparison", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The metric to compare, and the confidence of the bounds."""

    metric: str = "acc"  # of lm-evaluation-harness's samples
    confidence: float = 0.95  # that all bounds hold together
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskComparison:
    """One task, before and after."""

    task: str
    paired: Paired  # its interval and bound at `confidence` over the number of tasks
    p_holm: float  # McNemar's p-value, adjusted for all tasks

    @property
    def bound(self) -> float:
        """Upper bound on the share of items lost; it holds for groups of items, too."""
        return self.paired.most_lost


def run(before: Path, after: Path, config: Config) -> tuple[TaskComparison, ...]:
    """Compare each task before and after, in the order of the names. All bounds hold together with
    the confidence (Bonferroni).

    Raises DataError if the two do not hold the same items: an item missing on one side counts
    neither as wrong nor as absent. Raises ConfigError on a confidence outside (0, 1).
    """
    if not 0.0 < config.confidence < 1.0:
        raise ConfigError(f"confidence {config.confidence} is not between 0 and 1", "such as 0.95")
    olds, news = (
        _by_task(read_items(before, config.metric)),
        _by_task(read_items(after, config.metric)),
    )
    if olds.keys() != news.keys():
        raise DataError(
            f"tasks {sorted(olds)} before, {sorted(news)} after",
            "give the same tasks on both sides",
        )
    # Bonferroni: each of the tasks may fail with its share of the error probability.
    confidence = 1.0 - (1.0 - config.confidence) / len(olds)
    how = Resampling(seed=config.seed, confidence=confidence)
    found = [_compare(olds[task], news[task], how) for task in sorted(olds)]
    # Holm's adjustment is sharper than Bonferroni's, but gives p-values only, no intervals.
    adjusted = holm([f.p for f in found])
    return tuple(
        TaskComparison(task=task, paired=f, p_holm=p)
        for task, f, p in zip(sorted(olds), found, adjusted, strict=True)
    )


def _by_task(items: Sequence[Item]) -> dict[str, dict[str, Item]]:
    tasks: dict[str, dict[str, Item]] = {}
    for item in items:
        tasks.setdefault(item.task, {})[item.id] = item
    return tasks


def _compare(olds: dict[str, Item], news: dict[str, Item], how: Resampling) -> Paired:
    """Compare one task's items, paired by id."""
    if alone := sorted(olds.keys() ^ news.keys()):
        task = next(iter(olds.values())).task
        raise DataError(
            f"task {task!r}: {len(alone)} items are on one side only, first {alone[0]!r}",
            "run both on the same rows",
        )
    return compare_paired(
        [o.correct for o in olds.values()],
        [news[name].correct for name in olds],
        [o.group for o in olds.values()],
        how,
    )
