"""A forecast, and its views: pairs of a probability and an event, sorted once for all metrics.

Shapes: N rows, C control tokens (column 0 = respond), P = N + 1 prefixes. Everything is float64:
prefix sums of a million rows are good to about 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Doubles, Ints
from demur.base.errors import DataError, ScoreError

TOLERANCE = 1e-6  # how far from 1 a row's probabilities may sum


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Forecast:
    """N calibrated rows with their labels. Make it with `forecast`, which checks."""

    logp_NC: Doubles  # natural logs; rows sum to 1
    p_NC: Doubles
    label_N: Ints  # the column that was right: 0 = to be answered


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BinaryView:
    """N probabilities of an event, ascending, and whether it happened. Make it with `view`, which
    checks and sorts.
    """

    name: str
    p_N: Doubles
    event_N: Doubles  # 1.0 where it happened
    p_P: Doubles  # prefix sums of p_N, from 0
    event_P: Doubles  # prefix sums of event_N, from 0
    order_N: Ints  # row of the caller's at each sorted place

    @property
    def rows(self) -> int:
        """N, at least 1."""
        return len(self.p_N)

    @property
    def base_rate(self) -> float:
        """The share of rows in which the event happened."""
        return float(self.event_P[-1]) / self.rows

    @property
    def run_ends(self) -> Ints:
        """Prefix lengths at which no run of tied probabilities is cut, from the end of the first
        run to N.
        """
        return np.append(np.flatnonzero(self.p_N[1:] != self.p_N[:-1]) + 1, self.rows)


def forecast(logp_NC: npt.ArrayLike, label_N: npt.ArrayLike) -> Forecast:
    """Check log-probabilities and labels. A probability of 0 (-inf) is allowed.

    Raises ScoreError on NaN, positive values or rows that do not sum to 1 within 1e-6 (close raw
    scores first: demur.core.calibrator.closed), DataError without rows or where a label is no
    column.
    """
    logp, label = np.asarray(logp_NC, dtype=np.float64), np.asarray(label_N)
    if logp.ndim != 2 or len(logp) == 0 or label.shape != logp.shape[:1]:
        raise DataError(
            f"log-probabilities {logp.shape} with labels {label.shape}",
            "expected (N, C) and (N,), N > 0",
        )
    if (
        not np.issubdtype(label.dtype, np.integer)
        or label.min() < 0
        or label.max() >= logp.shape[1]
    ):
        raise DataError(
            f"a label is no column from 0 to {logp.shape[1] - 1}",
            "0 = to be answered, k = category k",
        )
    p = np.exp(logp)
    # written as not (<=), so that NaN is bad
    bad_N = ~(np.abs(p.sum(axis=1) - 1.0) <= TOLERANCE) | (logp > TOLERANCE).any(axis=1)
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise ScoreError(
            f"row {row} has probabilities {p[row].tolist()} that sum to {p[row].sum():g}",
            "expected log-probabilities whose rows sum to 1: calibrate first, or close the scores",
        )
    return Forecast(logp_NC=logp, p_NC=np.minimum(p, 1.0), label_N=label.astype(np.int64))


def binary_view(name: str, p_N: npt.ArrayLike, event_N: npt.ArrayLike) -> BinaryView:
    """Sort pairs of a probability and an event (0 or 1), stably.

    Raises ScoreError on NaN or a probability outside [0, 1], DataError without rows or on other
    events.
    """
    p, event = np.asarray(p_N, dtype=np.float64), np.asarray(event_N, dtype=np.float64)
    if p.ndim != 1 or len(p) == 0 or event.shape != p.shape:
        raise DataError(
            f"view {name!r}: {p.shape} probabilities, {event.shape} events",
            "expected (N,) twice, N > 0",
        )
    order_N = np.argsort(p, kind="stable")
    p, event = p[order_N], event[order_N]
    if not (p[0] >= 0.0 and p[-1] <= 1.0):  # NaN sorts to the end
        raise ScoreError(
            f"view {name!r}: probabilities from {p[0]} to {p[-1]}", "expected numbers in [0, 1]"
        )
    if not ((event == 0.0) | (event == 1.0)).all():
        raise DataError(f"view {name!r}: an event is neither 0 nor 1", "1 where it happened")
    return BinaryView(
        name=name, p_N=p, event_N=event, p_P=_prefixes(p), event_P=_prefixes(event), order_N=order_N
    )


def top_label(f: Forecast) -> BinaryView:
    """The most probable token against being right; the lowest column wins ties."""
    top_N = f.p_NC.argmax(axis=1)
    return binary_view("top_label", f.p_NC[np.arange(len(top_N)), top_N], top_N == f.label_N)


def refusal(f: Forecast) -> BinaryView:
    """The probability of any refusal token against "ought to be refused": the headline view."""
    # 1 - p(respond) by expm1: a probability near 1 would lose its complement to rounding
    return binary_view("refusal", -np.expm1(np.minimum(f.logp_NC[:, 0], 0.0)), f.label_N != 0)


def one_vs_rest(f: Forecast, column: int) -> BinaryView:
    """One token's probability against its own label."""
    return binary_view(f"column {column}", f.p_NC[:, column], f.label_N == column)


def all_classes(f: Forecast) -> tuple[BinaryView, ...]:
    """One view per column, respond included: what class-wise metrics are made of."""
    return tuple(one_vs_rest(f, column) for column in range(f.p_NC.shape[1]))


def _prefixes(value_N: Doubles) -> Doubles:
    return np.concatenate([[0.0], np.cumsum(value_N)])
