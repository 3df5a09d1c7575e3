"""Facets: the ways in which rows fall into slices, and the value that each row has.

1. A facet has a name, in Facet, and a rule, in _RULES. Goals, promises, mixes, files of rows and
   labels of live requests all go by these two: a further facet is a line in each.
2. A value comes from the row's own column of that name, or is derived from the row.
3. A row without a value is in the slice NONE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from demur.base.errors import DataError
from demur.core.conversation.written_language import written_language

Facet = Literal["kind", "category", "source", "tenant", "language", "rewrite", "turn"]
# What divides unlabelled traffic into slices: a facet that requests say, a bin of the score, or a
# label (every one, or whether to refuse at all), which no request says.
MixBy = Literal["source", "tenant", "language", "rewrite", "turn", "score", "label", "refusal"]
FACETS: tuple[Facet, ...] = get_args(Facet)
NONE = "none"  # the slice of rows without a value

_GUESSED_SHARE = 0.01  # of the rows, for a value that is only guessed
FIRST, LATER = "first", "later"  # of a conversation: whether the assistant has answered before
TURNS = (FIRST, LATER)


class _Turn(Protocol):
    @property
    def role(self) -> str: ...


class _Row(Protocol):
    """What facets read of a row: see demur.core.example.Example."""

    @property
    def kind(self) -> str: ...
    @property
    def category(self) -> str | None: ...
    @property
    def source(self) -> str: ...
    @property
    def prompt(self) -> Sequence[_Turn]: ...
    @property
    def text(self) -> str: ...
    @property
    def traits(self) -> Sequence[tuple[str, str]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """How a facet gets its values."""

    derived: Callable[[_Row], str | None]  # where no column says it
    told: bool = False  # whether rows may say it in a column of that name
    values: tuple[str, ...] = ()  # all that there are; empty: any text
    # whether the derived value is a guess, which tells nothing unless rows differ in it
    guessed: bool = False


def _turn(row: _Row) -> str:
    return LATER if any(m.role == "assistant" for m in row.prompt) else FIRST


_RULES: Mapping[Facet, _Rule] = {
    "kind": _Rule(derived=lambda row: row.kind, values=("refusal", "contrast", "benign")),
    # a contrast row has the category that it resembles
    "category": _Rule(derived=lambda row: row.category),
    "source": _Rule(derived=lambda row: row.source),
    "tenant": _Rule(derived=lambda _: None, told=True),
    "language": _Rule(derived=lambda row: written_language(row.text), told=True, guessed=True),
    "rewrite": _Rule(derived=lambda _: None, told=True),
    "turn": _Rule(derived=_turn, values=TURNS),
}
# columns of rows that say a facet; `kind`, `category` and `source` are fields of every row
TOLD: tuple[Facet, ...] = tuple(facet for facet, rule in _RULES.items() if rule.told)
# what labels of live requests say beside the label itself, which holds the category
OF_LABELS: tuple[Facet, ...] = tuple(facet for facet in FACETS if facet not in ("kind", "category"))


def value_of(row: _Row, facet: Facet) -> str:
    """The value that a row has of a facet: its own column's, else the derived one, else NONE."""
    return dict(row.traits).get(facet) or _RULES[facet].derived(row) or NONE


def says_something(row_values: Mapping[str, int], facet: Facet, told: int) -> bool:
    """Whether the values of a facet over some rows, with their numbers of rows, are worth a look.

    told: rows that say it in a column. A guess that finds one language in nearly all rows says
    nothing: in few of them it may err.
    """
    least = _GUESSED_SHARE * sum(row_values.values()) if _RULES[facet].guessed and not told else 1
    named = [value for value, rows in row_values.items() if value != NONE and rows >= least]
    return len(named) > 1 if _RULES[facet].guessed and not told else bool(named)


def values_of(facet: Facet) -> tuple[str, ...]:
    """All values that a facet can have; empty where it may have any."""
    return _RULES[facet].values


def told_traits(cell: Callable[[str], str | None]) -> tuple[tuple[str, str], ...]:
    """The facets that a row's own columns say. cell: the text in a column; None without a value."""
    found = ((facet, cell(facet)) for facet in TOLD)
    return tuple((facet, " ".join(value.split())) for facet, value in found if value is not None)


def require_value(facet: Facet, value: str, where: str) -> None:
    """Raise DataError if a facet cannot have this value. where: names the row in the error."""
    known = _RULES[facet].values
    if known and value not in known:
        raise DataError(f"{where}: {facet} {value!r} is unknown", f"known: {', '.join(known)}")
