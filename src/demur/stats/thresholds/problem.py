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
from dataclasses import dataclass, field, replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import GoalError
from demur.core.goals.counts import Rows
from demur.core.goals.promised import PromisedGoal, When
from demur.core.rates import Rate, Slice, TrafficMix, stored
from demur.core.rows.facets import FACETS
from demur.core.score import ENGINE_TOLERANCE
from demur.stats.labelled import LabelledScores, Traits
from demur.stats.sample import AskedRequests
from demur.stats.traffic.bounds import EstimatedMix, SpokenShares
from demur.stats.traffic.rows import TrafficRows, rows_of_traffic
from demur.stats.units import CountedRows, RowUnits, count_rows, requests_of
from demur.stats.weighted import WeightedRows, weighted

NO_GROUP = -1  # no threshold refuses this row
# of a promise's method, for people
AT_WORST = f"errors counted at the worst within {ENGINE_TOLERANCE:g} of each log-probability"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupedScores:
    """N scored rows, and the threshold that decides each of them."""

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
    # the same rows with the lowest and highest scores that an engine within ENGINE_TOLERANCE may
    # give; None: scores are taken as they are
    low: GroupedScores | None = None
    high: GroupedScores | None = None
    # groups whose categories defer, from thresholds of their own on; see procedures.band
    deferring: frozenset[int] = frozenset()

    def at_worst(self, when: When) -> GroupedScores:
        """The rows with the scores, within the tolerance of engines, that err the most for goals
        that refusals or answers break.
        """
        return (self.low if when == "answered" else self.high) or self

    def method(self, words: str) -> str:
        """The name of a procedure, with the tolerance that its counts allow for."""
        if self.high is None:
            return words
        return f"{words}; {AT_WORST}"

    def at_one_threshold(self) -> GroupedScores:
        """The same rows with one threshold for all active categories. It is met by the heaviest
        category wherever a locked one meets it, so that no lock reaches further.
        """
        return replace(
            self,
            groups=(tuple(name for names in self.groups for name in names),),
            group_N=np.where(self.group_N == NO_GROUP, NO_GROUP, 0),
            locked={},
            low=None if self.low is None else self.low.at_one_threshold(),
            high=None if self.high is None else self.high.at_one_threshold(),
            deferring=frozenset({0} if self.deferring else ()),
        )

    @property
    def always_N(self) -> Bools:
        """Rows that are refused whatever the thresholds: doubtful ones, shape (N,)."""
        return np.asarray(self.logq_N == np.inf, dtype=bool)

    def compared_with(self, g: int) -> Doubles:
        """Log-probabilities that the threshold of group g is compared with, shape (N,).

        -inf in rows that this threshold does not reach.
        """
        if g in self.locked:
            # A locked threshold reaches every row. A doubtful row is refused once, with the group
            # of its heaviest category: in every other group it would be counted twice.
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
        """Whether each row is refused at these thresholds, one per group; shape (N,)."""
        with np.errstate(divide="ignore"):  # log 0 = -inf: "always" refuses every row of its group
            # NO_GROUP is -1 and so indexes the last entry, a threshold that nothing finite meets.
            log_threshold_G = np.append(np.log(np.array(by_group, dtype=np.float64)), np.inf)
        refused_N = self.logq_N >= log_threshold_G[self.group_N]
        for g, logq_N in self.locked.items():
            refused_N |= logq_N >= log_threshold_G[g]
        return np.asarray(refused_N, dtype=bool)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loss:
    """A promised goal on N rows: its denominator, the rows that err if refused, or if answered, and
    what each row is as evidence.
    """

    goal: PromisedGoal
    among_N: Bools  # the denominator; where it depends on decisions, all rows that may be in it
    could_err_N: Bools  # the rows of it that err if they are refused, or answered: see `when`
    # the same rows as the goal sees them, for a denominator that depends on decisions
    rows: Rows
    # categories whose thresholds it depends on, whatever the rows at hand
    deciders: tuple[str, ...]
    unit_N: Ints | None = None  # equal numbers: one piece of evidence. None: every row stands alone
    count_N: Ints | None = None  # requests that each row stands for. None: one each
    # rows whose unit taught what is tested: they count by requests alone. None: none did
    taught_N: Bools | None = None
    seed: int = 0  # draws one row of each unit
    traffic: TrafficMix | None = None  # the mix that is promised for, if it is not the rows' own
    # what the goal speaks of each slice of a mix that is estimated
    spoken: SpokenShares | None = None
    traits: Traits | None = None  # of all rows

    @property
    def level(self) -> float:
        """The bound that the goal's rate shall not exceed, in (0, 1)."""
        return self.goal.level

    @property
    def when(self) -> When:
        """The decision that makes a row of could_err_N an error."""
        return self.goal.errs_when

    def errors(self, refused_N: Bools, held_N: Bools | None = None) -> Bools:
        """The rows that err when the rows of refused_N are refused, the others of held_N deferred,
        and all others answered. None: nothing is deferred.
        """
        return self.could_err_N & self.goal.erring(
            refused_N, refused_N if held_N is None else held_N
        )

    def denominator(self, refused_N: Bools) -> Bools:
        """The rows of the denominator when the rows of refused_N are refused."""
        return self.among_N & self.goal.counts(self.rows, refused_N)

    def counted_under(self, refused_N: Bools, part_N: Bools) -> CountedRows:
        """The rows of part_N in the denominator under these decisions, as evidence."""
        return self._counted(part_N, refused_N)

    def of(self, part_N: Bools) -> int:
        """The number of requests of part_N in the goal's denominator."""
        return self.weigh(self.among_N & part_N)

    @property
    def weight_N(self) -> Doubles:
        """The requests that each row stands for, in the mix that is promised for; shape (N,)."""
        ones_N = np.ones(len(self.among_N))
        weight_N = ones_N if self.count_N is None else self.count_N.astype(np.float64)
        rows = self._counted(self.among_N)
        if isinstance(rows, WeightedRows | TrafficRows):
            weight_N[rows.row_M] *= rows.weight_M
        return weight_N

    @property
    def units(self) -> int:
        """The pieces of evidence among the rows that it may count, whatever is decided."""
        return self._counted_rows(self.among_N).units

    def weigh(self, rows_N: Bools) -> int:
        """The number of requests that these rows stand for."""
        return requests_of(rows_N, self.count_N)

    def counted(self, part_N: Bools) -> CountedRows:
        """The rows of part_N in the goal's denominator, as evidence, whatever is decided.

        Raises GoalError on a goal whose denominator depends on decisions: procedures that rest on
        monotone rates call this, and must not certify such a goal.
        """
        if not self.goal.monotone:
            raise GoalError(
                f"goal {self.goal.text!r}: what it counts depends on the thresholds", "use 'auto'"
            )
        return self._counted(part_N)

    def _counted(self, part_N: Bools, refused_N: Bools | None = None) -> CountedRows:
        """The rows of part_N as evidence; refused_N: decisions that the denominator depends on."""
        decides = refused_N is not None and not self.goal.monotone
        counted_N = self.denominator(refused_N) if refused_N is not None and decides else None
        if self.traffic is None:
            return self._counted_rows(part_N if counted_N is None else part_N & counted_N)
        # A mix is of all requests, whatever is decided.
        rows = self._counted_rows(part_N)
        if isinstance(self.traffic, EstimatedMix) and self.spoken is not None:
            return rows_of_traffic(rows, self.traffic, self.spoken, counted_N)
        return weighted(rows, self.traffic, counted_N)

    def _counted_rows(self, part_N: Bools) -> CountedRows:
        among_N = self.among_N & part_N
        return count_rows(among_N, self.unit_N, self.count_N, self.seed, self.taught_N)

    def within(self, part_N: Bools) -> Loss:
        """The same goal, counted on the rows of part_N only."""
        return replace(self, among_N=self.among_N & part_N, could_err_N=self.could_err_N & part_N)

    def one_per_unit(self, part_N: Bools) -> Loss:
        """The loss on one row of each unit of part_N: independent rows of one request each."""
        counted = self.counted(part_N)
        drawn_N = np.zeros(len(part_N), dtype=bool)
        drawn_N[counted.row_M[counted.drawn_M]] = True
        return replace(
            self,
            among_N=self.among_N & drawn_N,
            could_err_N=self.could_err_N & drawn_N,
            unit_N=None,
            count_N=None,
            taught_N=None,
        )

    def tested_on(self, split: LearnTestSplit) -> Loss:
        """The loss with the requests that a split leaves to test it."""
        if (asked := split.asked) is None:
            return self
        if self.count_N is None:  # one row of each unit
            return self.within(~asked.taught_N)
        taught_N = asked.taught_N if self.taught_N is None else asked.taught_N | self.taught_N
        return replace(self, count_N=np.maximum(asked.count_N, 1), taught_N=taught_N)

    def learnt_on(self, split: LearnTestSplit) -> Loss:
        """The loss with the requests that a split leaves to learn by."""
        if split.asked is None or self.count_N is None:
            return self
        return replace(self, count_N=np.maximum(self.count_N - split.asked.count_N, 1))

    def groups(self, grouped: GroupedScores) -> list[int]:
        """The groups whose thresholds can change the goal's rate."""
        return [g for g, names in enumerate(grouped.groups) if set(names) & set(self.deciders)]

    def rate(self, refused_N: Bools, part_N: Bools, held_N: Bools | None = None) -> Rate:
        """The goal's rate over the requests of part_N."""
        of = self.of(part_N & self.denominator(refused_N))
        return Rate(hits=self.weigh(self.errors(refused_N, held_N) & part_N), of=of)

    def measured(self, refused_N: Bools, part_N: Bools, held_N: Bools | None = None) -> Rate:
        """The same rate, which knows the units of its rows."""
        rows = self._counted_rows(part_N & self.denominator(refused_N))
        return rows.measured(self.errors(refused_N, held_N))

    def mix(
        self, refused_N: Bools, part_N: Bools, held_N: Bools | None = None
    ) -> tuple[Slice, ...]:
        """The goal's rate in each slice. Empty where the rows carry no traits."""
        if self.traits is None:
            return ()
        among_N = self.denominator(refused_N) & part_N
        units = RowUnits.of(len(among_N), self.unit_N, self.count_N)
        columns = self.traits.columns.items()
        told = {facet: own for facet, own in columns if facet not in self.goal.settled_by}
        traits = replace(self.traits, columns=told)
        return mix_of(traits, self.errors(refused_N, held_N), among_N, units)


