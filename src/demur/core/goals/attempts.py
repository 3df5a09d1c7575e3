"""Attempts at certifying promises on the same rows, and the confidence that all of them leave.

1. An attempt grants a false promise with probability delta at most, so of n attempts on the same
   rows any does with probability n delta at most (union bound).
2. A plan divides one delta over attempts beforehand: evenly over so many, or over releases r = 1,
   2, ..., of which each gets 6 / (pi^2 r^2) of it; these shares sum to 1.
3. An attempt with the arguments of an earlier one has its result, too, and costs nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from demur.base.errors import ConfigError

RELEASES = "releases"
MOST_PARTS = 1000  # of a plan: with more, hardly any label can certify anything
_PARTS = re.compile(r"(?:1\s*/\s*)?(\d{1,9})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """A plan that divides delta over attempts."""

    parts: int | None  # so many attempts; None: releases without end

    @property
    def text(self) -> str:
        """As settings and ledgers hold it: "1/6" or "releases"."""
        return RELEASES if self.parts is None else f"1/{self.parts}"

    def share(self, number: int) -> float:
        """The part of delta that the n-th attempt gets, counted from 1."""
        if self.parts is None:
            return 6.0 / (math.pi * number) ** 2
        return 1.0 / self.parts


def parse_spend(value: int | str) -> Spend:
    """Read a plan: 6 or "1/6" for six attempts, or "releases". Raises ConfigError on anything
    else.
    """
    text = str(value).strip()
    if text == RELEASES:
        return Spend(parts=None)
    found = _PARTS.fullmatch(text)
    # True is an int to Python, and no number of attempts
    parts = int(found[1]) if found and not isinstance(value, bool) else 0
    if not 1 <= parts <= MOST_PARTS:
        raise ConfigError(
            f"cannot spend {value!r} of delta",
            f"the number of attempts that are planned, 6 or 1/6, from 1 to {MOST_PARTS}; or "
            f"{RELEASES!r}: as many as come, each at a smaller share",
        )
    return Spend(parts=parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One certification that was tried on some rows. Attempts with one key have one result."""

    key: str  # digest of all that its result depends on
    rows: str  # digest of the set of rows that it was tried on
    goals: tuple[str, ...]
    method: str
    seed: int
    confidence: float  # that was asked for; of the whole plan, where it is part of one
    delta: float  # that it spends: at which it was tested
    policy: str  # name of the policy that it was for
    granted: bool  # whether a promise was certified
    time: str  # ISO 8601, UTC
    spend: str | None = None  # its plan: "1/6" or "releases"
    plan: str | None = None  # key of the plan's first attempt
    number: int | None = None  # of the attempt in its plan, from 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """What the attempts that share rows come to, up to one of them."""

    count: int  # different ones, this one included
    # that all they granted holds: 1 - the sum of their deltas, a plan's delta in whole; at least 0
    confidence: float
    spend: str | None = None  # the plan of the last one
    number: int | None = None  # of the last one in its plan

    @property
    def words(self) -> str:
        """A sentence on what remains. Empty where a single attempt says all."""
        if self.count == 1 and self.spend is None:
            return ""
        sure = f"{percent(self.confidence)} confidence" if self.confidence > 0 else "no confidence"
        made = f"{self.count} attempts on these rows"
        if self.spend is not None and self.number is not None:
            kind = "release" if self.spend == RELEASES else "attempt"
            of = "" if self.spend == RELEASES else f" of {self.spend.removeprefix('1/')} planned"
            in_all = f", {self.count} in all" if self.count > self.number else ""
            made = f"{kind} {self.number}{of} on these rows{in_all}"
        return f"{made}: {sure} that all they grant holds"


def percent(share: float) -> str:
    """A share for people, to a hundredth of a percent: "95%", "99.17%"."""
    return f"{round(100 * share, 2):g}%"


def together(attempts: Sequence[Attempt], last: Attempt) -> Attempts:
    """What these attempts and the last one come to, by the union bound over different ones.

    Of a plan all of delta counts at once: its attempts are going to be made.
    """
    different = {a.key: a for a in (*attempts, last)}
    # a plan counts once, by the key of its first attempt; an attempt without one is its own
    spenders = {a.plan or a.key: a for a in different.values()}
    # in exact decimals: six times 0.05 leave 0.7
    spent = sum(1 - Fraction(str(a.confidence)) for a in spenders.values())
    return Attempts(
        count=len(different),
        confidence=max(0.0, float(1 - spent)),
        spend=last.spend,
        number=last.number,
    )
