"""demur bench ability: item by item, how much a model may have lost by a change, with a bound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.terminal import note, print_json, print_table

if TYPE_CHECKING:
    from demur.stages.ability import TaskComparison
    from demur.store.results.item_results import CardEntry

NOT_SHOWN = 3  # a result, not a fault


BeforeArgument = Annotated[
    Path,
    typer.Argument(metavar="BEFORE", help="Results by item: JSONL, or a harness's folder."),
]
AfterArgument = Annotated[
    Path, typer.Argument(metavar="AFTER", help="Results of the same items after the change.")
]
MarginFlag = Annotated[
    float | None,
    typer.Option(
        metavar="M", help="Loss that is tolerated, such as 0.02. Exit code 3 if not ruled out."
    ),
]
ConfidenceFlag = Annotated[float, typer.Option(metavar="P", help="That all bounds hold together.")]
MetricFlag = Annotated[
    str, typer.Option(metavar="NAME", help="Metric of a harness's samples that is 0 or 1.")
]
CardFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write AFTER as .eval_results for a model card."),
]
CardDatasetFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK=DATASET:ID", help="A task's dataset and task id on the hub. Repeatable."
    ),
]


def command(
    before: BeforeArgument,
    after: AfterArgument,
    *,
    margin: MarginFlag = None,
    confidence: ConfidenceFlag = 0.95,
    metric: MetricFlag = "acc",
    card: CardFlag = None,
    card_dataset: CardDatasetFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare two runs over the same items. Exit code 3 if a loss beyond the margin is not ruled
    out.
    """
    from demur.stages.ability import Config, run
    from demur.store.results.item_results import write_card

    found = run(before, after, Config(metric=metric, confidence=confidence))
    if (card is None) != (not card_dataset):
        raise ConfigError(
            "--card and --card-dataset go together", "--card FILE --card-dataset TASK=DATASET:ID"
        )
    if card is not None and card_dataset:
        write_card(card, [_entry(found, text) for text in card_dataset])
        note(
            f"{card}: {len(card_dataset)} results; put it into .eval_results/ of the model's "
            "repository"
        )
    if as_json:
        print_json([_json(c) for c in found])
    else:
        _show(found)
    # One statement for all tasks: the largest bound.
    most = max(c.bound for c in found)
    note(_statement(most, len(found), confidence))
    if margin is not None and most > margin:
        raise typer.Exit(NOT_SHOWN)


def _show(found: tuple[TaskComparison, ...]) -> None:
    """Print a row per task: both shares, the change with its interval, the largest loss."""
    rows = [
        (
            "task",
            "items",
            "before",
            "after",
            "gained",
            "lost",
            "change",
            "interval",
            "p",
            "p (Holm)",
            "lost at most",
        )
    ]
    # paired: the same items before and after; p (Holm) is adjusted for the number of tasks
    for c in found:
        p = c.paired
        rows.append(
            (
                c.task,
                str(p.before.of),
                f"{p.before.value:.1%}",
                f"{p.after.value:.1%}",
                str(p.gained),
                str(p.lost),
                _points(p.difference),
                f"{_points(p.interval[0])} to {_points(p.interval[1])}",
                f"{p.p:.3g}",
                f"{c.p_holm:.3g}",
                f"{100 * c.bound:.1f}",
            )
        )
    print_table(rows, title="share of right answers; changes in points")


def _statement(most: float, tasks: int, confidence: float) -> str:
    """The result in one sentence. most: share lost at most, in any task."""
    where = "" if tasks == 1 else f" in any of the {tasks} tasks"
    return (
        f"with {confidence:.0%} confidence at most {100 * max(most, 0.0):.1f} points are "
        f"lost{where}"
    )


def _json(c: TaskComparison) -> dict[str, object]:
    """One task for programs; shares, not points."""
    p = c.paired
    return {
        "task": c.task,
        "items": p.before.of,
        "groups": p.groups,
        "before": p.before.value,
        "after": p.after.value,
        "gained": p.gained,
        "lost": p.lost,
        "difference": p.difference,
        "interval": p.interval,
        "p": p.p,
        "p_holm": c.p_holm,
        "most_lost": c.bound,
    }


def _entry(found: tuple[TaskComparison, ...], text: str) -> CardEntry:
    """The entry of one --card-dataset. Raises ConfigError if it cannot be read or names no task at
    hand.
    """
    from demur.store.results.item_results import CardEntry

    # TASK=DATASET:ID; a dataset is "owner/name" on the hub
    task, _, place = text.partition("=")
    dataset, _, name = place.partition(":")
    known = {c.task: c.paired for c in found}
    if task not in known or not dataset or not name:
        raise ConfigError(
            f"cannot read --card-dataset {text!r}",
            f"TASK=DATASET:ID, TASK one of {', '.join(known)}",
        )
    # cards want one number; the counts and the number before go into its notes
    p = known[task]
    notes = f"{p.after.hits} of {p.after.of} right; {p.before.value:.4f} before refusal tokens"
    return CardEntry(dataset=dataset, task=name, value=p.after.value, notes=notes)


def _points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}"