def mix_of(traits: Traits, error_N: Bools, among_N: Bools, units: RowUnits) -> tuple[Slice, ...]:
    """Count errors and requests of each slice among these rows, by facet, then name; with the
    intervals that units make where rows are no independent requests.
    """
    units, error_M, found = units.at(among_N), error_N[among_N], []
    plain = units.plain
    for facet in (f for f in FACETS if f in traits.columns):
        column = traits.columns[facet]
        code_M = column.code_N[among_N]
        of_V, hits_V = (
            np.bincount(code_M, units.count_N * part_M, len(column.names))
            for part_M in (1, error_M)
        )
        # The rows of each slice in turn, in their order: one sort instead of a pass a slice.
        order_M, end_V = np.argsort(code_M, kind="stable"), np.cumsum(np.bincount(code_M))
        for code in np.flatnonzero(of_V).tolist():
            rate, by_units = Rate(hits=round(hits_V[code]), of=round(of_V[code])), None
            if not plain:
                own = order_M[end_V[code - 1] if code else 0 : end_V[code]]
                rate, by_units = stored(units.at(own).rate(error_M[own], np.full(len(own), True)))
            name = column.names[code]
            found.append(Slice(facet=facet, name=name, rate=rate, by_units=by_units))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objective:
    """The figure to maximise: the summed worth of the refused rows, or F-beta of refusing.

    F-beta is no sum over rows, so it keeps its own counts: rows caught and rows refused.
    """

    # over all requests that a row stands for; for F-beta positive in rows to be refused, else 0
    worth_N: Doubles
    should_N: Bools  # to be refused
    beta2: float | None = None  # F-beta: beta squared
    count_N: Ints | None = None  # F-beta: requests that each row stands for. None: one each

    def value(self, refused_N: Bools) -> float:
        """The objective's value when exactly these rows are refused."""
        if self.beta2 is None:
            return float(self.worth_N[refused_N].sum())
        caught, refused = (
            self._requests(rows_N) for rows_N in (refused_N & self.should_N, refused_N)
        )
        # (1 + b2) TP / (b2 P + TP + FP), with TP + FP = refused; 1 avoids 0 / 0 where all is empty.
        of = self.beta2 * self._requests(self.should_N) + refused
        return (1.0 + self.beta2) * caught / max(of, 1.0)

    def is_vacuous(self, refused_N: Bools) -> bool:
        """Whether no row of positive worth is refused although there are some.

        A promise that such thresholds keep is kept by doing nothing.
        """
        worthwhile_N = self.worth_N > 0
        return bool(worthwhile_N.any() and not (worthwhile_N & refused_N).any())

    def _requests(self, rows_N: Bools) -> int:
        return requests_of(rows_N, self.count_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrived:
    """How rows came, in whose order they are: the first `learn` of the `first` rows of the first
    look fix the thresholds.
    """

    learn: int
    first: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LearnTestSplit:
    """The rows to learn an order of thresholds on, and the rows to test promises on."""

    learn_N: Bools
    test_N: Bools
    # where rows stand for several requests, which learn and test: see demur.stats.sample. Such a
    # row may be in both parts. None: a row learns or tests as a whole
    asked: AskedRequests | None = None
