"""Goals: what a caller wants of a policy, in one line of text.

natural                          the model's most probable token
f1 max / f0.5 max                the best F-beta for "should be refused"
youden max                       the best true-positive minus false-positive rate
refusal_rate = 0.10              refuse this share of traffic, all categories together
refusal_rate[humanizing] = 0.10  the same for one category
cost: false=1 missed=5           the least expected cost, per error
false_refusal <= 0.05            a promise about false refusals, with a confidence
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from demur.core.errors import GoalError

GoalKind = Literal["natural", "fbeta", "youden", "refusal_rate", "cost", "false_refusal"]

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE](-?\d+))?(\s*%)?"
_FORMS: tuple[tuple[GoalKind, str], ...] = (
    ("natural", r"natural"),
    ("fbeta", r"f(?P<beta>\d+(?:\.\d+)?)\s+max"),
    ("youden", r"youden\s+max"),
    ("refusal_rate", rf"refusal_rate(?:\[(?P<category>[^\]]+)\])?\s*=\s*(?P<level>{_NUMBER})"),
    ("cost", rf"cost:\s*false\s*=\s*(?P<false>{_NUMBER})\s+missed\s*=\s*(?P<missed>{_NUMBER})"),
    ("false_refusal", rf"false_refusal\s*<=\s*(?P<level>{_NUMBER})"),
)
_WORDS = ("natural", "f1 max", "youden max", "refusal_rate", "cost:", "false_refusal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """One goal. Only the fields of its kind are set."""

    kind: GoalKind
    text: str  # as the caller wrote it
    level: float | None = None  # refusal_rate, false_refusal: a share in [0, 1] or (0, 1)
    category: str | None = None  # refusal_rate of one category
    beta: float | None = None  # fbeta
    cost_false: float | None = None  # cost of one false refusal
    cost_missed: float | None = None  # cost of one missed refusal


def parse_goal(text: str) -> Goal:
    """Read one goal. Raises GoalError that shows where the text stops making sense."""
    stripped = " ".join(text.split())
    for kind, form in _FORMS:
        match = re.fullmatch(form, stripped)
        if match:
            return _checked(kind, stripped, match)
    raise GoalError(f"cannot read the goal {text!r}{_where(stripped)}", _suggest(stripped))


def _checked(kind: GoalKind, text: str, match: re.Match[str]) -> Goal:
    fields = match.groupdict()
    level = _number(fields["level"]) if fields.get("level") else None
    if kind == "false_refusal" and not (level is not None and 0.0 < level < 1.0):
        raise GoalError(f"goal {text!r}: a promised rate lies strictly between 0 and 1, got {level}", "try 0.05")
    if kind == "refusal_rate" and not (level is not None and 0.0 <= level <= 1.0):
        raise GoalError(f"goal {text!r}: a refusal rate lies in [0, 1], got {level}", "write 10% or 0.10")
    beta = float(fields["beta"]) if fields.get("beta") else None
    if kind == "fbeta" and not beta:
        raise GoalError(f"goal {text!r}: beta must be above 0", "f1 weighs both errors alike")
    false, missed = (_number(fields[k]) if fields.get(k) else None for k in ("false", "missed"))
    if kind == "cost" and not (false and missed):
        raise GoalError(f"goal {text!r}: both costs must be above 0", "e.g. cost: false=1 missed=5")
    return Goal(
        kind=kind,
        text=text,
        level=level,
        category=fields.get("category"),
        beta=beta,
        cost_false=false,
        cost_missed=missed,
    )


def _number(text: str) -> float:
    return float(text.rstrip("% ")) / 100.0 if text.endswith("%") else float(text)


def _where(text: str) -> str:
    """A caret under the first character at which no form can continue."""
    reach = max((_prefix_length(form, text) for _, form in _FORMS), default=0)
    return f"\n    {text}\n    {' ' * reach}^ here"


def _prefix_length(form: str, text: str) -> int:
    """How many characters of `text` the longest matching prefix of the form's pieces covers."""
    pieces = re.split(r"(?<=\\s[*+])", form)
    best = 0
    for count in range(1, len(pieces) + 1):
        try:
            match = re.match("".join(pieces[:count]), text)
        except re.error:
            continue
        best = max(best, match.end() if match else 0)
    return best


def _suggest(text: str) -> str:
    word = re.split(r"[\s<=\[]", text, maxsplit=1)[0]
    close = get_close_matches(word, _WORDS, n=1, cutoff=0.5)
    forms = 'forms: "natural", "f1 max", "youden max", "refusal_rate[safety] = 0.1", "cost: false=1 missed=5", "false_refusal <= 0.05"'
    return f"did you mean {close[0]!r}? {forms}" if close else forms
