"""What a promise speaks of, worked out from metrics.json."""

from __future__ import annotations

import re
from collections.abc import Sequence

from demur.core.goal import parse_goals
from demur.core.rates import Rate
from demur.pages.parts import Cell
from demur.store.metrics_file import ErrorsRow, MeasuredRate, PolicyMetrics, TokenRow

_UNKNOWN = "not shown"


def number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def measured(risk: str, p: PolicyMetrics, active: Sequence[str]) -> tuple[Cell, Cell]:
    """What a promise speaks of: on the calibrate rows where it is not a rate, and on the test rows.

    active: categories that the policy may refuse with. "not shown" where metrics.json holds no such figure: F-beta of
    tokens on calibrate rows, costs by category.
    """
    overall = p.decision.overall
    name, _, inside = risk.removesuffix("]").partition("[")
    if beta := re.fullmatch(r"(|macro_|micro_)f([\d.]+)", name):
        if beta[1] or inside:
            tokens = _tokens(p, inside.split("+") if inside else active)
            return _UNKNOWN, number(_tokens_fbeta(tokens, float(beta[2]), mean=beta[1] == "macro_"))
        return _fbeta(p.calibrate, float(beta[2])), _fbeta(overall, float(beta[2]))
    if name == "youden":
        return _youden(p.calibrate), _youden(overall)
    if name == "cost":
        return _cost(p.goal, p.calibrate), _cost(p.goal, overall)
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


def _wrong_category(confusion: Sequence[Sequence[int]]) -> MeasuredRate:
    """Refused with another category, among all rows to be refused: rows are what ought to happen, 0 = answer."""
    wrong = sum(n for at, row in enumerate(confusion) for to, n in enumerate(row) if at and to and at != to)
    return MeasuredRate.from_core(Rate(hits=wrong, of=sum(map(sum, confusion[1:]))))


def _tokens_fbeta(tokens: Sequence[TokenRow], beta: float, *, mean: bool) -> float | None:
    """F-beta of refusal tokens: the mean over them, or of all counted together. None where one is not defined."""
    hits = [(1 + beta**2) * t.precision.hits for t in tokens]
    of = [beta**2 * t.missed_refusal.of + t.precision.of for t in tokens]  # b^2 (TP + FN) + (TP + FP)
    if not mean:
        return sum(hits) / sum(of) if sum(of) else None
    return sum(h / n for h, n in zip(hits, of, strict=True)) / len(of) if of and all(of) else None


def _fbeta(errors: ErrorsRow, beta: float) -> str:
    """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP)"""
    hits = (1 + beta**2) * errors.caught.hits
    of = hits + beta**2 * errors.missed_refusal.hits + errors.false_refusal.hits
    return number(hits / of if of else None)


def _youden(errors: ErrorsRow) -> str:
    """True-positive minus false-positive rate (Youden 1950)."""
    caught, false = errors.caught.value, errors.false_refusal.value
    return number(None if caught is None or false is None else caught - false)


def _cost(goal: str, errors: ErrorsRow) -> str:
    """Cost per 100 rows, where every false refusal and every missed refusal costs the same."""
    wanted = next(g for g in parse_goals(goal) if g.kind == "cost")
    if wanted.cost_missed_of or wanted.cost_wrong or wanted.cost_false is None or wanted.cost_missed is None:
        return _UNKNOWN
    total = wanted.cost_false * errors.false_refusal.hits + wanted.cost_missed * errors.missed_refusal.hits
    return f"{100 * total / errors.refusal_rate.of:.1f} per 100 rows"
