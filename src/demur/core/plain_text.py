"""Text as phrase tables and text classifiers read it."""

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
)
_STRAIGHT = str.maketrans("\u2018\u2019\u02bc\u201c\u201d\u2013\u2014", "'''\"\"--")
_MARKDOWN = "*_`#>~"
BRACKETED = re.compile(r"\[[^\]\n]{1,60}\]\s?")


def normalise(text: str) -> str:
    """Text in one form: lower case, full forms, straight quotes, NFKC, no markdown or bracketed token.

    It begins with a space and holds no line break, so that every word follows a space.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
    for mark in _MARKDOWN:
        text = text.replace(mark, "")
    if "[" in text:
        text = BRACKETED.sub("", text)
    text = " " + text.lower().replace("\n", " ")
    if "'" in text or "cannot" in text:
        for short, full in FULL_FORMS:
            text = text.replace(short, full)
    return text
