"""Labelled scores: the scores of rows beside what ought to have happened, their groups and
traits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Bools, Ints, numbered, occurrences
from demur.base.errors import DataError
from demur.core.example import Example
from demur.core.midway.peaks import AnswerPeaks
from demur.core.rates import TrafficMix
from demur.core.rows.facets import FACETS, NONE, Facet, says_something, value_of
from demur.core.score import ScoreTable
from demur.core.taxonomy import Taxonomy

TextArray = npt.NDArray[np.str_]

UNCHECKED = -1  # no hand has labelled this row


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FacetColumn:
    """The values of one facet over N rows."""

    names: tuple[str, ...]  # ascending; every one is some row's
    code_N: Ints  # index of each row's value in `names`


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Traits:
    """The values of N rows by facet. Of a facet without a column every row is in slice NONE."""

    rows: int
    columns: Mapping[Facet, FacetColumn]

    def of(self, facet: Facet) -> TextArray:
        """The values of one facet, shape (N,)."""
        if facet not in self.columns:
            return np.full(self.rows, NONE)
        column = self.columns[facet]
        return np.array(column.names, dtype=np.str_)[column.code_N]

    def within(self, facet: Facet, names: Collection[str]) -> Bools:
        """The rows whose value of a facet is one of these, shape (N,)."""
        if facet not in self.columns:
            return np.full(self.rows, NONE in names)
        column = self.columns[facet]
        return np.array([name in names for name in column.names], dtype=bool)[column.code_N]

    def values(self, facet: Facet, among_N: Bools) -> tuple[str, ...]:
        """The values of a facet among these rows, ascending."""
        if facet not in self.columns:
            return (NONE,) if among_N.any() else ()
        column = self.columns[facet]
        of_V = np.bincount(column.code_N[among_N], minlength=len(column.names))
        return tuple(name for name, of in zip(column.names, of_V.tolist(), strict=True) if of)

    def select(self, at: Ints) -> Traits:
        """The traits of some rows, in this order; a row may be there more than once."""
        columns: dict[Facet, FacetColumn] = {}
        for facet, column in self.columns.items():
            kept, code_M = np.unique(column.code_N[at], return_inverse=True)
            names = tuple(column.names[code] for code in kept.tolist())
            columns[facet] = FacetColumn(names=names, code_N=code_M)
        return Traits(rows=len(at), columns=columns)


def traits_from(values: Mapping[Facet, Sequence[str]]) -> Traits:
    """Traits from the values of each facet, a row each. Raises ValueError where lengths differ."""
    lengths = {len(value_N) for value_N in values.values()}
    if len(lengths) != 1:
        raise ValueError(f"values of {sorted(lengths)} rows are no traits of the same rows")
    columns: dict[Facet, FacetColumn] = {}
    for facet, value_N in values.items():
        names = tuple(sorted(set(value_N)))
        place = {name: n for n, name in enumerate(names)}
        code_N = np.array([place[value] for value in value_N], dtype=np.int64)
        columns[facet] = FacetColumn(names=names, code_N=code_N)
    return Traits(rows=lengths.pop(), columns=columns)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledScores:
    """N scored rows with their labels.

    Raises DataError when there is no row, when lengths differ, or when a label is no column of the
    scores.
    """

    table: ScoreTable
    label_N: Ints  # 0 = to be answered, k = to be refused with category k (a column of the score)
    # equal numbers: rows made from one another. None: every row stands alone
    group_N: Ints | None = None
    # labels by hand, UNCHECKED elsewhere: label_N is then a judge's. None: it is the truth
    hand_N: Ints | None = None
    # requests that each row stands for, at least 1. None: one each
    count_N: Ints | None = None
    # rows whose unit also taught the calibrator: they test by requests alone. None: none did
    taught_N: Bools | None = None
    # the traffic to promise for, where it is mixed otherwise than these rows
    traffic: TrafficMix | None = None
    # None: nothing is known of the rows but their labels, no slice can be looked at
    traits: Traits | None = None
    # the answers to the rows after a forced [respond], one a row or one a request, in the rows'
    # order; None: none were scored
    answers: AnswerPeaks | None = None

    def __post_init__(self) -> None:
        rows = len(self.table.logp_NC)
        if rows == 0:
            raise DataError("there is no scored row", "score the calibrate split: demur score")
        if self.label_N.shape != (rows,):
            raise DataError(
                f"labels of shape {self.label_N.shape} for {rows} scored rows",
                "give one label a row",
            )
        if self.group_N is not None and self.group_N.shape != (rows,):
            raise DataError(
                f"groups of shape {self.group_N.shape} for {rows} scored rows",
                "give one group a row",
            )
        if self.count_N is not None:
            self._check_counts(self.count_N)
        if self.taught_N is not None and self.taught_N.shape != (rows,):
            raise DataError(
                f"marks of taught units of shape {self.taught_N.shape} for {rows} scored rows",
                "give one a row",
            )
        if self.traits is not None and self.traits.rows != rows:
            raise DataError(
                f"traits of {self.traits.rows} rows for {rows} scored rows",
                "give the values of each facet a row",
            )
        if self.answers is not None and tuple(dict.fromkeys(self.answers.ids)) != self.table.ids:
            raise DataError(
                f"answers to {len(self.answers.ids)} prompts, and {rows} scored rows of other ids",
                "select the answers by the ids of the rows",
            )
        if not np.issubdtype(self.label_N.dtype, np.integer):
            raise DataError(
                f"labels are {self.label_N.dtype}, expected integers", "0 = answer, k = category k"
            )
        self._check_range(self.label_N, 0)
        if self.hand_N is not None:
            if self.hand_N.shape != (rows,):
                raise DataError(
                    f"hand labels of shape {self.hand_N.shape} for {rows} scored rows",
                    "one a row: a column of the scores, or -1 where no hand has labelled it",
                )
            if (self.hand_N == UNCHECKED).all():
                raise DataError(
                    f"a hand has labelled none of the {rows} scored rows",
                    "label a random sample of them",
                )
            self._check_range(self.hand_N, UNCHECKED)

    def _check_counts(self, count_N: Ints) -> None:
        rows = len(self.table.logp_NC)
        if count_N.shape != (rows,) or not np.issubdtype(count_N.dtype, np.integer):
            raise DataError(
                f"counts of shape {count_N.shape} and type {count_N.dtype} for {rows} scored rows",
                "give one whole number of requests a row",
            )
        if (count_N < 1).any():
            row = int(np.argmax(count_N < 1))
            raise DataError(
                f"row {self.table.ids[row]!r} has count {count_N[row]}",
                "a row stands for 1 request or more",
            )

    def _check_range(self, label_N: Ints, lowest: int) -> None:
        columns = self.table.logp_NC.shape[1]
        wrong_N = (label_N < lowest) | (label_N >= columns)
        if wrong_N.any():
            row = int(np.argmax(wrong_N))
            raise DataError(
                f"row {self.table.ids[row]!r} has label {label_N[row]}, expected {lowest} to "
                f"{columns - 1}",
                "0 = to be answered, k = to be refused with the k-th category",
            )

    def by_answer(self) -> LabelledScores:
        """A row for each answer, as goals about stops count them: where a row has one a request,
        its answers are rows of one request each, in one unit.
        """
        answers, ids = self.answers, self.table.ids
        if answers is None or len(answers.ids) == len(ids):
            return self
        draws = occurrences(answers.ids)
        place = {i: n for n, i in enumerate(ids)}
        at = np.array([place[i] for i in answers.ids], dtype=np.int64)
        own = tuple(
            f"{i}, answer {n + 1}" if n else i for i, n in zip(answers.ids, draws, strict=True)
        )
        unit_N = np.arange(len(ids)) if self.group_N is None else self.group_N
        mix, traits = self.traffic, self.traits
        return LabelledScores(
            table=ScoreTable(ids=own, logp_NC=self.table.logp_NC[at]),
            label_N=self.label_N[at],
            group_N=unit_N[at],
            hand_N=None if self.hand_N is None else self.hand_N[at],
            taught_N=None if self.taught_N is None else self.taught_N[at],
            traffic=None if mix is None else replace(mix, slice_N=mix.slice_N[at]),
            traits=None if traits is None else traits.select(at),
            answers=replace(answers, ids=own),
        )

    def requests(self, rows_N: Bools | None = None) -> int:
        """The number of requests that these rows, or all, stand for."""
        if self.count_N is None:
            return len(self.label_N) if rows_N is None else int(rows_N.sum())
        return int(self.count_N.sum() if rows_N is None else self.count_N[rows_N].sum())

    @property
    def by_hand_N(self) -> Bools:
        """Rows whose label is the truth: those labelled by hand where some are, else all."""
        if self.hand_N is None:
            return np.ones(len(self.label_N), dtype=bool)
        return np.asarray(self.hand_N != UNCHECKED, dtype=bool)

    @property
    def to_answer(self) -> int:
        """Requests that ought to be answered."""
        return self.requests(self.label_N == 0)

    @property
    def to_refuse(self) -> int:
        """Requests that ought to be refused, with whatever category."""
        return self.requests(self.label_N != 0)


def label_scores(
    examples: Sequence[Example],
    taxonomy: Taxonomy,
    table: ScoreTable,
    taught: Collection[str] = (),
) -> LabelledScores:
    """Label the scores of these examples, in their order, with labels, groups and traits.

    taught: ids of rows whose units taught the calibrator (demur.stats.sample). Raises ScoreError
    if an example has no score, TaxonomyError if its category is unknown, DataError if there is no
    example.
    """
    label_N = np.array([taxonomy.column(e.label) for e in examples], dtype=np.int64)
    # The data stage names groups over all sources, so that one that spans two counts once; a row
    # without a group or session is its own.
    groups = [f"unit {e.unit}" if e.unit is not None else f"row {e.id}" for e in examples]
    group_N = np.unique(groups, return_inverse=True)[1].astype(np.int64) if groups else None
    return LabelledScores(
        table=table.select(tuple(e.id for e in examples)),
        label_N=label_N,
        group_N=group_N,
        count_N=np.array([e.count for e in examples], dtype=np.int64) if examples else None,
        taught_N=np.array([e.id in taught for e in examples]) if taught else None,
        traits=traits_of(examples) if examples else None,
    )


def join_answers(rows: LabelledScores, peaks: AnswerPeaks, *, sampled: bool) -> LabelledScores:
    """The rows with all their answers.

    sampled: whether answers are drawn, so that each request of a prompt gets one of its own. Raises
    DataError where fewer were drawn than there are requests: one draw, counted for all of them,
    would say next to nothing of how often the answers to a frequent prompt are stopped.
    """
    if not sampled or rows.count_N is None:
        return replace(rows, answers=peaks.select(rows.table.ids))
    found, several_N = peaks.first_of(rows.table.ids, rows.count_N)
    if (several_N < rows.count_N).any():
        n = int(np.argmax(several_N < rows.count_N))
        raise DataError(
            f"row {rows.table.ids[n]!r} stands for {rows.count_N[n]} requests, and {several_N[n]} "
            "answers to it were drawn",
            "score the answers again: demur score",
        )
    return replace(rows, answers=found)


def promised_for(rows: LabelledScores, mix: Mapping[Facet, Mapping[str, float]]) -> LabelledScores:
    """The rows, with the mix of traffic to promise for: facet -> slice -> share; empty: as it is.

    Raises DataError on a slice that no row is in.
    """
    if not mix or rows.traits is None:
        return rows
    ((facet, shares),) = mix.items()
    names, slice_N = np.unique(rows.traits.of(facet), return_inverse=True)
    known = names.tolist()
    if unknown := [name for name in shares if name not in known]:
        raise DataError(
            f"mix: no row is of {facet} {unknown[0]!r}: nothing is known of that traffic",
            f"{facet}s of these rows: {', '.join(known)}",
        )
    share_S = np.array([shares.get(name, 0.0) for name in known])
    traffic = TrafficMix(
        facet=facet,
        names=tuple(known),
        slice_N=slice_N.astype(np.int64),
        share_S=share_S,
    )
    return replace(rows, traffic=traffic)


def unlabelled_rows(
    table: ScoreTable,
    units: Sequence[str | None] | None = None,
    counts: Sequence[int] | None = None,
) -> LabelledScores:
    """Rows of traffic: scores without labels, for goals that read none.

    units: the session or group of each row, None where it stands alone; None: all rows do. counts:
    the requests that each row stands for; None: one.
    """
    group_N = None if units is None else numbered(units)
    return LabelledScores(
        table=table,
        label_N=np.zeros(len(table.ids), dtype=np.int64),
        group_N=group_N,
        count_N=None if counts is None else np.array(counts, dtype=np.int64),
    )


def traits_of(examples: Sequence[Example]) -> Traits:
    """The values of these rows, of each facet that says something about them."""
    found: dict[Facet, list[str]] = {}
    for facet in FACETS:
        value_N = [value_of(e, facet) for e in examples]
        told = sum(any(name == facet for name, _ in e.traits) for e in examples)
        if says_something(Counter(value_N), facet, told):
            found[facet] = value_N
    return traits_from(found)
