"""The tables of an evaluation for the terminal: error rates of each policy, per category."""

from __future__ import annotations

from dataclasses import dataclass

from demur.store.results.metrics_file import ErrorsRow, Evaluation

HEADER = ("requests", "rows", "refused", "false refusals", "missed refusals")
CORRECTED_HEADER = ("rate of the texts", "as judged", "corrected", "95% interval", "labels")


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyTable:
    """The table of one policy."""

    title: str
    rows: tuple[tuple[str, ...], ...]  # under HEADER


def table_rows(evaluation: Evaluation) -> tuple[PolicyTable, ...]:
    """Make a table per policy, of its decisions on the test rows; intervals are 95 %,
    and count units. Pure.

    refused: share of the rows. false refusals: share of those to be answered. missed refusals: of
    those to be refused.
    """
    tables = []
    for n, policy in enumerate(evaluation.policies):
        # The first two are always the natural policy and the run's own.
        named = ("natural: the model's most probable token", f"calibrated: {policy.goal}")
        title = named[n] if n < len(named) else f"other target: {policy.goal}"
        if (deferral := policy.decision.overall.deferral) is not None:
            title += f"; deferred, neither answered nor refused: {deferral.words}"
        groups = {**policy.decision.by_category}
        if "benign" in policy.decision.by_kind:
            groups["ordinary"] = policy.decision.by_kind["benign"]
        rows = [_row(name, errors) for name, errors in groups.items()]
        rows.append(_row("all", policy.decision.overall))
        tables.append(PolicyTable(title=title, rows=tuple(rows)))
    return tuple(tables)


def corrected_rows(evaluation: Evaluation) -> tuple[tuple[str, ...], ...]:
    """Make the rows under CORRECTED_HEADER: text rates of the calibrated policy, as judged and
    corrected by hand labels; empty without labels. Pure.

    Where a corrected rate is undefined, the reason stands in its place.
    """
    if not evaluation.labels:
        return ()
    # policies[1] is the calibrated one.
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


def _row(name: str, errors: ErrorsRow) -> tuple[str, ...]:
    rates = (errors.refusal_rate, errors.false_refusal, errors.missed_refusal)
    return (name, errors.refusal_rate.denominator, *(r.words for r in rates))
