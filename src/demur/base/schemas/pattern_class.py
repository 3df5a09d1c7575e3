"""The text that a character class of a regular expression spells: one letter, any letter, or one of
a few.

[Hq][oq][wq] allows many texts, but what a model writes under it is "How". Only letters are looked
at: they make words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CodeRange = tuple[int, int]  # first and last code point
LAST_CHARACTER = 0x10FFFF
DIGITS, SPACES = (ord("0"), ord("9")), ((9, 13), (32, 32))
WORD = (DIGITS, (ord("A"), ord("Z")), (ord("_"), ord("_")), (ord("a"), ord("z")))
EVERYTHING = (0, LAST_CHARACTER)
_SMALL, _CAPITAL = (frozenset(range(ord(a), ord(z) + 1)) for a, z in ("az", "AZ"))
# Sets of ASCII letters that choose none. What two of them have in common is one of them, or
# nothing.
_FREE = (_SMALL, _CAPITAL, _SMALL | _CAPITAL)
_HEX = tuple(frozenset(map(ord, letters)) for letters in ("abcdef", "ABCDEF", "abcdefABCDEF"))
FEW = 64  # other letters: a class with fewer chooses among them
_LOOKED_AT = 1024  # code points of a range, for letters


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRead:
    """text: the letters that it spells. choice: whether it is one of several letters, and nobody
    can tell which.
    """

    text: str
    choice: bool


def read_class(ranges: Sequence[CodeRange], *, negated: bool) -> ClassRead:
    """Read a class from the ranges of its members, in the order of the pattern; negated: of what it
    leaves out.
    """
    held = _complement(ranges) if negated else ranges
    small = frozenset(code for code in _SMALL | _CAPITAL if _holds(held, code))
    others = _other_letters(held)
    if not small and not others:
        digits = [
            max(low, DIGITS[0]) for low, high in held if low <= DIGITS[1] and high >= DIGITS[0]
        ]
        first = digits[:1] or [low for low, _ in held[:1]]
        return ClassRead(text="" if negated else "".join(map(chr, first)), choice=False)
    # one letter, perhaps in both cases: it spells that letter
    if len({chr(code).lower() for code in small}) == 1:
        letter = chr(max(small))  # the small one of two
        return ClassRead(text=letter, choice=others > 0)
    # any letter at all, or hexadecimal digits: no text is spelled
    if small in _FREE or (
        small in _HEX and all(_holds(held, code) for code in range(DIGITS[0], DIGITS[1] + 1))
    ):
        return ClassRead(text="", choice=0 < others < FEW)
    if not small:
        return ClassRead(text="" if others >= FEW else chr(held[0][0]), choice=1 < others < FEW)
    return ClassRead(
        text=next(chr(low) for low, high in held if any(low <= s <= high for s in small)),
        choice=True,
    )


def _other_letters(ranges: Sequence[CodeRange]) -> int:
    """The number of letters beyond ASCII in a class, up to FEW. A range without one at its
    beginning counts as one.
    """
    found = 0
    for first, last in ranges:
        low = max(first, 128)
        if low > last or found >= FEW:
            continue
        end = min(last, low + _LOOKED_AT)
        here = sum(chr(code).isalpha() for code in range(low, end + 1))
        found += here or int(end < last)
    return min(found, FEW)


def _holds(ranges: Sequence[CodeRange], code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _complement(ranges: Sequence[CodeRange]) -> list[CodeRange]:
    found, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return [*found, (start, LAST_CHARACTER)] if start <= LAST_CHARACTER else found
