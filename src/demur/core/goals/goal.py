"""The abstract goal: what every kind of goal has to say of itself.

Kinds that promise nothing: demur.core.goals.kinds. Kinds that bound a rate:
demur.core.goals.promised.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from demur.core.goals.counts import Counts
from demur.core.rates import Rate

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


def quoted(name: str) -> str:
    """A name as goals write it: in double quotes where it holds a character that means something
    there.
    """
    return f'"{name}"' if _SPECIAL.search(name) else name
