"""The mix of unlabelled traffic: from its scores to the rows whose promises are made for it.

Shapes: N rows, T requests of traffic, S slices, C columns (0 = respond, then one per category).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from demur.base.arrays import Bools, Floats, Ints
from demur.base.errors import DataError
from demur.core.rates import SHOWN, Rate
from demur.core.rows.facets import NONE, Facet, MixBy, values_of
from demur.core.score import ScoreTable
from demur.stats.labelled import LabelledScores, unlabelled_rows
from demur.stats.traffic.bounds import OTHERS, SeenMix, ShiftedMix
from demur.stats.units import RowUnits

# probabilities of refusing between bins of the score
_BINS = (0.01, 0.1, 0.5, 0.9)

ANSWERED, REFUSED = "to be answered", "to be refused"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnlabelledTraffic:
    """Scored requests of traffic: rows whose labels are not read."""

    rows: LabelledScores
    values: Mapping[Facet, Sequence[str | None]]  # facets that the requests say
    name: str  # of its file
    digest: str

    @property
    def words(self) -> str:
        """For people: "3,000 unlabelled requests (sha256:0123456789ab)"."""
        return f"{self.rows.requests():,} unlabelled requests ({self.digest[:19]})"

    def rate(self, hit_T: Bools) -> Rate:
        """The share of requests that these rows are."""
        units = RowUnits.of(len(hit_T), self.rows.group_N, self.rows.count_N)
        return units.rate(hit_T, np.ones(len(hit_T), dtype=bool))


class _Requests(Protocol):
    """What a file of scores says of the requests behind its rows."""

    @property
    def sessions(self) -> Sequence[str | None] | None: ...
    @property
    def counts(self) -> Sequence[int] | None: ...
    @property
    def traits(self) -> Mapping[Facet, Sequence[str | None]]: ...


def traffic_of(table: ScoreTable, requests: _Requests, name: str, digest: str) -> UnlabelledTraffic:
    """Traffic from a file of scores. Raises DataError where it is empty, or has counts that are no
    numbers of requests.
    """
    if not table.ids:
        raise DataError(f"{name} holds no request", "give scores of some requests of traffic")
    rows = unlabelled_rows(table, requests.sessions, requests.counts)
    return UnlabelledTraffic(rows=rows, values=requests.traits, name=name, digest=digest)


def require_apart(traffic: UnlabelledTraffic, ids: Collection[str]) -> None:
    """Raise DataError where traffic holds some of these labelled rows."""
    if twice := sorted(set(ids) & set(traffic.rows.table.ids)):
        raise DataError(
            f"{traffic.name} holds {len(twice)} of the calibrate rows, first {twice[0]!r}, whose "
            "mix is not that of traffic",
            "give scores of other requests",
        )


def promised_for_traffic(
    rows: LabelledScores, by: MixBy, traffic: UnlabelledTraffic, labels: Sequence[str]
) -> LabelledScores:
    """The rows, with the mix of this traffic to promise for. labels: names of the columns of the
    scores.

    Raises DataError where traffic does not say its facet, or has a slice that no row is in; or
    where the shares of labels are asked for and one of them has no row.
    """
    match by:
        case "label" | "refusal":
            return replace(rows, traffic=_shifted(rows, by, traffic, labels))
        case "score":
            own, live = _bins(rows.table.logp_NC), _bins(traffic.rows.table.logp_NC)
            return replace(rows, traffic=_seen(by, own, live, traffic, closed=True))
        case _:
            own, live = _values(rows, by), _said(by, traffic)
            closed = bool(values_of(by))
            return replace(rows, traffic=_seen(by, own, live, traffic, closed=closed))


def _seen(
    by: str,
    own: Sequence[str],
    live: Sequence[str],
    traffic: UnlabelledTraffic,
    *,
    closed: bool,
) -> SeenMix:
    """The mix by a facet. closed: whether no requests but of these slices can come."""
    names, slice_N = np.unique(np.array(own, dtype=np.str_), return_inverse=True)
    known = names.tolist()
    live_T = np.array(live, dtype=np.str_)
    if unknown := sorted(set(live) - set(known)):
        many = traffic.rows.requests(np.isin(live_T, unknown))
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise DataError(
            f"{traffic.name}: {many:,} of {traffic.rows.requests():,} requests are of {by} "
            f"{', '.join(map(repr, unknown[:SHOWN]))}{more}, and no calibrate row is: nothing can "
            "be promised of them",
            "label such requests and add them to the rows; or leave them out of the file, and the "
            "promise is about the others",
        )
    seen = tuple(traffic.rate(live_T == name) for name in known)
    others = 0.0 if closed else traffic.rate(live_T == "").upper(OTHERS)
    return SeenMix(
        facet=by,
        names=tuple(known),
        slice_N=slice_N.astype(np.int64),
        share_S=np.array([rate.value for rate in seen]),
        seen=seen,
        requests=traffic.words,
        others=others,
    )


def _shifted(
    rows: LabelledScores, by: str, traffic: UnlabelledTraffic, labels: Sequence[str]
) -> ShiftedMix:
    label_N, token_N, token_T = (
        rows.label_N,
        _chosen(rows.table.logp_NC),
        _chosen(traffic.rows.table.logp_NC),
    )
    names = tuple(labels)
    if by == "refusal":
        label_N, token_N, token_T = (np.minimum(x_N, 1) for x_N in (label_N, token_N, token_T))
        names = (ANSWERED, REFUSED)
    slices = len(names)
    if missing := [name for s, name in enumerate(names) if not (label_N == s).any()]:
        raise DataError(
            f"no calibrate row is of {by} {missing[0]!r}: nothing says how the model scores such "
            "requests, so their share of traffic cannot be told",
            'add such rows, or take mix_by = "refusal"',
        )
    units = RowUnits.of(len(label_N), rows.group_N, rows.count_N)
    seen = tuple(traffic.rate(token_T == j) for j in range(slices))
    return ShiftedMix(
        facet=by,
        names=names,
        slice_N=label_N.astype(np.int64),
        share_S=np.array([rate.value for rate in seen]),
        seen=seen,
        requests=traffic.words,
        chosen=tuple(
            tuple(units.rate(token_N == j, label_N == s) for j in range(slices))
            for s in range(slices)
        ),
    )


def _chosen(logp_NC: Floats) -> Ints:
    """The column of the most probable control token."""
    return np.asarray(np.argmax(logp_NC, axis=1), dtype=np.int64)


def _bins(logp_NC: Floats) -> list[str]:
    """The bin of each score: the probability of anything but respond."""
    edges = (0.0, *_BINS, 1.0)
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    refuse_N = -np.expm1(np.minimum(logp_NC[:, 0].astype(np.float64), 0.0))
    return [names[at] for at in np.searchsorted(_BINS, refuse_N, side="right").tolist()]


def _values(rows: LabelledScores, by: Facet) -> list[str]:
    found: list[str] = [NONE] * len(rows.label_N)
    return found if rows.traits is None else rows.traits.of(by).tolist()


def _said(by: Facet, traffic: UnlabelledTraffic) -> list[str]:
    values = traffic.values.get(by)
    if values is None:
        known = ", ".join(traffic.values) or "no facet"
        raise DataError(
            f"{traffic.name} has no column {by!r}, it says {known}",
            f"name the {by} of each prompt before it is scored (demur score RUN --prompts FILE "
            '--out SCORES writes the column); or take mix_by by what is there, or "score"',
        )
    return [NONE if value is None else value for value in values]
