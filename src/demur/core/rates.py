"""Rates that know their own denominator, exact binomial bounds of them, and slices.

Integers decide; floats only carry probabilities. A promise is a rate over a mix of rows; a slice is
the rate of one part of them, such as a kind, a source or a tenant, which may be far worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from demur.base.arrays import Doubles, Ints
from demur.base.errors import Undefined

SHOWN = 4  # slices of one facet that a sentence names
SHOWN_CONFIDENCE = 0.95  # of intervals that are shown and stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """hits out of so many. Undefined, not 0, when the denominator is empty."""

    hits: int
    of: int

    @property
    def defined(self) -> bool:
        """Whether there is a denominator."""
        return self.of > 0

    @property
    def value(self) -> float:
        """hits / of. Raises Undefined if of == 0."""
        if not self.of:
            raise Undefined(
                "a rate over 0 rows has no value",
                "check `.defined` first, or report it as undefined",
            )
        return self.hits / self.of

    @property
    def units(self) -> int:
        """How many independent pieces of evidence there are: of a plain rate, as many as rows."""
        return self.of

    def upper(self, delta: float) -> float:
        """One-sided upper bound; see upper_bound. Raises Undefined if of == 0."""
        return upper_bound(self.hits, self.of, delta)

    def lower(self, delta: float) -> float:
        """One-sided lower bound; see lower_bound. Raises Undefined if of == 0."""
        return lower_bound(self.hits, self.of, delta)

    def interval(self, confidence: float = SHOWN_CONFIDENCE) -> tuple[float, float]:
        """Two-sided interval: covers the true rate with probability >= confidence.

        Clopper-Pearson, which wants independent rows: rows that may share a group or session are
        counted by demur.stats.units, whose rates know their units. Raises Undefined if of == 0.
        """
        half = (1.0 - confidence) / 2.0
        return self.lower(half), self.upper(half)


@dataclass(frozen=True, kw_only=True, slots=True)
class ByUnits:
    """The 95 % interval of a stored rate whose rows share units, or stand for several requests: its
    counts alone do not tell it.
    """

    units: int  # pieces of evidence
    low: float
    high: float


def stored(rate: Rate) -> tuple[Rate, ByUnits | None]:
    """A rate as files keep it: its counts, and its interval where these do not tell it."""
    if rate.units == rate.of:
        return rate, None
    low, high = rate.interval()
    return Rate(hits=rate.hits, of=rate.of), ByUnits(units=rate.units, low=low, high=high)


def decimal_fraction(number: float) -> Fraction:
    """The decimal number that a person meant by this float: 0.1 is one tenth."""
    return Fraction(str(number))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p), by the regularised incomplete beta function."""
    from scipy.special import betainc  # 0.1 s of imports, where a rate alone needs none

    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return float(betainc(n - k, k + 1, 1.0 - p))


def upper_bound(hits: int, of: int, delta: float) -> float:
    """One-sided upper confidence bound of a rate, exact for every n (Clopper and Pearson 1934).

    hits, of: counts, 0 <= hits <= of. delta: allowed miss probability, in (0, 1). The returned rate
    in [0, 1] lies below the true rate with probability <= delta. Raises Undefined if of == 0.
    """
    from scipy.special import betaincinv

    _check(hits, of, delta)
    return 1.0 if hits == of else float(betaincinv(hits + 1, of - hits, 1.0 - delta))


def lower_bound(hits: int, of: int, delta: float) -> float:
    """One-sided lower confidence bound of a rate, exact for every n (Clopper and Pearson 1934). See
    upper_bound.
    """
    from scipy.special import betaincinv

    _check(hits, of, delta)
    return 0.0 if hits == 0 else float(betaincinv(hits, of - hits + 1, delta))


