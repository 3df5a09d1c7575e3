"""Goals: what a caller wants of a policy, in one line of text.

natural                          the model's most probable token
f1 max / f0.5 max                the best F-beta for "should be refused"
youden max                       the best true-positive minus false-positive rate
refusal_rate = 0.10              refuse this share of traffic, all categories together
refusal_rate[humanizing] = 10%   the same for one category
cost: false=1 missed=5           the least cost, per error
false_refusal <= 0.05            a promise about false refusals, with a confidence

A new form is a reader function and a line in _FORMS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Literal, NoReturn

from demur.core.errors import GoalError

GoalKind = Literal["natural", "fbeta", "youden", "refusal_rate", "cost", "false_refusal"]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?(?:\s*%)?)
    | (?P<word>[A-Za-z_]\w*(?:\.\d+)?)       # a full stop only in f0.5
    | (?P<category>\[[^\]]*\])
    | (?P<symbol><=|.)                       # anything else stands alone, for the parser to refuse
    | (?P<end>$))""",
    re.VERBOSE | re.DOTALL,
)
_FBETA = re.compile(r"f(\d+(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """One goal. Only the fields of its kind are set."""

    kind: GoalKind
    text: str  # as the caller wrote it, white space runs to one space
    level: float | None = None  # refusal_rate, false_refusal: a share in [0, 1] or (0, 1)
    category: str | None = None  # refusal_rate of one category
    beta: float | None = None  # fbeta
    cost_false: float | None = None  # cost of one false refusal
    cost_missed: float | None = None  # cost of one missed refusal


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, word, category, symbol or end
    text: str
    at: int  # index of its first character


class _Reader:
    """A cursor over the tokens of one goal. Each method takes one token or raises GoalError at it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = [
            _Token(str(m.lastgroup), m[str(m.lastgroup)], m.start(str(m.lastgroup))) for m in _TOKEN.finditer(text)
        ]

    @property
    def token(self) -> _Token:
        """The token under the cursor. The last one is always the end."""
        return self._tokens[0]

    def take(self) -> None:
        """Pass the current token."""
        self._tokens.pop(0)

    def word(self, literal: str) -> None:
        """Pass exactly this word or symbol."""
        if self.token.text != literal:
            self.fail(repr(literal), known=(literal,))
        self.take()

    def number(self, expected: str, fits: Callable[[float], bool]) -> float:
        """Pass a number, "10%" being 0.1, that fits."""
        if self.token.kind != "number":
            self.fail(expected)
        digits = self.token.text.rstrip("% \t\n")
        number = float(Decimal(digits) / 100 if self.token.text.endswith("%") else Decimal(digits))
        if not fits(number):
            self.fail(expected)
        self.take()
        return number

    def category(self) -> str | None:
        """Pass "[name]" if there is one."""
        if self.token.text == "[":
            self.fail("a category name closed by ']'")
        if self.token.kind != "category":
            return None
        name = " ".join(self.token.text[1:-1].split())
        if not name:
            self.fail("a category name between the brackets")
        self.take()
        return name

    def end(self) -> None:
        """Check that nothing is left."""
        if self.token.kind != "end":
            self.fail("nothing more")

    def fail(self, expected: str, known: tuple[str, ...] = ()) -> NoReturn:
        """Raise GoalError with a caret under the current token and, if one of `known` is close, a suggestion."""
        shown = re.sub(r"\s", " ", self.text)  # one for one: the caret keeps its column
        close = get_close_matches(self.token.text.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise GoalError(
            f"cannot read the goal {self.text!r}\n    {shown}\n    {' ' * self.token.at}^ expected {expected}",
            f"{hint}goals read like: {'; '.join(form.example for form in _FORMS)}",
        )


def parse_goal(text: str) -> Goal:
    """Read one goal. Raises GoalError that shows the character at which the text stops making sense."""
    reader = _Reader(text)
    head = "f1" if _FBETA.fullmatch(reader.token.text) else reader.token.text
    form = next((f for f in _FORMS if f.head == head), None)
    if form is None:
        reader.fail("a goal", known=tuple(f.head for f in _FORMS))
    goal = form.read(reader, " ".join(text.split()))
    reader.end()
    return goal


def _read_natural(reader: _Reader, text: str) -> Goal:
    reader.take()
    return Goal(kind="natural", text=text)


def _read_fbeta(reader: _Reader, text: str) -> Goal:
    beta = float(reader.token.text[1:])
    if not 0.0 < beta < math.inf:
        reader.fail("a beta above 0, as in f1")
    reader.take()
    reader.word("max")
    return Goal(kind="fbeta", text=text, beta=beta)


def _read_youden(reader: _Reader, text: str) -> Goal:
    reader.take()
    reader.word("max")
    return Goal(kind="youden", text=text)


def _read_refusal_rate(reader: _Reader, text: str) -> Goal:
    reader.take()
    category = reader.category()
    reader.word("=")
    level = reader.number("a rate from 0 to 1, as in 0.10 or 10%", lambda rate: 0.0 <= rate <= 1.0)
    return Goal(kind="refusal_rate", text=text, level=level, category=category)


def _read_cost(reader: _Reader, text: str) -> Goal:
    reader.take()
    reader.word(":")
    costs = []
    for error in ("false", "missed"):
        reader.word(error)
        reader.word("=")
        costs.append(reader.number("a cost above 0", lambda cost: 0.0 < cost < math.inf))
    return Goal(kind="cost", text=text, cost_false=costs[0], cost_missed=costs[1])


def _read_false_refusal(reader: _Reader, text: str) -> Goal:
    reader.take()
    reader.word("<=")
    level = reader.number("a rate strictly between 0 and 1, as in 0.05 or 5%", lambda rate: 0.0 < rate < 1.0)
    return Goal(kind="false_refusal", text=text, level=level)


@dataclass(frozen=True, slots=True)
class _Form:
    head: str  # the first word
    example: str
    read: Callable[[_Reader, str], Goal]


_FORMS = (
    _Form("natural", "natural", _read_natural),
    _Form("f1", "f1 max", _read_fbeta),
    _Form("youden", "youden max", _read_youden),
    _Form("refusal_rate", "refusal_rate[safety] = 10%", _read_refusal_rate),
    _Form("cost", "cost: false=1 missed=5", _read_cost),
    _Form("false_refusal", "false_refusal <= 0.05", _read_false_refusal),
)
