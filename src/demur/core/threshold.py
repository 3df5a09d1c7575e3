"""Thresholds: a probability from which on a category is refused, its distance in log-odds, and the
band below it.

1. A request that meets a category's refusal threshold is refused, as without a band.
2. Else, where it meets the deferral threshold, it is deferred: neither answered nor refused. A
   fixed text is sent as the answer, which asks back or says that a person will answer.
3. Else it is answered.

A deferral never takes the place of a refusal: locks, doubt and forced categories refuse as ever.
"""

from __future__ import annotations

import math
import re
from typing import Literal, Protocol

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import PolicyError

NEVER = math.inf  # a threshold above every probability
ALWAYS = 0.0  # a threshold at or below every probability

# ask: the text asks the user back. escalate: it says that somebody else answers, and the caller
# routes the request on
OnDefer = Literal["ask", "escalate"]
# what a policy makes of a request
Outcome = Literal["answer", "refuse", "defer"]

LANGUAGE_TAG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")  # RFC 4647 section 2.1, without "*"
DEFERRING_RULES = ("heaviest", "sum", "any")  # rules that compare every category's own threshold


def log_odds(logq: Doubles) -> Doubles:
    """log(q / (1 - q)) from log q, accurate near q = 1; +inf for q >= 1."""
    with np.errstate(divide="ignore"):
        return np.where(logq >= 0.0, np.inf, logq - np.log(-np.expm1(np.minimum(logq, 0.0))))


def margin(logq: Doubles, log_threshold: Doubles) -> Doubles:
    """Log-odds of q minus log-odds of the threshold, >= 0 exactly when q >= threshold, whatever is
    infinite.
    """
    with np.errstate(invalid="ignore"):
        difference = log_odds(logq) - log_odds(log_threshold)
    difference = np.where(np.isnan(difference), 0.0, difference)
    met = logq >= log_threshold
    return np.where(
        met, np.maximum(difference, 0.0), np.minimum(difference, -np.finfo(np.float64).tiny)
    )


class _Category(Protocol):
    """The numbers of a CategoryPolicy, and what it does from its deferral threshold on."""

    @property
    def threshold(self) -> float: ...
    @property
    def bias(self) -> float: ...
    @property
    def limits(self) -> tuple[float, float] | None: ...
    @property
    def defer_threshold(self) -> float | None: ...
    @property
    def on_defer(self) -> OnDefer | None: ...
    @property
    def defer_text(self) -> str: ...
    @property
    def own_text(self) -> str | None: ...
    @property
    def translations(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def defer_translations(self) -> tuple[tuple[str, str], ...]: ...


def check_thresholds(name: str, category: _Category, rule: str) -> None:
    """Raise PolicyError on a threshold, bias, limits or a band that mean nothing or contradict each
    other.
    """
    _check_deferral(name, category, rule)
    t = category.threshold
    if math.isnan(t) or t < 0:
        raise PolicyError(
            f"threshold {t} of category {name!r} is not in [0, inf]", "0 always refuses, inf never"
        )
    if not math.isfinite(category.bias):
        raise PolicyError(
            f"bias {category.bias} of category {name!r} is not finite", "to silence it, suppress it"
        )
    if category.limits is not None:
        low, high = category.limits
        if not 0 <= low <= high:
            raise PolicyError(
                f"limits [{low}, {high}] of category {name!r} are not ordered", "lowest first"
            )
        if not low <= t <= high:
            raise PolicyError(
                f"threshold {t} of category {name!r} is outside its limits [{low}, {high}]",
                "move one",
            )


def _check_deferral(name: str, category: _Category, rule: str) -> None:
    """Raise PolicyError on a deferral without its threshold, action or text, above the refusal
    threshold, or under a rule that has no band.
    """
    from_, threshold = category.defer_threshold, category.threshold
    if from_ is None and category.on_defer is None and not category.defer_text:
        return
    if from_ is None or category.on_defer is None:
        missing = "on_defer" if category.on_defer is None else "defer_threshold"
        raise PolicyError(
            f"category {name!r} defers by half: it has no {missing}",
            "defer_threshold, on_defer and defer_text go together",
        )
    if category.on_defer not in ("ask", "escalate"):
        raise PolicyError(
            f"category {name!r}: unknown on_defer {category.on_defer!r}", "known: ask, escalate"
        )
    if not category.defer_text.strip():
        raise PolicyError(
            f"category {name!r} defers and has no defer_text, so nothing could be sent",
            "such as 'Could you say more about what you need this for?'",
        )
    if rule not in DEFERRING_RULES:
        raise PolicyError(
            f"category {name!r} defers under rule {rule!r}, which has no band below its threshold",
            f"rules that have one: {', '.join(DEFERRING_RULES)}",
        )
    if math.isnan(from_) or from_ < 0:
        raise PolicyError(
            f"defer_threshold {from_} of category {name!r} is not in [0, inf]",
            "at most the category's threshold; equal to it nothing is deferred",
        )
    if from_ > threshold:
        raise PolicyError(
            f"defer_threshold {from_:.4g} of category {name!r} is above its refusal threshold "
            f"{threshold:.4g}: what is refused cannot be deferred",
            "set it to at most the threshold",
        )


def check_translations(name: str, category: _Category) -> None:
    """Raise PolicyError on translations without the text that they translate, in no language or
    one twice; and on an empty one of a deferral.
    """
    for texts, own, key in (
        (category.translations, category.own_text, "on_refuse"),
        (category.defer_translations, category.defer_text or None, "defer_text"),
    ):
        tags = [tag.lower() for tag, _ in texts]
        for tag in tags:
            if not LANGUAGE_TAG.fullmatch(tag) or tags.count(tag) > 1:
                raise PolicyError(
                    f"language {tag!r} of category {name!r} is no tag or repeated",
                    "write 'de' or 'pt-BR'",
                )
        if tags and own is None:
            raise PolicyError(
                f"category {name!r} has translations of a text that it does not have",
                f"put the text for all other languages into {key}",
            )
    if empty := [tag for tag, text in category.defer_translations if not text.strip()]:
        raise PolicyError(
            f"category {name!r} defers with an empty text in language {empty[0]!r}",
            "write it, or leave the language out: defer_text is sent then",
        )
