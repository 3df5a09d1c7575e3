"""The tokens of a goal, and errors that point at one of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import NoReturn

from demur.core.errors import GoalError

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?(?:\s*%)?)
    | (?P<word>[A-Za-z_]\w*(?:\.\d+)?)       # a full stop only in f0.5
    | (?P<category>\[[^\]]*\])
    | (?P<symbol><=|.)                       # anything else stands alone, for the parser to refuse
    | (?P<end>$))""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a goal."""

    kind: str  # number, word, category, symbol or end
    text: str
    at: int  # index of its first character


class GoalReader:
    """A cursor over the tokens of one goal. Each method takes one token or raises GoalError at it."""

    def __init__(self, text: str, hint: str) -> None:
        self.text = text
        self._hint = hint
        self._tokens = [
            Token(str(m.lastgroup), m[str(m.lastgroup)], m.start(str(m.lastgroup))) for m in _TOKEN.finditer(text)
        ]

    @property
    def token(self) -> Token:
        """The token under the cursor. The last one is always the end."""
        return self._tokens[0]

    def take(self) -> None:
        """Pass the current token."""
        self._tokens.pop(0)

    def word(self, *literals: str) -> str:
        """Pass exactly one of these words or symbols and return it."""
        if self.token.text not in literals:
            self.fail(" or ".join(map(repr, literals)), known=literals)
        word = self.token.text
        self.take()
        return word

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
        """Pass "[name]" or "[name + name]" if there is one; white space is normalised."""
        if self.token.text == "[":
            self.fail("a category name closed by ']'")
        if self.token.kind != "category":
            return None
        names = [" ".join(part.split()) for part in self.token.text[1:-1].split("+")]
        if not all(names):
            self.fail("a category name between the brackets")
        if len(set(names)) < len(names):
            self.fail("each category once")
        self.take()
        return "+".join(names)

    def end(self, expected: str = "nothing more") -> None:
        """Check that nothing is left."""
        if self.token.kind != "end":
            self.fail(expected)

    def fail(self, expected: str, known: tuple[str, ...] = ()) -> NoReturn:
        """Raise GoalError with a caret under the current token and, if one of `known` is close, a suggestion."""
        shown = re.sub(r"\s", " ", self.text)  # one for one: the caret keeps its column
        close = get_close_matches(self.token.text.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise GoalError(
            f"cannot read the goal {self.text!r}\n    {shown}\n    {' ' * self.token.at}^ expected {expected}",
            f"{hint}{self._hint}",
        )
