"""The tokens of a goal, and errors that point at one of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import NoReturn

from demur.base.errors import GoalError
from demur.core.rows.facets import FACETS

_NAME = re.compile(r'\s*(?:"(?P<quoted>[^"]*)"|(?P<plain>[^"+,=]*))\s*(?P<after>[+,=]?)')

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?(?:\s*%)?)
    | (?P<word>[A-Za-z_]\w*(?:\.\d+)?)       # a full stop only in f0.5
    | (?P<category>\[(?:"[^"]*"|[^\]"])*\])
    | (?P<symbol><=|>=|.)                    # anything else stands alone, for the parser to refuse
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
    """A cursor over the tokens of one goal. Each method takes one token or raises GoalError at
    it.
    """

    def __init__(self, text: str, hint: str) -> None:
        self.text = text
        self._hint = hint
        self._tokens = [
            Token(str(m.lastgroup), m[str(m.lastgroup)], m.start(str(m.lastgroup)))
            for m in _TOKEN.finditer(text)
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
        parts = self.parts()
        if any(key not in (None, "category") for key, _ in parts):
            self.fail("a category and no other part of the rows: only promises speak of slices")
        names = [name for _, names in parts for name in names]
        if parts:
            self.take()
        return "+".join(names) if names else None

    def parts(self) -> list[tuple[str | None, tuple[str, ...]]]:
        """The parts of "[safety + other, source=mine]" as (key, names), key None where none is
        written.

        Takes nothing: what the parts mean may make the caller fail at this token. A name in double
        quotes may hold any other character. Empty where there is no bracket.
        """
        if self.token.text == "[":
            self.fail("a category name closed by ']'")
        if self.token.kind != "category":
            return []
        found: list[tuple[str | None, tuple[str, ...]]] = []
        key, names, inside, at = None, list[str](), self.token.text[1:-1], 0
        while True:
            match = _NAME.match(inside, at)
            if match is None or (not match["after"] and match.end() < len(inside)):
                self.fail("names with '+' or ',' between them, or in double quotes")
            name, after, at = (
                " ".join((match["quoted"] or match["plain"] or "").split()),
                match["after"],
                match.end(),
            )
            if after == "=":
                if key is not None or names or name not in FACETS:
                    keys = f"{'=, '.join(FACETS[:-1])}= or {FACETS[-1]}="
                    self.fail(f"{keys} before names", known=FACETS, word=name)
                key = name
                continue
            if not name:
                self.fail("a category name between the brackets")
            names.append(name)
            if after != "+":
                found.append((key, tuple(names)))
                key, names = None, []
            if not after:
                break
        self._check_once(found)
        return found

    def _check_once(self, parts: list[tuple[str | None, tuple[str, ...]]]) -> None:
        """Fail where a name or a key occurs twice."""
        if any(len(set(names)) < len(names) for _, names in parts):
            self.fail("each category once")
        keys = [key or "category" for key, _ in parts]
        if twice := [facet for facet in FACETS if keys.count(facet) > 1]:
            self.fail(f"{twice[0]} once; its names are pooled with '+': {twice[0]}=one + other")

    def end(self, expected: str = "nothing more") -> None:
        """Check that nothing is left."""
        if self.token.kind != "end":
            self.fail(expected)

    def fail(
        self,
        expected: str,
        known: tuple[str, ...] = (),
        word: str | None = None,
        at: Token | None = None,
    ) -> NoReturn:
        """Raise GoalError with a caret under the current token and, if one of `known` is close, a
        suggestion.

        word: what should have been one of `known`, where it is a part of the token. at: an earlier
        token instead.
        """
        token = at or self.token
        shown = re.sub(r"\s", " ", self.text)  # one for one: the caret keeps its column
        close = get_close_matches((word or token.text).lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise GoalError(
            f"cannot read the goal {self.text!r}\n    {shown}\n    {' ' * token.at}^ expected "
            f"{expected}",
            f"{hint}{self._hint}",
        )


def lines_of(text: str) -> list[str]:
    """Goals with ";" between them, one by one. A ";" inside double quotes divides nothing."""
    found, inside = [""], False
    for character in text:
        inside ^= character == '"'
        if character == ";" and not inside:
            found.append("")
        else:
            found[-1] += character
    # a quote that is never closed is an error of its goal
    return found if not inside else text.split(";")
