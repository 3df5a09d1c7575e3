"""Unwrapping an answer: thoughts before it, JSON, code fences, tags, labels and quotes are taken
off.

Judges by phrases read the unwrapped text: in {"refusal": "I can't help with that."} the words stand
within quotation marks, which elsewhere make them somebody else's. A text that is not wrapped is
left exactly as it is.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

from demur.core.conversation.thoughts import answer_of

_MOST_LAYERS = 6
_MOST_CHARS = 20_000  # of JSON that is parsed: a longer one is data, not an answer in a wrapper
_FENCED = re.compile(
    r"\A```(?:json|text|txt|markdown|md|plaintext|xml|html)?[ \t]*\n(.*?)\n?```\Z", re.S | re.I
)
_TAGGED = re.compile(r"\A<([a-z][\w-]{0,15})(?:\s[^<>]*)?>(.*)</\1>\Z", re.S | re.I)
_LABELLED = re.compile(
    r"\A[\s*_#>-]*(?:final |my |the "
    r")?(?:answer|response|reply|assistant|output|result|refusal|ai|bot|model|chatbot)"
    r"[*_]*[ \t]*[:\uff1a][*_\s]*(?=\S)",
    re.I,
)
_QUOTES = (('"', '"'), ("\u201c", "\u201d"), ("\u00ab", "\u00bb"), ("'", "'"))
_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-f]{1,5}|\w{2,8});", re.I)
_REFUSAL_KEYS = ("refusal", "refused", "refuse", "declined", "decline", "is_refusal")
_TEXT_KEYS = (
    *(
        "answer",
        "final_answer",
        "content",
        "response",
        "reply",
        "text",
        "message",
        "output",
        "result",
        "completion",
    ),
    *("choices", "error", "detail", "details", "explanation", "reason"),
)
_NOTHING = ("", "no", "none", "false", "null", "n/a", "0")


def unwrap_answer(answer: str) -> str:
    """Unwrap an answer, layer by layer; the answer itself where it has no wrapping."""
    text = answer_of(answer)
    for _ in range(_MOST_LAYERS):
        inner = _unwrapped(text.strip())
        if inner is None:
            return text
        text = inner
    return text


def _unwrapped(text: str) -> str | None:
    """Take one layer off; None where there is none."""
    if fenced := _FENCED.match(text):
        return fenced[1] if "```" not in fenced[1] else None
    if (
        text[:1] in ("{", "[", '"')
        and len(text) <= _MOST_CHARS
        and (words := _of_json(text)) is not None
    ):
        return words
    if tagged := _TAGGED.match(text):
        return tagged[2]
    for opening, closing in _QUOTES:
        # quotes around the whole only: quotes inside mean several quoted parts
        inside = text[1:-1]
        if (
            len(text) > 2
            and text[0] == opening
            and text[-1] == closing
            and not {opening, closing} & set(inside)
        ):
            return inside
    if labelled := _LABELLED.match(text):
        return text[labelled.end() :]
    return html.unescape(text) if _ENTITY.search(text[:_MOST_CHARS]) else None


def _of_json(text: str) -> str | None:
    """The text of a JSON answer; None if it is not JSON, or data without a text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _words(value, 0)


def _words(value: Any, depth: int) -> str | None:
    """The text of a JSON value: itself, or that of the one member that holds the answer; None if it
    is data.
    """
    if isinstance(value, str) or depth > _MOST_LAYERS:
        return value if isinstance(value, str) else None
    if isinstance(value, list):
        return _words(value[0], depth + 1) if len(value) == 1 else None
    if not isinstance(value, dict):
        return None
    found = {str(k).strip().lower(): v for k, v in value.items()}
    # a refusal field goes before a text field: {"refusal": "...", "content": null} declines
    members = [words for key in _REFUSAL_KEYS if (words := _refusal(found.get(key), depth))]
    members += [
        words for key in _TEXT_KEYS if found.get(key) and (words := _words(found[key], depth + 1))
    ]
    if not members and len(found) == 1:
        return _words(next(iter(found.values())), depth + 1)
    return members[0] if members else None


def _refusal(value: Any, depth: int) -> str | None:
    """The text of a member named after refusing: that it refuses, unless it is false, null or
    "none".
    """
    if value is True:
        return "I refuse."
    if isinstance(value, str):
        return None if value.strip().lower() in _NOTHING else f"I refuse. {value}"
    return _words(value, depth + 1) if isinstance(value, dict) else None
