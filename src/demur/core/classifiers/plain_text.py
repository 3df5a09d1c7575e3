"""Normalised text for phrase tables and text classifiers."""

from __future__ import annotations

import re
import unicodedata

FULL_FORMS = (
    ("can't", "can not"),
    ("cannot", "can not"),
    ("won't", "will not"),
    ("n't", " not"),
    ("'m ", " am "),
    ("'ve ", " have "),
    ("'ll ", " will "),
    ("'d ", " would "),
    ("'re ", " are "),
    ("'s ", " is "),
    (" i cant ", " i can not "),  # as people type it
    (" i wont ", " i will not "),
    (" i dont ", " i do not "),
    (" im ", " i am "),
)
_STRAIGHT = str.maketrans(
    "\u2018\u2019\u201b\u02bc\u02b9\u2032\u00b4\u201c\u201d\u201f\u2033\u2013\u2014\u2011",
    "'''''''\"\"\"\"---",
)
# Characters that nobody sees: zero-width ones, marks of direction, soft hyphens.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_STROKE = re.compile(r"(?<=[A-Za-z])[`\u00b4](?=[A-Za-z])")  # typed for an apostrophe
_MARKDOWN = "*_`#>~"
BRACKETED = re.compile(r"\[[^\]\n]{1,60}\]\s?")


def normalise(text: str) -> str:
    """Normalise a text: lower case, full forms, straight quotes, NFKC, no markdown or bracketed
    token.

    Nothing invisible is left. It begins with a space and holds no line break, so that every word
    follows a space.
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", _STROKE.sub("'", text))
        text = unicodedata.normalize("NFKC", text.translate(_STRAIGHT)).translate(_STRAIGHT)
    elif "`" in text:
        text = _STROKE.sub("'", text)
    for mark in _MARKDOWN:
        text = text.replace(mark, "")
    if "[" in text:
        text = BRACKETED.sub("", text)
    text = " " + text.lower().replace("\n", " ")
    # most texts hold no short form: fourteen replacements are saved on them
    if "'" in text or "cannot" in text or " im " in text or "nt " in text:
        for short, full in FULL_FORMS:
            text = text.replace(short, full)
    return text
