"""The abstract goal, which every kind of goal fills in, and the promise that is made of one.

Kinds that promise nothing: demur.core.goals.kinds. Kinds that bound a rate:
demur.core.goals.promised.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from demur.core.goals.attempts import Attempts
from demur.core.goals.counts import Counts
from demur.core.rates import ByUnits, Rate, Slice

Status = Literal["certified", "measured", "uncertified", "no longer supported", "not certified"]

_SPECIAL = re.compile(r'[\]\[+,=;"]')  # a name with one of these is written in quotes


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal(ABC):
    """What a caller wants of a policy. Two goals are equal if they want the same, however it was
    written.
    """

    text: str = field(compare=False)  # as the caller wrote it, white space runs to one space
    level: float | None = None  # rates: a share in [0, 1]; None where the goal is no rate
    category: str | None = None  # of one category, or "a+b": these pooled

    name: ClassVar[str] = ""  # its first word
    promised: ClassVar[bool] = False  # whether it bounds a rate, so that it can be certified
    optimum: ClassVar[bool] = False  # whether it asks for the best of something
    of_answerable: ClassVar[bool] = False  # whether only rows to be answered can be its errors
    # whether its rate moves one way as a threshold falls, because its denominator stays as it is
    monotone: ClassVar[bool] = True
    # whether it speaks of answers that a monitor stops, and not of first decisions
    midway: ClassVar[bool] = False

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories it speaks of; empty: all."""
        return tuple(self.category.split("+")) if self.category else ()

    @property
    def measure(self) -> str:
        """What is measured, of whatever categories and rows: "missed_refusal"."""
        return self.name

    @property
    def part(self) -> str:
        """The part of rows or categories that it speaks of, as brackets hold it: "safety". Empty:
        all.
        """
        return "+".join(map(quoted, self.categories))

    @property
    def risk(self) -> str:
        """What it is about, without the level: "missed_refusal[safety]"."""
        return f"{self.measure}[{self.part}]" if self.part else self.measure

    @property
    def bound(self) -> str:
        """Its level for sentences: "at 0.05"; empty where it has none."""
        return "" if self.level is None else f"at {self.level:g}"

    @property
    def subject(self) -> tuple[object, ...]:
        """What it is about, however it was written: goals of one subject set the same twice."""
        return (self.measure, frozenset(self.categories), frozenset(), None)

    @property
    def stated(self) -> Goal:
        """The goal as a promise keeps it: without what matters only until thresholds are chosen."""
        return self

    @abstractmethod
    def figure(self, counts: Counts) -> Rate | float | None:
        """What decisions that were counted make of it; None where these counts cannot tell.

        Raises Undefined where the figure is no rate and has no value.
        """

    def shown(self, figure: float) -> str:
        """A figure that is no rate, for people."""
        return f"{figure:.3f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """A statement about a policy that can be checked later.

    "certified": risk <= level on new requests of the same kind, with the stated confidence over the
    draw of the calibration rows; all certified promises of a policy hold together with that
    confidence. "measured": only what was observed on the calibration rows, no guarantee.
    "uncertified": asked for and not granted; `on_failure` says what the caller had chosen for that
    case. "no longer supported": was certified, but live requests or labels speak against it
    (demur.stats.drift). "not certified": its file says certified, and does not bear that out
    (demur.store.policies.binding); `fault` says why.
    """

    # what is bounded, and where; or of what it is the best. As `stated`: files hold its risk and
    # level
    goal: Goal
    confidence: float | None  # 1 - delta; None unless certified, now or once
    status: Status
    # what the chosen thresholds do on the rows it was tested on; None where it is not a rate
    rate: Rate | None
    data_digest: str  # of the rows and scores it was chosen on
    method: str  # procedure and its source
    on_failure: str = "stop"  # the caller's choice: stop, hard_only, or keep:<name of a policy>
    # None where each request of `rate` is one piece of evidence, and in files of before it was
    # stored
    by_units: ByUnits | None = None
    # the rows of `rate` by slice: what the promise averages over
    mix: tuple[Slice, ...] = ()
    # digest of the ids of the rows of `rate`; None where they are not the run's, or not known
    rows: str | None = None
    # all attempts on its rows, up to its own; None where nobody counted them
    attempts: Attempts | None = None
    digest: str | None = (
        # of what it speaks of: demur.store.policies.binding; None in files that older versions
        # wrote
        None
    )
    fault: str | None = None  # why it is "not certified", found on reading; no file holds it

    @property
    def risk(self) -> str:
        """What it is about: "false_refusal", "refusal_rate[safety]", "f1", ..."""
        return self.goal.risk

    @property
    def level(self) -> float | None:
        """The bound, or the rate to be met; None where the goal was an optimum."""
        return self.goal.level


def quoted(name: str) -> str:
    """A name as goals write it: in double quotes where it holds a character that means something
    there.
    """
    return f'"{name}"' if _SPECIAL.search(name) else name
