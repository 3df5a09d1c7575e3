"""Slices: what a rate over a mix of rows is made of. A promise is an average over its mix; a slice
may be far worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from demur.core.rates import Rate, rows_needed

Facet = Literal["kind", "category", "source"]
FACETS: tuple[Facet, ...] = ("kind", "category", "source")
NO_CATEGORY = "none"  # of rows that resemble no category
SHOWN = 4  # slices of one facet that a sentence names


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The rows of one kind, category or source among those that a promise was tested on, and its
    errors there.
    """

    facet: Facet
    name: str
    # errors of this slice; its `of` over the promise's own is the slice's share of the mix
    rate: Rate

    @property
    def label(self) -> str:
        """As people read it: "kind contrast"."""
        return f"{self.facet} {self.name}"


def worst(mix: Sequence[Slice], confidence: float = 0.95) -> Slice | None:
    """The slice that is most surely bad: the highest lower end of its exact interval, then the
    highest rate.

    Not the highest rate alone: one error in one row would always be it. Only facets with several
    slices count; None if there are none.
    """

    def key(part: Slice) -> tuple[float, float, float]:
        low, high = part.rate.interval(confidence)
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
    for facet in FACETS:
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
    """The worst slice with its exact interval, and what so many rows of it can say. Empty without
    slices.
    """
    part = worst(mix)
    if part is None:
        return ""
    low, high = part.rate.interval()
    words = (
        f"{part.label}, {part.rate.hits} of {part.rate.of}: {part.rate.value:.1%} (95% "
        f"{low:.1%} to {high:.1%})"
    )
    needed = rows_to_bound(level, confidence)
    if part.rate.of < needed:
        words += (
            f"; {part.rate.of} rows are too few to bound it at {level:g}, {needed} without "
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
    return tuple(part for part in divided(mix) if part.rate.of < needed)
