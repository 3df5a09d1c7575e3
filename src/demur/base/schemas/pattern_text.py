"""Measuring a regular expression without compiling it: the size that it unfolds to, and the text
that it spells.

One pass over the characters with a stack of our own, so that no pattern can exhaust Python's.
Nothing is matched here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from demur.base.schemas.pattern_class import (
    DIGITS,
    EVERYTHING,
    LAST_CHARACTER,
    SPACES,
    WORD,
    CodeRange,
    read_class,
)

MOST_NESTED = 16  # groups in groups
_COUNT = re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}")
# what a group may begin with: others look around, or set flags
_GROUP = re.compile(r"\?(:|P?<[A-Za-z_]\w{0,31}>)")
_HEX = re.compile(
    r"x\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})"
)
_PROPERTY = re.compile(r"[pP](\{[\w=^]{1,64}\}|[A-Za-z])")
_SPACES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_SETS = "dDwWsS"  # classes such as \d: they spell no text
_EDGES = "bBAzZ"  # places between characters
# any other set: everything
_OF_SET: dict[str, tuple[CodeRange, ...]] = {"d": (DIGITS,), "s": SPACES, "w": WORD}


class BadPattern(ValueError):
    """A pattern that cannot be read, or that no automaton can follow. The message never repeats the
    pattern.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class PatternRead:
    """The measures of a pattern: unfolded size, spelled text, and places with a choice."""

    unfolded: int  # characters and classes once every counted repetition is written out
    text: str  # the characters that it spells, all alternatives one after another
    # places with one of several letters, one of several words, or none: it spells many texts
    choices: int


@dataclass(slots=True)
class _Level:
    """An open group: the totals of its items so far."""

    unfolded: int = 0
    last: int = 0  # of the item that a quantifier behind it would repeat
    text: list[str] = field(default_factory=list)
    branches: int = 0  # bars
    choices: int = 0

    def add(self, unfolded: int, text: str, choices: int = 0) -> None:
        self.choices += choices
        self.unfolded += unfolded
        self.last = unfolded
        self.text.append(text)


def read_pattern(pattern: str) -> PatternRead:
    """Size and text of a pattern, in the syntax that JSON schemas use. Raises BadPattern."""
    levels = [_Level()]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "(":
            at = _opened(pattern, at, levels)
        elif char == ")":
            at = _closed(at, levels)
        elif char == "[":
            at = _class(pattern, at, levels[-1])
        elif char == "\\":
            at = _escape(pattern, at, levels[-1])
        elif char in "*+?{":
            at = _quantifier(pattern, at, levels[-1])
        else:
            levels[-1].add(
                0 if char in "^$|" else 1, "" if char in "^$." else "\n" if char == "|" else char
            )
            levels[-1].branches += char == "|"
            at += 1
    if len(levels) > 1:
        raise BadPattern("a group is not closed")
    text = "".join(levels[0].text)
    return PatternRead(
        unfolded=levels[0].unfolded, text=text, choices=levels[0].choices + _chooses(levels[0])
    )


def _opened(pattern: str, at: int, levels: list[_Level]) -> int:
    """Open a group, whose totals are kept apart until it closes."""
    levels.append(_Level())
    if len(levels) > MOST_NESTED + 1:
        raise BadPattern(f"groups are nested more than {MOST_NESTED} deep")
    if pattern[at + 1 : at + 2] != "?":
        return at + 1
    found = _GROUP.match(pattern, at + 1)
    if found is None:
        raise BadPattern("it looks around or sets flags, which cannot be followed while writing")
    return found.end()


def _closed(at: int, levels: list[_Level]) -> int:
    """Close a group: it becomes one item of the group around it."""
    if len(levels) == 1:
        raise BadPattern("a group is closed that was not opened")
    inner = levels.pop()
    levels[-1].add(inner.unfolded, "".join(inner.text), inner.choices + _chooses(inner))
    return at + 1


def _chooses(level: _Level) -> bool:
    """Whether a group lets one of several words be written."""
    return level.branches > 0 and _has_letters("".join(level.text))


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


def _class(pattern: str, at: int, level: _Level) -> int:
    """Read a class such as [Hh], one item. See pattern_class for the text that it spells."""
    negated = pattern[at + 1 : at + 2] == "^"
    at += 2 if negated else 1
    first, ranges, to = at, list[CodeRange](), False
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        found, at = _member(pattern, at)
        if to and len(found) == 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], found[0][1]))
        else:
            ranges += found
        to = pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] != "]" and not to
        at += to
    if at >= len(pattern):
        raise BadPattern("a class of characters is not closed")
    read = read_class(ranges, negated=negated)
    level.add(1, read.text, int(read.choice))
    return at + 1


def _member(pattern: str, at: int) -> tuple[tuple[CodeRange, ...], int]:
    """One character or set within a class, and where the next begins."""
    if pattern[at] != "\\":
        return ((ord(pattern[at]), ord(pattern[at])),), at + 1
    inside = _Level()
    end = _escape(pattern, at, inside)
    if char := "".join(inside.text):
        return ((ord(char), ord(char)),), end
    return _OF_SET.get(pattern[at + 1], (EVERYTHING,)), end


def _escape(pattern: str, at: int, level: _Level) -> int:
    """Read an escape: a character, a property, a set, or an edge between characters."""
    char = pattern[at + 1 : at + 2]
    if found := _HEX.match(pattern, at + 1):
        code = int(next(filter(None, found.groups())), 16)
        if code > LAST_CHARACTER:
            raise BadPattern("it names a character that does not exist")
        level.add(1, chr(code))
        return found.end()
    if found := _PROPERTY.match(pattern, at + 1):
        level.add(1, "")
        return found.end()
    if char in _SPACES:
        level.add(1, _SPACES[char] if char else "")
    elif char and char in _SETS + _EDGES:
        level.add(1 if char in _SETS else 0, "")
    elif not char or char.isalnum():
        raise BadPattern("it refers back, or holds an escape that is not known")
    else:
        level.add(1, char)
    return at + 2


def _quantifier(pattern: str, at: int, level: _Level) -> int:
    """Repeat the last item: the size multiplies, an optional letter becomes a choice."""
    times, spelled = 1, level.text[-1] if level.text else ""
    optional = pattern[at] in "*?"
    if pattern[at] == "{":
        found = _COUNT.match(pattern, at)
        if found is None:  # a brace that stands for itself
            level.add(1, "{")
            return at + 1
        low, bounded, high = found.groups()
        times = max(1, int(high) if high else int(low) + (1 if bounded else 0))
        optional, at = int(low) == 0, found.end()
    else:
        at += 1
    if optional and _has_letters(spelled):
        level.choices += 1
    elif optional:  # what need not be written must not stand between the letters that are
        level.text[-1:] = [""]
    level.unfolded += level.last * (times - 1)
    level.last *= times
    return at + (pattern[at : at + 1] == "?")  # lazy: the same language
