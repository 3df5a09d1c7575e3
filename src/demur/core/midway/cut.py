"""Where sentences of a text end: a stopped answer is cut behind its last whole one, and training
turns back behind one (demur.core.training.turn_back).

1. A sentence ends at a terminator, the quotes and brackets that close behind it included, where
   white space follows. Full stops of scripts without spaces need none.
2. A full stop ends no sentence inside a number, a name or an abbreviation, at the number of a list
   item, or where the next word begins with a small letter.
3. A line ends a sentence, too: headings, items of lists and verses have no full stop.
4. Within a block of code only lines end; text between two backticks is one word.
5. Thai, Lao and Khmer put a space where others put a full stop.

Positions are indices of characters: `end` of a sentence is the index behind its last character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
# scripts that write words without spaces, or that have a full stop of their own
_FULL_WIDTH = (
    "\u3002\uff01\uff1f\uff61\uff0e"  # Chinese, Japanese
    "\u0964\u0965\u06d4\u061f"  # Indic scripts, Urdu, Arabic
    "\u1362\u1367\u1368\u104b\u17d4\u17d5\u1803\u1809"  # Ethiopic, Burmese, Khmer, Mongolian
    "\u203c\u2047\u2048\u2049"  # doubled marks
)
_CLOSERS = (
    "\"')]}*_~"
    "\u201d\u2019\u00bb\u203a\u300d\u300f\uff09\u3011\u300b\u3009"  # closing quotes and brackets
)
_OPENERS = "\"'([{\u201c\u2018\u00ab\u2039\u201e"
_ENDS = re.compile(
    rf"(?P<full>[{_FULL_WIDTH}]+[{re.escape(_CLOSERS)}]*)"
    rf"|(?P<plain>[.!?…]+[{re.escape(_CLOSERS)}]*)(?=\s|$)"
    r"|(?P<line>(?<=\S)[ \t]*\n)"
    r"|(?P<space>(?<=[\u0e00-\u0eff\u1780-\u17ff])[ ]+(?=[\u0e00-\u0eff\u1780-\u17ff]))"
)
# Words before a full stop that is no end of a sentence, in small letters. Single letters and words
# with a full stop inside ("e.g.", "U.S.") are known by their shape.
_SHORTENED = """
mr mrs ms mx dr prof st mt jr sr rev hon gen col sgt capt lt gov sen rep pres vs cf viz al fig figs
nos vol vols ch sec pp eds approx ca inc ltd corp dept univ assn bros ave blvd rd
jan feb apr jun jul aug sept oct nov dec nr bzw bspw usw ggf evtl vgl inkl zzgl str abb tab hr fr
mme mlle env sig sra srta ud uds p\u00e1g
"""
_WORDS = frozenset(_SHORTENED.split())


def sentence_end(text: str, start: int) -> int:
    """The end of the last whole sentence of an answer's text at or behind `start`; else `start`.

    A block of code that begins behind `start` and does not end is cut off whole.
    """
    fences = [found.start() for found in FENCE.finditer(text)]
    if len(fences) % 2 and fences[-1] >= start:
        text = text[: fences.pop()]
    ends = (end for end in _ends(text, fences) if end >= start)
    return max(ends, default=start)


def sentence_ends(text: str) -> list[int]:
    """The end of each whole sentence of a text that more than white space follows, ascending."""
    fences = [found.start() for found in FENCE.finditer(text)]
    # A full stop before a line break is found twice.
    ends = sorted(set(_ends(text, fences)))
    return [end for end in ends if text[:end].strip() and text[end:].strip()]


def _ends(text: str, fences: Sequence[int]) -> Iterator[int]:
    """Every end of a sentence, a line or a line of code in a text."""
    for found in _ENDS.finditer(text):
        in_code = sum(fence < found.start() for fence in fences) % 2 == 1
        if found.lastgroup == "line" or (not in_code and _is_end(text, found)):
            yield found.start() if found.lastgroup in ("line", "space") else found.end()


def _is_end(text: str, found: re.Match[str]) -> bool:
    """Whether a terminator outside of code ends a sentence."""
    line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
    if line.count("`") % 2:
        return False
    if found.lastgroup != "plain":
        return True
    following = text[found.end() :].lstrip(" ")[:1]
    if following.islower():
        return False
    return found.group().rstrip(_CLOSERS) != "." or _ends_word(line, at_end=not following)


def _ends_word(line: str, *, at_end: bool) -> bool:
    """Whether one full stop behind this line ends a sentence. at_end: nothing follows it yet."""
    word = re.split(rf"[\s{re.escape(_OPENERS)}]", line)[-1]
    number = word.isdigit()
    # "3." begins an item, or goes on as 3.14; "Dr.", "J.", "e.g." go on as well.
    if number and (at_end or not line[: -len(word)].strip(" >*-")):
        return False
    inner = word.strip(_CLOSERS)
    return not (
        inner.lower() in _WORDS
        or (len(inner) == 1 and inner.isalpha() and inner.isascii() and inner != "I")
        or ("." in inner and all(part.isalpha() and len(part) <= 2 for part in inner.split(".")))
    )
