"""A certification problem as arrays: which threshold decides each row, and which rows err.

Shapes: N rows, G groups. A group is one threshold and the categories that share it.

1. A row belongs to the group of its heaviest category and to no other, so counts are sums over the
   groups (risk_control: separability).
2. A locked category refuses whenever its own threshold is met: under rule `heaviest` its threshold
   reaches every row. Counts are then no sums; `refused` is right for any thresholds, and solvers
   add up no more than an upper bound.
3. A doubtful row is refused by no threshold and answered by none: its score is +inf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.core.goals.promised import PromisedGoal
from demur.core.rates import Rate, Slice
from demur.stats.labelled import LabelledScores, Traits

_OF_GROUPS = 0x6209  # a stream of its own, whatever the caller's seed also drew
NO_GROUP = -1  # no threshold refuses this row


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupedScores:
    """N rows, and the threshold that decides each."""

    rows: LabelledScores
    names: tuple[str, ...]  # of all categories, in the taxonomy's order
    standing: tuple[float, ...]  # threshold of each category where no group has one
    groups: tuple[tuple[str, ...], ...]  # the categories of each threshold
    group_N: Ints  # NO_GROUP where no category may be emitted
    # float32 values: refused iff logq >= log threshold of its group; +inf where doubtful
    logq_N: Doubles
    heaviest_N: Ints  # column of the category it is refused with, if not by a lock
    # group of a locked category -> its log q of all rows
    locked: Mapping[int, Doubles] = field(default_factory=dict)

    @property
    def always_N(self) -> Bools:
        """Which rows are refused whatever the thresholds: doubtful ones."""
        return np.asarray(self.logq_N == np.inf, dtype=bool)

    def compared_with(self, g: int) -> Doubles:
        """What a group's threshold is compared with, (N,): -inf in rows that it does not reach."""
        if g in self.locked:
            # A doubtful row is counted once, with the group of its heaviest category.
            return np.where(
                self.always_N, np.where(self.group_N == g, np.inf, -np.inf), self.locked[g]
            )
        return np.where(self.group_N == g, self.logq_N, -np.inf)

    def thresholds(self, by_group: Sequence[float]) -> tuple[float, ...]:
        """One threshold per category, in the taxonomy's order: the standing one where no group has
        one.
        """
        found = {name: t for names, t in zip(self.groups, by_group, strict=True) for name in names}
        return tuple(found.get(n, t) for n, t in zip(self.names, self.standing, strict=True))

    def refused(self, by_group: Sequence[float]) -> Bools:
        """Which rows these thresholds refuse."""
        with np.errstate(divide="ignore"):
            # the last: NO_GROUP
            log_threshold_G = np.append(np.log(np.array(by_group, dtype=np.float64)), np.inf)
        refused_N = self.logq_N >= log_threshold_G[self.group_N]
        for g, logq_N in self.locked.items():
            refused_N |= logq_N >= log_threshold_G[g]
        return np.asarray(refused_N, dtype=bool)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loss:
    """A promised goal: among which rows, and which of them err when refused, or when answered."""

    goal: PromisedGoal
    among_N: Bools  # the denominator
    could_err_N: Bools  # a part of it
    # categories whose thresholds it depends on, whatever the rows at hand
    deciders: tuple[str, ...]
    traits: Traits | None = None  # of all rows

    @property
    def level(self) -> float:
        """What its rate shall not exceed."""
        return self.goal.level

    @property
    def when(self) -> Literal["refused", "answered"]:
        """What makes a row that could err an error."""
        return self.goal.errs_when

    def errors(self, refused_N: Bools) -> Bools:
        """Which rows err where these are refused."""
        return self.could_err_N & (refused_N if self.when == "refused" else ~refused_N)

    def of(self, part_N: Bools) -> int:
        """Rows of a part that the goal speaks of."""
        return int((self.among_N & part_N).sum())

    def groups(self, grouped: GroupedScores) -> list[int]:
        """The thresholds it depends on."""
        return [g for g, names in enumerate(grouped.groups) if set(names) & set(self.deciders)]

    def rate(self, refused_N: Bools, part_N: Bools) -> Rate:
        """The goal's rate on a part of the rows."""
        return Rate(hits=int((self.errors(refused_N) & part_N).sum()), of=self.of(part_N))

    def mix(self, refused_N: Bools, part_N: Bools) -> tuple[Slice, ...]:
        """The same rate by kind, category and source. Empty where the rows do not say them."""
        if self.traits is None:
            return ()
        return self.traits.mix(self.errors(refused_N), self.among_N & part_N)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objective:
    """The worth of refusing each row; or F-beta of refusing what ought to be refused."""

    worth_N: Doubles  # for F-beta: 1 for rows to be refused, 0 for others
    should_N: Bools
    beta2: float | None = None  # F-beta: beta squared

    def value(self, refused_N: Bools) -> float:
        """How good it is to refuse these rows."""
        if self.beta2 is None:
            return float(self.worth_N[refused_N].sum())
        return float(
            self._f(np.array((refused_N & self.should_N).sum()), np.array(refused_N.sum()))
        )

    def best_step(self, first_N: Ints, first: int, last: int) -> int:
        """The best number of steps from `first` to `last`, when each row is refused after
        `first_N`. The fewest win.
        """
        if self.beta2 is None:
            value_S = _cumulative(first_N, last, self.worth_N)
        else:
            caught_S = _cumulative(first_N, last, self.should_N.astype(np.float64))
            value_S = self._f(caught_S, _cumulative(first_N, last, np.ones(len(first_N))))
        value_S = value_S[first:]
        return first + int(np.argmax(value_S > value_S.max() - 1e-9 * max(1.0, abs(value_S.max()))))

    def is_vacuous(self, refused_N: Bools) -> bool:
        """Whether nothing worthwhile is refused though there is something: a promise kept by doing
        nothing.
        """
        worthwhile_N = self.worth_N > 0
        return bool(worthwhile_N.any() and not (worthwhile_N & refused_N).any())

    def _f(self, caught: Doubles, refused: Doubles) -> Doubles:
        b2 = self.beta2 or 0.0
        f = (1 + b2) * caught / np.maximum(b2 * self.should_N.sum() + refused, 1.0)
        return np.asarray(f, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LearnTestSplit:
    """Rows to learn an order on, and rows to test promises on. Rows made from one another stay
    together.
    """

    learn_N: Bools
    test_N: Bools


def one_per_group(group_N: Ints | None, among_N: Bools, seed: int) -> Bools:
    """Marks one random row of each group among these; every row if there are no groups.

    Rows made from one another err together: counted each, they would promise more than they show.
    """
    if group_N is None:
        return np.ones(len(among_N), dtype=bool)
    order = np.random.default_rng([seed, _OF_GROUPS]).permutation(np.flatnonzero(among_N))
    marked_N = np.zeros(len(among_N), dtype=bool)
    marked_N[order[np.unique(group_N[order], return_index=True)[1]]] = True
    return marked_N


def _cumulative(first_N: Ints, last: int, value_N: Doubles) -> Doubles:
    """Total value refused after 0, 1, ..., `last` steps."""
    sums = np.bincount(np.minimum(first_N, last + 1), weights=value_N, minlength=last + 2)
    return np.asarray(np.cumsum(sums)[: last + 1], dtype=np.float64)
