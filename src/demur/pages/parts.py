"""Records of a page's tables, figures and cards; page.py renders them as HTML and Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

# {"data": [...], "layout": {...}} as plotly.js takes it; colours are names of CSS variables
Spec = dict[str, Any]


class WithInterval(Protocol):
    """A figure with its 95 % interval; None where it is not defined. A rate has
    `hits` and `of` as well, which templates show.
    """

    @property
    def value(self) -> float | None:
        """The figure."""
        ...

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        ...

    @property
    def high(self) -> float | None:
        """Upper end."""
        ...

    @property
    def words(self) -> str:
        """The figure and its interval as text."""
        ...


class RateWithInterval(WithInterval, Protocol):
    """A rate with the number of its rows."""

    @property
    def of(self) -> int:
        """The number of rows that the rate is a share of."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure other than a rate, such as F1 or AUROC, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """The figure and its interval as text."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


Cell = str | WithInterval


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a header. A row of one cell is a heading over the rows that follow."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    text_columns: int = 1  # leading columns that hold words; the others hold numbers
    folded: bool = False  # shown as its title until somebody opens it
    kind: str = "table"


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One plot of a figure."""

    label: str
    spec: Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Plots side by side under one caption, and their numbers for those who read text."""

    title: str
    caption: str  # one sentence: how to read it
    panels: tuple[Panel, ...]
    numbers: Table
    kind: str = "figure"


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One prompt with facts about its decision, and its answer. All text is untrusted."""

    prompt: str
    facts: tuple[tuple[str, str], ...]
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cards:
    """A set of prompts to read, under one caption."""

    title: str
    caption: str
    cards: tuple[Card, ...]
    kind: str = "cards"


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Commands to type."""

    title: str
    caption: str
    lines: tuple[str, ...]
    kind: str = "code"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slider:
    """A threshold that a reader may move. Position 0: never; one further, one more row is refused
    or several tied.
    """

    column: int  # of the category among the choices
    start: int  # position that decides as the policy does
    threshold: str  # the policy's own, in words
    # at positions 1, 2, ..: strict to lenient, between the rows' probabilities
    thresholds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplorerRow:
    """A prompt that the page decides again whenever a slider moves: refused with `column` where the
    slider's position is at least `rank` (and `rank` is not 0), else decided as `below`.
    """

    prompt: str  # untrusted text
    kind: str
    label: int  # column that ought to be chosen; 0 = answer
    # column chosen while the row's slider stands below its rank; wherever it stands where rank is 0
    below: int
    column: int  # category whose slider decides
    # position of that slider from which on the row is refused with it; 0: no slider decides
    rank: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Explorer:
    """Sliders for thresholds, live rates, and a search over the prompts. Rows: those that were
    evaluated.
    """

    title: str
    caption: str
    choices: tuple[str, ...]  # respond, then the categories
    sliders: tuple[Slider, ...]  # none where the rule compares no threshold of one category
    rows: tuple[ExplorerRow, ...]
    command: str  # what to type to try the thresholds on a prompt of one's own
    kind: str = "explorer"


Part = Table | Figure | Cards | Code | Explorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A chapter of the page."""

    key: str  # anchor
    title: str
    parts: tuple[Part, ...]
    text: tuple[str, ...] = ()  # paragraphs before the parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A whole page, as page.py renders it."""

    made_by: str  # the command, above the title
    title: str  # as heading and in the browser's tab
    headline: str  # the result in one sentence or two
    sections: tuple[Section, ...]
