"""Reading a regular expression without compiling it: how large it unfolds, and which text it spells.

One pass over the characters with a stack of our own, so that no pattern can exhaust Python's. Nothing is matched here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MOST_NESTED = 16  # groups in groups
_COUNT = re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}")
_GROUP = re.compile(r"\?(:|P?<[A-Za-z_]\w{0,31}>)")  # what a group may begin with: others look around, or set flags
_HEX = re.compile(r"x\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})")
_PROPERTY = re.compile(r"[pP](\{[\w=^]{1,64}\}|[A-Za-z])")
_SPACES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_SETS = "dDwWsS"  # classes such as \d: they spell no text
_EDGES = "bBAzZ"  # places between characters
_LAST_CHARACTER = 0x10FFFF


class BadPattern(ValueError):
    """A pattern that cannot be read, or that no automaton can follow. The message never repeats the pattern."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatternRead:
    """What a pattern amounts to."""

    unfolded: int  # characters and classes once every counted repetition is written out
    text: str  # the characters that it spells, all alternatives one after another


@dataclass(slots=True)
class _Level:
    """One open group."""

    unfolded: int = 0
    last: int = 0  # of the item that a quantifier behind it would repeat
    text: list[str] = field(default_factory=list)

    def add(self, unfolded: int, text: str) -> None:
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
            levels[-1].add(0 if char in "^$|" else 1, "" if char in "^$." else "\n" if char == "|" else char)
            at += 1
    if len(levels) > 1:
        raise BadPattern("a group is not closed")
    return PatternRead(unfolded=levels[0].unfolded, text="".join(levels[0].text))


def _opened(pattern: str, at: int, levels: list[_Level]) -> int:
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
    if len(levels) == 1:
        raise BadPattern("a group is closed that was not opened")
    inner = levels.pop()
    levels[-1].add(inner.unfolded, "".join(inner.text))
    return at + 1


def _class(pattern: str, at: int, level: _Level) -> int:
    """A class such as [Hh]: one item, spelling its first character. What is outside a negated one is not spelled."""
    inside = _Level()
    negated = pattern[at + 1 : at + 2] == "^"
    at += 2 if negated else 1
    first = at
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        if pattern[at] == "\\":
            at = _escape(pattern, at, inside)
        else:
            inside.add(1, pattern[at])
            at += 1
    if at >= len(pattern):
        raise BadPattern("a class of characters is not closed")
    level.add(1, "" if negated else "".join(inside.text)[:1])
    return at + 1


def _escape(pattern: str, at: int, level: _Level) -> int:
    char = pattern[at + 1 : at + 2]
    if found := _HEX.match(pattern, at + 1):
        code = int(next(filter(None, found.groups())), 16)
        if code > _LAST_CHARACTER:
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
    times = 1
    if pattern[at] == "{":
        found = _COUNT.match(pattern, at)
        if found is None:  # a brace that stands for itself
            level.add(1, "{")
            return at + 1
        low, bounded, high = found.groups()
        times = max(1, int(high) if high else int(low) + (1 if bounded else 0))
        at = found.end()
    else:
        at += 1
    level.unfolded += level.last * (times - 1)
    level.last *= times
    return at + (pattern[at : at + 1] == "?")  # lazy: the same language