def real_interval(value: float, of: float, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval with real-valued counts, of an effective number of rows: value
    x of hits.
    """
    from scipy.special import betaincinv

    half, hits = (1.0 - confidence) / 2.0, value * of
    low = 0.0 if value <= 0.0 else float(betaincinv(hits, of - hits + 1.0, half))
    high = 1.0 if value >= 1.0 else float(betaincinv(hits + 1.0, of - hits, 1.0 - half))
    return low, high


def most_errors(n: int, level: float, delta: float) -> int | None:
    """The largest k with P(Binomial(n, level) <= k) <= delta: so many errors among n rows still
    certify rate <= level.

    None if even no error would not do. Closed form of Learn then Test with fixed-sequence testing
    for a monotone binary loss (arXiv 2110.01052). Bisection: O(log n) evaluations of the exact
    tail.
    """
    if not (0.0 < level < 1.0 and 0.0 < delta < 1.0):
        raise ValueError(f"level {level} and delta {delta} must lie in (0, 1)")
    if n < 1 or binomial_cdf(0, n, level) > delta:
        return None
    low, high = 0, n  # cdf(low) <= delta < cdf(n) = 1
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(middle, n, level) <= delta:
            low = middle
        else:
            high = middle
    return low


def rows_needed(level: float, delta: float) -> int:
    """The fewest rows that certify rate <= level when no error is seen: smallest n with (1 -
    level)^n <= delta.
    """
    n = max(1, math.ceil(math.log(delta) / math.log1p(-level)) - 1)
    while binomial_cdf(0, n, level) > delta:  # the logarithm may be off by one in either direction
        n += 1
    return n


def _check(hits: int, of: int, delta: float) -> None:
    if of == 0:
        raise Undefined(
            "a rate over 0 rows has no bound",
            "add rows to the denominator, or report it as undefined",
        )
    if not 0 <= hits <= of:
        raise ValueError(f"{hits} hits of {of} is not a rate")
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta {delta} must lie in (0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrafficMix:
    """The slice of each row, and the share that each slice has of the traffic promised for."""

    facet: str  # of demur.core.rows.facets
    names: tuple[str, ...]  # of the S slices
    slice_N: Ints  # 0 to S - 1
    share_S: Doubles  # at least 0, sum 1

    @property
    def words(self) -> str:
        """For people: "10% kind contrast, 90% kind benign"."""
        shares = zip(self.names, self.share_S.tolist(), strict=True)
        return ", ".join(f"{100 * s:.3g}% {self.facet} {name}" for name, s in shares if s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The rows with one value of a facet among those that a promise was tested on, and its errors
    there.
    """

    facet: str  # of demur.core.rows.facets
    name: str
    # errors of this slice; its `of` over the promise's own is the slice's share of the mix
    rate: Rate
    # None where each of its requests is one piece of evidence, and in files of before it was stored
    by_units: ByUnits | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of its rate."""
        if self.by_units is None:
            return self.rate.interval()
        return self.by_units.low, self.by_units.high

    @property
    def pieces(self) -> int:
        """The pieces of evidence among its rows."""
        return self.rate.of if self.by_units is None else self.by_units.units

    @property
    def label(self) -> str:
        """As people read it: "kind contrast"."""
        return f"{self.facet} {self.name}"


def worst(mix: Sequence[Slice]) -> Slice | None:
    """The slice that is most surely bad: the highest lower end of its interval, then the highest
    rate.

    Not the highest rate alone: one error in one row would always be it. Only facets with several
    slices count; None if there are none.
    """

    def key(part: Slice) -> tuple[float, float, float]:
        low, high = part.interval
        return low, part.rate.value, high

    return max(divided(mix), key=key, default=None)


def divided(mix: Sequence[Slice]) -> tuple[Slice, ...]:
    """The slices of facets that divide the rows at all."""
    facets = [part.facet for part in mix]
    return tuple(part for part in mix if facets.count(part.facet) > 1 and part.rate.of)


def mix_words(mix: Sequence[Slice]) -> str:
    """The shares of the slices: "kind benign 97%, contrast 3%; source mine 60%, theirs 40%". Empty
    without slices.
    """
    sentences = []
    for facet in dict.fromkeys(part.facet for part in mix):
        parts = sorted((p for p in divided(mix) if p.facet == facet), key=lambda p: -p.rate.of)
        total = sum(p.rate.of for p in parts)
        words = [f"{p.name} {p.rate.of / total:.0%}" for p in parts[:SHOWN]]
        rest = sum(p.rate.of for p in parts[SHOWN:])
        if rest:
            words.append(f"{len(parts) - SHOWN} others {rest / total:.0%}")
        if parts:
            sentences.append(f"{facet} {', '.join(words)}")
    return "; ".join(sentences)


def worst_words(mix: Sequence[Slice], level: float, confidence: float = 0.95) -> str:
    """The worst slice with its interval, and what so many rows of it can say. Empty without
    slices.
    """
    part = worst(mix)
    if part is None:
        return ""
    low, high = part.interval
    words = (
        f"{part.label}, {part.rate.hits} of {part.rate.of}: {part.rate.value:.1%} (95% "
        f"{low:.1%} to {high:.1%})"
    )
    needed = rows_to_bound(level, confidence)
    if part.pieces < needed:
        what = "rows" if part.by_units is None else "units of rows"
        words += (
            f"; {part.pieces} {what} are too few to bound it at {level:g}, {needed} without "
            "an error would do"
        )
    return words


def rows_to_bound(level: float, confidence: float = 0.95) -> int:
    """The fewest rows that bound a rate at this level, if none of them errs."""
    return rows_needed(level, 1.0 - confidence)


def too_small(mix: Sequence[Slice], level: float, confidence: float = 0.95) -> tuple[Slice, ...]:
    """The slices that hold too few rows to bound their rate at this level, even without an
    error.
    """
    needed = rows_to_bound(level, confidence)
    return tuple(part for part in divided(mix) if part.pieces < needed)
