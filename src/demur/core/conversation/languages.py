"""Texts of the operator's own, for refusals in the caller's language and for deferrals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from demur.core.decision import Decision
from demur.core.policy import CategoryPolicy, Policy
from demur.core.threshold import LANGUAGE_TAG

QUALITY = re.compile(r"[qQ]\s*=\s*(0(\.\d{0,3})?|1(\.0{0,3})?)")  # RFC 9110 section 12.4.2


def refusal_text(category: CategoryPolicy, languages: Sequence[str] = ()) -> str | None:
    """The text to refuse with, in the first of the caller's languages that has one; None: the model
    writes its own.

    languages: ranges such as "de-AT", most wanted first (see preferred_languages). Lookup as in RFC
    4647 section 3.4: "de-AT" falls back to "de", then the next language is tried; if none fits, the
    category's default text it is.
    """
    if category.own_text is None:
        return None
    return _translated(category.own_text, category.translations, languages)


def operators_text(policy: Policy, decision: Decision, languages: Sequence[str] = ()) -> str | None:
    """The operator's text that is sent for a decision, in the first of the caller's languages that
    has one (see refusal_text); None: the model writes.
    """
    if decision.category is None:
        return None
    category = policy.category(decision.category)
    if decision.outcome == "defer":
        return _translated(category.defer_text, category.defer_translations, languages)
    return refusal_text(category, languages)


def _translated(
    text: str, translations: Sequence[tuple[str, str]], languages: Sequence[str]
) -> str:
    """The text in the first of these languages that it is translated to, else as it is."""
    texts = {tag.lower(): own for tag, own in translations}
    for language in languages:
        # "de-latn-at", then "de-latn", then "de"
        subtags = language.lower().split("-")
        for length in range(len(subtags), 0, -1):
            if (tag := "-".join(subtags[:length])) in texts:
                return texts[tag]
    return text


def preferred_languages(header: str) -> tuple[str, ...]:
    """The language ranges of an Accept-Language header (RFC 9110 section 12.5.4), most wanted
    first.

    Leaves out "*", what has q=0 and what cannot be read: no such header makes a request fail.
    """
    wanted = []
    for part in header.split(","):
        tag, _, parameter = (piece.strip() for piece in part.partition(";"))
        quality = QUALITY.fullmatch(parameter) if parameter else QUALITY.fullmatch("q=1")
        if LANGUAGE_TAG.fullmatch(tag) and quality and float(quality[1]) > 0:
            wanted.append((float(quality[1]), tag))
    # sorted() keeps the order of equals
    return tuple(tag for _, tag in sorted(wanted, key=lambda pair: -pair[0]))
