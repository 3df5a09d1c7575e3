"""What a promise speaks of, worked out from metrics.json."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from demur.core.goals.counts import Counts
from demur.core.goals.kinds import Cost
from demur.core.goals.parse import parse_goals
from demur.core.rates import Rate
from demur.pages.parts import Cell
from demur.store.metrics_file import ErrorsRow, MeasuredRate, PolicyMetrics, TokenRow

Confusion = Sequence[Sequence[int]]  # rows by (what ought to happen, what was decided), 0 = answer

_UNKNOWN = "not shown"


def number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def measured(risk: str, p: PolicyMetrics, active: Sequence[str]) -> tuple[Cell, Cell]:
    """What a promise speaks of: on the calibrate rows where it is not a rate, and on the test rows.

    active: categories that the policy may refuse with. "not shown" where metrics.json holds no such figure.
    """
    overall, confusions = p.decision.overall, (p.calibrate_confusion, p.confusion)
    name, _, inside = risk.removesuffix("]").partition("[")
    if beta := re.fullmatch(r"(|macro_|micro_)f([\d.]+)", name):
        if beta[1] or inside:
            columns, mean = _columns(p, inside.split("+") if inside else active), beta[1] == "macro_"
            before, after = (_tokens_fbeta(c, columns, float(beta[2]), mean=mean) for c in confusions)
            return before, after
        return _fbeta(p.calibrate, float(beta[2])), _fbeta(overall, float(beta[2]))
    if name == "youden":
        return _youden(p.calibrate), _youden(overall)
    if name == "cost":
        before, after = (_cost(p, c) for c in confusions)
        return before, after
    return _UNKNOWN, _rate(name, inside, p)


def _rate(name: str, inside: str, p: PolicyMetrics) -> Cell:
    """A promised rate, of all categories, of one, or of several pooled."""
    if inside:
        return _pooled(_tokens(p, inside.split("+")), "emitted" if name == "refusal_rate" else name)
    if name == "wrong_category":
        return _wrong_category(p.confusion)
    found = getattr(p.decision.overall, name, None)
    return found if isinstance(found, MeasuredRate) else _UNKNOWN


def _tokens(p: PolicyMetrics, names: Sequence[str]) -> list[TokenRow]:
    """The rows of these categories. Empty where one is unknown."""
    return [p.tokens[n] for n in names] if set(names) <= set(p.tokens) else []


def _pooled(tokens: Sequence[TokenRow], name: str) -> Cell:
    """A rate over several categories: errors add up, and so do their own rows; rows that all share count once."""
    found = [getattr(t, name, None) for t in tokens]
    rates = [r for r in found if isinstance(r, MeasuredRate)]
    if not rates or len(rates) < len(found):
        return _UNKNOWN
    of = rates[0].of if name in ("emitted", "false_refusal") else sum(r.of for r in rates)
    return MeasuredRate.from_core(Rate(hits=sum(r.hits for r in rates), of=of))


def _wrong_category(confusion: Confusion) -> MeasuredRate:
    """Refused with another category, among all rows to be refused: rows are what ought to happen, 0 = answer."""
    wrong = sum(n for at, row in enumerate(confusion) for to, n in enumerate(row) if at and to and at != to)
    return MeasuredRate.from_core(Rate(hits=wrong, of=sum(map(sum, confusion[1:]))))


def _columns(p: PolicyMetrics, names: Sequence[str]) -> list[int]:
    """Where these categories stand in a confusion matrix. Empty where one is unknown."""
    order = list(p.tokens)
    return [order.index(n) + 1 for n in names] if set(names) <= set(order) else []


def _tokens_fbeta(confusion: Confusion, columns: Sequence[int], beta: float, *, mean: bool) -> str:
    """F-beta of refusal tokens: the mean over them, or of all counted together."""
    if not confusion or not columns:
        return _UNKNOWN
    hits = [(1 + beta**2) * confusion[c][c] for c in columns]
    of = [beta**2 * sum(confusion[c]) + sum(row[c] for row in confusion) for c in columns]  # b^2 (TP + FN) + (TP + FP)
    if not mean:
        return number(sum(hits) / sum(of) if sum(of) else None)
    return number(sum(h / n for h, n in zip(hits, of, strict=True)) / len(of) if all(of) else None)


def _fbeta(errors: ErrorsRow, beta: float) -> str:
    """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP)"""
    hits = (1 + beta**2) * errors.caught.hits
    of = hits + beta**2 * errors.missed_refusal.hits + errors.false_refusal.hits
    return number(hits / of if of else None)


def _youden(errors: ErrorsRow) -> str:
    """True-positive minus false-positive rate (Youden 1950)."""
    caught, false = errors.caught.value, errors.false_refusal.value
    return number(None if caught is None or false is None else caught - false)


def _cost(p: PolicyMetrics, confusion: Confusion) -> str:
    """Cost per 100 rows."""
    wanted = next(g for g in parse_goals(p.goal) if isinstance(g, Cost))
    figure = wanted.figure(Counts(rows_LC=np.array(confusion), names=tuple(p.tokens))) if confusion else None
    return _UNKNOWN if not isinstance(figure, float) else wanted.shown(figure)
