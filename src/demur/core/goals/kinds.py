"""Kinds of goals that promise nothing, and what all kinds share. Each kind owns its name, its worth
and its figure.

Promised kinds, which also own what they count, among whom and in which direction:
demur.core.goals.promised. How goals are written: demur.core.goals.parse. Shapes: N rows, K
categories, C = 1 + K columns (0 = respond).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import GoalError, Undefined
from demur.core.goals.counts import Counts, Rows
from demur.core.goals.goal import Goal
from demur.core.rates import Rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Named(Goal):
    """A goal of which only the name is known: a policy file does not hold the costs of "cost", for
    one.
    """

    @property
    def measure(self) -> str:
        """The name as the file has it."""
        return self.text

    # a name says nothing of what to count
    def figure(self, counts: Counts) -> Rate | float | None:  # noqa: ARG002
        """None."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Natural(Goal):
    """The model left to itself: no threshold is set. Reported as its refusal rate."""

    name: ClassVar[str] = "refusal_rate"

    def figure(self, counts: Counts) -> Rate | float | None:
        """Refused, among all rows."""
        return Rate(hits=counts.caught + counts.false, of=counts.total)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetRate(Goal):
    """Refuse this share of traffic, of all categories together or of one. Met on the rows at hand,
    not promised.
    """

    level: float  # a share in [0, 1]

    name: ClassVar[str] = "refusal_rate"

    def figure(self, counts: Counts) -> Rate | float | None:
        """Refused, or emitted with the category, among all rows."""
        columns = counts.columns(self.categories)
        if columns is None:
            return None
        emitted_LC = counts.rows_LC[:, columns or slice(1, None)]
        return Rate(hits=int(emitted_LC.sum()), of=counts.total)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum(Goal):
    """The best of something on the rows at hand."""

    optimum: ClassVar[bool] = True

    @property
    def beta2(self) -> float | None:
        """Beta squared where the best is an F-beta, which is no sum over rows; None where `worth`
        adds up to it.
        """
        return None

    # kinds that are a worth of rows override it
    def worth(self, rows: Rows) -> Doubles:  # noqa: ARG002
        """The worth of refusing each row with its heaviest category.

        Raises GoalError where it cannot be weighed beside promises, or names an unknown category.
        """
        raise self.unweighable()

    def unweighable(self) -> GoalError:
        """The error of an optimum that is no worth of single rows."""
        return GoalError(
            f"goal {self.text!r} cannot be weighed beside promises", "ask for f1, youden or cost"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyFBeta(Optimum):
    """An F-beta, of whatever."""

    beta: float

    @property
    def measure(self) -> str:
        """Such as "macro_f1"."""
        return f"{self.name}{self.beta:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FBeta(AnyFBeta):
    """F-beta of refusing what ought to be refused; or of one category's token, which moves that
    threshold only.
    """

    name: ClassVar[str] = "f"

    @property
    def beta2(self) -> float | None:
        """Beta squared."""
        return self.beta**2

    def worth(self, rows: Rows) -> Doubles:
        """1 for rows to be refused, 0 for others. Raises GoalError for one category's token."""
        if self.category is not None:
            raise self.unweighable()
        return np.asarray(rows.label_N != 0, dtype=np.float64)

    def figure(self, counts: Counts) -> Rate | float | None:
        """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP)."""
        if self.category is not None:
            return _of_tokens(counts, self.beta, self.categories)
        hits = (1 + self.beta**2) * counts.caught
        return _share(hits, hits + self.beta**2 * counts.missed + counts.false)


@dataclass(frozen=True, kw_only=True, slots=True)
class MacroFBeta(AnyFBeta):
    """The mean F-beta of the categories' tokens, every one by itself."""

    name: ClassVar[str] = "macro_f"

    def figure(self, counts: Counts) -> Rate | float | None:
        """The mean over the active categories. Undefined if one of them has no value."""
        found = [_of_tokens(counts, self.beta, [name]) for name in counts.active]
        # The mean is undefined if one of them is: leaving a category out would flatter.
        values = [value for value in found if value is not None]
        return sum(values) / len(values) if values and len(values) == len(found) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroFBeta(AnyFBeta):
    """F-beta of the categories' tokens, all counted together."""

    name: ClassVar[str] = "micro_f"

    def figure(self, counts: Counts) -> Rate | float | None:
        """F-beta of the active categories' tokens together."""
        return _of_tokens(counts, self.beta, counts.active)


@dataclass(frozen=True, kw_only=True, slots=True)
class Youden(Optimum):
    """The true-positive minus the false-positive rate (Youden 1950)."""

    name: ClassVar[str] = "youden"

    def worth(self, rows: Rows) -> Doubles:
        """A share of the rows to be refused is gained, or one of those to be answered lost."""
        should_N = rows.label_N != 0
        # 1 avoids 0 / 0 where one class has no row: nothing is gained or lost there.
        worth_N = np.where(should_N, 1.0 / max(should_N.sum(), 1), -1.0 / max((~should_N).sum(), 1))
        return np.asarray(worth_N, dtype=np.float64)

    def figure(self, counts: Counts) -> Rate | float | None:
        """Caught among rows to be refused, less refused among rows to be answered."""
        caught = _share(counts.caught, counts.caught + counts.missed)
        return caught - _share(counts.false, counts.false + counts.answered)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Optimum):
    """The least cost, per error."""

    false: float  # cost of one false refusal
    missed: float  # cost of one missed refusal
    missed_of: tuple[tuple[str, float], ...] = ()  # the same for single categories
    wrong: float = 0.0  # cost of one refusal with the wrong category

    name: ClassVar[str] = "cost"

    @property
    def stated(self) -> Goal:
        """Its name: no policy file holds the costs, and a policy equals what is read back from its
        file.
        """
        return Named(text=self.name)

    def missed_by(self, names: Sequence[str]) -> Doubles:
        """The cost of a missed refusal of each category, (K,). Raises GoalError on a category that
        is unknown.
        """
        known = dict(self.missed_of)
        if unknown := sorted(set(known) - set(names)):
            raise GoalError(
                f"goal {self.text!r} names unknown category {unknown[0]!r}",
                f"known: {', '.join(names)}",
            )
        return np.array([known.get(name, self.missed) for name in names], dtype=np.float64)

    def worth(self, rows: Rows) -> Doubles:
        """What refusing saves: a missed refusal's cost, less what refusing costs."""
        # column 0, respond, misses nothing
        missed_C = np.concatenate([[0.0], self.missed_by(rows.names)])
        label_N = rows.label_N
        wrong_N = (label_N != 0) & (rows.heaviest_N != label_N)
        return np.where(label_N == 0, -self.false, missed_C[label_N] - self.wrong * wrong_N)

    def thresholds(self, names: Sequence[str]) -> dict[str, float]:
        """Per category c the probability F / (F + M_c) from which on refusing costs less than
        answering (Elkan 2001).

        Exact where all probability lies on the answer and one category. Raises GoalError on an
        unknown category.
        """
        missed_K = self.missed_by(names)
        return {
            name: float(self.false / (self.false + m))
            for name, m in zip(names, missed_K, strict=True)
        }

    def figure(self, counts: Counts) -> Rate | float | None:
        """Cost per row."""
        rows_LC = counts.rows_LC
        if not counts.names:
            return None
        total = self.false * counts.false
        for c, missed in enumerate(self.missed_by(counts.names), start=1):
            total += missed * int(rows_LC[c, 0]) + self.wrong * int(
                rows_LC[c, 1:].sum() - rows_LC[c, c]
            )
        return _share(float(total), counts.total)

    def shown(self, figure: float) -> str:
        """Per 100 rows."""
        return f"{100 * figure:.1f} per 100 rows"


def _of_tokens(counts: Counts, beta: float, names: Sequence[str]) -> float | None:
    """F-beta of these categories' tokens, counted together."""
    columns = counts.columns(names)
    if not columns:
        return None
    right = int(counts.rows_LC[columns, columns].sum())
    ought, emitted = int(counts.rows_LC[columns].sum()), int(counts.rows_LC[:, columns].sum())
    return _share((1 + beta**2) * right, beta**2 * ought + emitted)


def _share(hits: float, of: float) -> float:
    if not of:
        raise Undefined(
            "nothing was counted that the figure is a share of", "report it as undefined"
        )
    return hits / of
