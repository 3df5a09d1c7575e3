"""The table a person understands: what each policy does, per category."""

from __future__ import annotations

from dataclasses import dataclass

from demur.store.results.metrics_file import ErrorsRow, Evaluation, PolicyMetrics

HEADER = ("requests", "rows", "refused", "false refusals", "missed refusals")
CORRECTED_HEADER = ("rate of the texts", "as judged", "corrected", "95% interval", "labels")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One policy's part of the table."""

    title: str
    rows: tuple[tuple[str, ...], ...]  # under HEADER


def table_rows(evaluation: Evaluation) -> tuple[Block, ...]:
    """A block per policy, decisions on the test rows; intervals are 95 % Clopper-Pearson. Pure.

    refused: share of the rows. false refusals: share of those to be answered. missed refusals: of
    those to be refused.
    """
    return tuple(
        Block(title=_title(n, p), rows=_rows(p)) for n, p in enumerate(evaluation.policies)
    )


def corrected_rows(evaluation: Evaluation) -> tuple[tuple[str, ...], ...]:
    """Under CORRECTED_HEADER: text rates of the calibrated policy, raw and by hand labels; empty
    without labels. Pure.

    Where the labels say nothing of a rate, the reason stands in the place of the figure.
    """
    if not evaluation.labels:
        return ()
    policy, rows = evaluation.policies[1], []
    for name, raw in policy.judged.items():
        found = policy.corrected["all"][name]
        figure, interval = (f"none: {found.method}", "")
        if found.value is not None and found.low is not None and found.high is not None:
            figure, interval = (
                f"{100 * found.value:.1f}%",
                f"{100 * found.low:.1f} to {100 * found.high:.1f}",
            )
        rows.append((name.replace("_", " "), raw.words, figure, interval, str(found.labels)))
    return tuple(rows)


def _title(place: int, policy: PolicyMetrics) -> str:
    named = ("natural: the model's most probable token", f"calibrated: {policy.goal}")
    return named[place] if place < len(named) else f"other target: {policy.goal}"


def _rows(policy: PolicyMetrics) -> tuple[tuple[str, ...], ...]:
    groups = {**policy.decision.by_category}
    if "benign" in policy.decision.by_kind:
        groups["ordinary"] = policy.decision.by_kind["benign"]
    return (*(_row(name, e) for name, e in groups.items()), _row("all", policy.decision.overall))


def _row(name: str, errors: ErrorsRow) -> tuple[str, ...]:
    rates = (errors.refusal_rate, errors.false_refusal, errors.missed_refusal)
    return (name, str(errors.refusal_rate.of), *(r.words for r in rates))
