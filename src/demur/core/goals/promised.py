"""Goals that bound a rate, so that they can be certified: among which rows, which of them err, and
in which direction.

A new kind is a class here, in PROMISED. Readers, thresholds, promises, audits, plans of labels and
reports take all that a kind means from its class. Shapes: N rows, C columns (0 = respond, then one
per category).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np

from demur.base.arrays import Bools, Ints
from demur.base.errors import GoalError
from demur.core.goals.counts import Counts, Rows
from demur.core.goals.goal import Goal, quoted
from demur.core.rates import Rate
from demur.core.rows.facets import Facet
from demur.core.taxonomy import RESPOND

# rows to be answered; as a bare word in brackets they name a slice
ANSWERED_KINDS = ("contrast", "benign")

PRECISION = "precision"  # 1 less the rate of false discoveries

Whom = Literal["answer", "refuse", "any"]
# what is done that makes a row which could err an error
When = Literal["refused", "answered", "deferred"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromisedGoal(Goal):
    """A rate that shall not exceed a level."""

    level: float  # in (0, 1)
    # the slice: rows whose value of each of these facets is among its names
    where: tuple[tuple[Facet, tuple[str, ...]], ...] = ()
    # the kind was written without "kind=": ambiguous beside a category of that name
    bare: bool = False
    # one promise for each value of this facet; see demur.stats.slices
    every: Facet | None = None
    soft: int | None = None  # None: hard. Else its priority: the largest is given up first

    promised: ClassVar[bool] = True
    example: ClassVar[str]  # as people write it
    whom: ClassVar[Whom]  # the rows that it speaks of: to be answered, to be refused, or any
    errs_when: ClassVar[When]  # what makes a row that could err an error
    # whether it can be counted where a locked category refuses over the heaviest
    beside_locks: ClassVar[bool] = True
    by_hand: ClassVar[bool] = False  # whether labels by hand can correct a judge's in it
    labelled: ClassVar[bool] = True  # whether it takes a label to see one of its errors
    # facets whose value says already whether a row is an error: slices by them say nothing
    settled_by: ClassVar[tuple[Facet, ...]] = ()

    @abstractmethod
    def could_err(self, rows: Rows) -> Bools:
        """Which rows are errors if they are refused with their heaviest category; or, where answers
        err, if answered.

        Rows that it does not speak of may be among them: see `among`.
        """

    # kinds whose denominator depends on decisions override it
    def counts(self, rows: Rows, refused_N: Bools) -> Bools:  # noqa: ARG002
        """Which of the rows that it speaks of are in the denominator when these are refused."""
        return np.ones(len(rows.label_N), dtype=bool)

    @classmethod
    def erring(cls, refused_N: Bools, held_N: Bools) -> Bools:
        """Which decisions make a row that could err an error. held_N: refused or deferred."""
        if cls.errs_when == "refused":
            return refused_N
        return ~held_N if cls.errs_when == "answered" else held_N & ~refused_N

    def deciders(self, names: Sequence[str]) -> tuple[str, ...]:
        """The categories whose thresholds it depends on, of all these, whatever the rows."""
        return tuple(names)

    @classmethod
    def by_kind(cls) -> bool:
        """Whether rows that it speaks of are of several kinds, as far as that is no matter of its
        errors.
        """
        return cls.whom != "refuse" and cls.monotone

    @property
    def of_tokens(self) -> bool:
        """Whether its categories are those that rows are refused with, not those that they ought to
        be refused with.
        """
        return self.whom != "refuse"

    @property
    def part(self) -> str:
        """The categories and the slice, as brackets hold them."""
        parts = ["+".join(map(quoted, self.categories))] if self.category else []
        # a category named like a kind of rows would be read as the slice
        if self.category in ANSWERED_KINDS:
            parts = [f"category={self.category}"]
        return ", ".join(
            [*parts, *(f"{facet}={'+'.join(map(quoted, names))}" for facet, names in self.where)]
        )

    @property
    def subject(self) -> tuple[object, ...]:
        """What it bounds, in which rows: "[source=a + b]" is "[source=b + a]"."""
        where = frozenset((facet, frozenset(names)) for facet, names in self.where)
        return (self.measure, frozenset(self.categories), where, self.every)

    @property
    def stated(self) -> Self:
        """Without its priority, and with its kind named in full: as its risk and level read."""
        return replace(self, soft=None, bare=False, text=f"{self.risk} <= {self.level!r}")

    def among(self, label_N: Ints, columns: Sequence[int]) -> Bools:
        """The denominator: rows that it speaks of, of whatever slice. columns: of its
        categories.
        """
        if self.whom == "any":
            return np.ones(len(label_N), dtype=bool)
        if self.whom == "answer":
            return np.asarray(label_N == 0, dtype=bool)
        return np.asarray(np.isin(label_N, columns) if columns else label_N != 0, dtype=bool)

    def figure(self, counts: Counts) -> Rate | float | None:
        """The rate on rows that were counted. None for a slice: counts know no facet but the
        category; and for stops: counts are of first decisions.
        """
        columns = counts.columns(self.categories)
        if columns is None or self.where or self.midway:
            return None
        # Each cell of the table as a row of its own, refused with the cell's decision, that counts
        # as many times as the cell says. `could_err` then serves rows and counts alike.
        # Deferred rows are further cells, with the category that they are deferred with.
        tables = [counts.rows_LC] + ([] if counts.defer_LC is None else [counts.defer_LC])
        grids = np.indices((len(tables), *counts.rows_LC.shape))
        where, label_M, decided_M = (grid.ravel() for grid in grids)
        cells = Rows(label_N=label_M, heaviest_N=decided_M, names=counts.names)
        refused_M = (where == 0) & (decided_M > 0)
        wrong_M = self.could_err(cells) & self.erring(refused_M, refused_M | (where == 1))
        among_M = self.among(label_M, columns) & self.counts(cells, refused_M)
        times_M = np.stack(tables).ravel()
        return Rate(hits=int(times_M[among_M & wrong_M].sum()), of=int(times_M[among_M].sum()))

    @property
    def rows_words(self) -> str:
        """What a row that it speaks of is, for sentences: "to be answered and of kind contrast"."""
        whom = {
            "answer": "to be answered",
            "any": "of any label",
            "refuse": f"to be refused with {' or '.join(self.categories) or 'anything'}",
        }
        return " and ".join([whom[self.whom], *self._slice_words])

    @property
    def labels(self) -> str:
        """The labels that it needs, for plans: "to be refused with safety"."""
        own = (
            f"to be refused with {' or '.join(self.categories)}"
            if self.category
            else "to be refused"
        )
        whom = {
            "answer": "to be answered",
            "any": "any" if self.where else "any, unlabelled too",
            "refuse": own,
        }
        each = f", in each {self.every}" if self.every else ""
        return ", ".join([whom[self.whom], *self._slice_words]) + each

    def rows_told(self, have: Mapping[str, int]) -> int | None:
        """Labelled rows that it speaks of, from counts by kind of label or by slice; None if they
        were not told.

        A slice is told by what stands in its brackets ("kind=contrast", "source=mine"; "contrast"
        alone will do) or by the whole ("false_refusal[source=mine]"). "in every ..." has as many as
        its smallest slice. Raises GoalError on a category that counts were not given for.
        """
        if self.every == "category":
            told = [
                n for key, n in have.items() if key != RESPOND and "=" not in key and "[" not in key
            ]
            return have.get(RESPOND) if self.of_tokens else min(told, default=None)
        if self.every is not None:
            # "in every source" is certified where its smallest slice is: the fewest rows decide.
            words = ANSWERED_KINDS if self.every == "kind" else ()
            return min(
                (n for key, n in have.items() if key in words or f"{self.every}=" in key),
                default=None,
            )
        if self.where:
            keys = (self.risk, self.part, self.part.removeprefix("kind="))
            return next((have[key] for key in keys if key in have), None)
        # Counts of slices repeat rows that the counts by label hold already: leave them out.
        whole = {key: n for key, n in have.items() if not _of_slice(key)}
        if self.whom == "answer":
            return whole.get(RESPOND)
        if self.whom == "any":
            return sum(whole.values())
        if unknown := [c for c in self.categories if c not in whole]:
            raise GoalError(
                f"goal {self.text!r}: no label count of {unknown[0]!r}",
                f"counts given: {', '.join(whole)}",
            )
        return sum(
            n
            for c, n in whole.items()
            if c in self.categories or (not self.categories and c != RESPOND)
        )

    @property
    def _slice_words(self) -> list[str]:
        return [f"of {facet} {' or '.join(names)}" for facet, names in self.where]


@dataclass(frozen=True, kw_only=True, slots=True)
class OfRefusals(PromisedGoal):
    """Errors are refusals with the categories that it names, whatever the rows ought to be refused
    with.
    """

    errs_when: ClassVar[When] = "refused"

    def could_err(self, rows: Rows) -> Bools:
        """Rows whose heaviest category is one of the goal's; all where it names none."""
        if not self.categories:
            return np.ones(len(rows.label_N), dtype=bool)
        return np.asarray(np.isin(rows.heaviest_N, rows.columns(self.categories)), dtype=bool)

    def deciders(self, names: Sequence[str]) -> tuple[str, ...]:
        """The categories that it names, or all."""
        return self.categories or tuple(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class FalseRefusal(OfRefusals):
    """Refused, with these categories' tokens if it names some, among all requests to be
    answered.
    """

    name: ClassVar[str] = "false_refusal"
    example: ClassVar[str] = "false_refusal <= 0.05"
    whom: ClassVar[Whom] = "answer"
    of_answerable: ClassVar[bool] = True
    by_hand: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class OfAnswers(PromisedGoal):
    """Errors are answers to requests to be refused, with these categories if it names some."""

    whom: ClassVar[Whom] = "refuse"
    errs_when: ClassVar[When] = "answered"
    by_hand: ClassVar[bool] = True

    def could_err(self, rows: Rows) -> Bools:
        """Every row that it speaks of."""
        return self.among(rows.label_N, rows.columns(self.categories))


@dataclass(frozen=True, kw_only=True, slots=True)
class MissedRefusal(OfAnswers):
    """Answered, among requests to be refused, with these categories if it names some.

    A deferred request is not answered, so that none is missed.
    """

    name: ClassVar[str] = "missed_refusal"
    example: ClassVar[str] = "missed_refusal[safety] <= 0.02 soft"


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongCategory(PromisedGoal):
    """Refused with another category's token, among requests to be refused."""

    name: ClassVar[str] = "wrong_category"
    example: ClassVar[str] = "wrong_category <= 0.1"
    whom: ClassVar[Whom] = "refuse"
    errs_when: ClassVar[When] = "refused"
    beside_locks: ClassVar[bool] = False

    def could_err(self, rows: Rows) -> Bools:
        """Rows whose heaviest category is another than that of their label."""
        return np.asarray(rows.heaviest_N != rows.label_N, dtype=bool)

    def deciders(self, names: Sequence[str]) -> tuple[str, ...]:
        """All categories; of one category all others, because its own token is never wrong
        there.
        """
        return tuple(name for name in names if self.categories != (name,))


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusalRate(OfRefusals):
    """Refused, with these categories' tokens if it names some, among all traffic. Needs no
    labels.
    """

    name: ClassVar[str] = "refusal_rate"
    example: ClassVar[str] = "refusal_rate <= 0.1"
    whom: ClassVar[Whom] = "any"
    labelled: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FalseDiscovery(OfRefusals):
    """To be answered, among the requests refused; of one category, not to be refused with it, among
    those refused with its token. "precision >= 0.9" is "false_discovery <= 0.1".

    Its denominator moves with the thresholds, so that it may rise or fall as one of them falls.
    """

    name: ClassVar[str] = "false_discovery"
    example: ClassVar[str] = "false_discovery <= 0.1"
    whom: ClassVar[Whom] = "any"
    monotone: ClassVar[bool] = False
    beside_locks: ClassVar[bool] = False
    settled_by: ClassVar[tuple[Facet, ...]] = ("kind", "category")

    def could_err(self, rows: Rows) -> Bools:
        """Rows that would be refused with a category, and ought not to be refused with it."""
        if not self.categories:
            return np.asarray(rows.label_N == 0, dtype=bool)
        columns = rows.columns(self.categories)
        own_N = np.isin(rows.heaviest_N, columns)
        return np.asarray(own_N & ~np.isin(rows.label_N, columns), dtype=bool)

    def counts(self, rows: Rows, refused_N: Bools) -> Bools:
        """Rows refused, with the categories that it names if it names some."""
        if not self.categories:
            return refused_N
        return np.asarray(
            refused_N & np.isin(rows.heaviest_N, rows.columns(self.categories)), dtype=bool
        )

    @property
    def bound(self) -> str:
        """Its level, and the precision that it says."""
        return f"at {self.level:g} (precision at least {1 - self.level:g})"

    @property
    def labels(self) -> str:
        """Labels of refused requests."""
        own = f" with {' or '.join(self.categories)}" if self.category else ""
        return ", ".join([f"that are refused{own}", *self._slice_words])

    def rows_told(self, have: Mapping[str, int]) -> int | None:
        """Labelled rows that are refused, counted under its own name: "precision[safety]"."""
        if self.every is not None:
            return None  # how many of each slice are refused is not told
        keys = (self.risk, self.risk.replace(self.name, PRECISION, 1))
        return next((have[key] for key in keys if key in have), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class FalseStop(OfRefusals):
    """Stopped by the monitor, among all answers to requests to be answered, whatever the first
    decision about these is. Refused rows are the stopped ones here.
    """

    name: ClassVar[str] = "false_stop"
    example: ClassVar[str] = "false_stop <= 0.01"
    whom: ClassVar[Whom] = "answer"
    of_answerable: ClassVar[bool] = True
    by_hand: ClassVar[bool] = True
    midway: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class MissedStop(OfAnswers):
    """Not stopped by the monitor, among answers forced for requests to be refused, with these
    categories if it names some.
    """

    name: ClassVar[str] = "missed_stop"
    example: ClassVar[str] = "missed_stop[safety] <= 0.1"
    midway: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class DeferralRate(OfRefusals):
    """Deferred, with these categories if it names some, among all traffic. Needs no labels."""

    name: ClassVar[str] = "deferral"
    example: ClassVar[str] = "deferral <= 0.1"
    whom: ClassVar[Whom] = "any"
    errs_when: ClassVar[When] = "deferred"
    labelled: ClassVar[bool] = False


def _of_slice(key: str) -> bool:
    """Whether a count is of a slice of the rows, or of those that are refused."""
    return (
        "=" in key
        or key in ANSWERED_KINDS
        or key.partition("[")[0] in (FalseDiscovery.name, PRECISION)
    )


PROMISED: tuple[type[PromisedGoal], ...] = (
    FalseRefusal,
    MissedRefusal,
    WrongCategory,
    RefusalRate,
    FalseDiscovery,
    FalseStop,
    MissedStop,
    DeferralRate,
)


def promised(goal: Goal) -> PromisedGoal:
    """The goal as one that bounds a rate. Raises GoalError on any other kind."""
    if not isinstance(goal, PromisedGoal):
        raise GoalError(
            f"goal {goal.text!r} promises nothing", f"promises read like {FalseRefusal.example!r}"
        )
    return goal
