"""The policy: everything that decides between answering and refusing, and what was promised of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from demur.core.calibrator import IDENTITY, Calibrator, check_fits
from demur.core.errors import PolicyError
from demur.core.guarantee import Promise
from demur.core.rates import Rate
from demur.core.taxonomy import Taxonomy

Rule = Literal["natural", "heaviest", "released", "sum", "any", "bias"]
Override = Literal["suppress", "force"]

RULES: tuple[Rule, ...] = ("natural", "heaviest", "released", "sum", "any", "bias")
NEVER = math.inf  # a threshold above every probability
ALWAYS = 0.0  # a threshold at or below every probability
GENERATE = "generate"  # on_refuse: let the model write its own refusal
LOGPROB_CONVENTION = "raw-logprobs/full-vocabulary/temperature-1/float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """The model that a policy's numbers were made with. Serving refuses to start on another."""

    model_digest: str  # of the weight files
    tokenizer_digest: str
    template_digest: str  # of the chat template
    tokens: tuple[str, ...]  # control tokens, respond first
    token_ids: tuple[int, ...]
    dtype: str  # of the weights while scoring
    logprobs: str = LOGPROB_CONVENTION

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Names of the fields in which two fingerprints differ."""
        return tuple(f for f in self.__dataclass_fields__ if getattr(self, f) != getattr(other, f))


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One point of a category's operating curve, on the calibration rows, all other thresholds as in the policy."""

    threshold: float
    refusal_rate: Rate  # emitted c, among all rows
    false_refusal: Rate  # emitted c, among rows to be answered
    missed_refusal: Rate  # not emitted c, among rows to be refused with c


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryPolicy:
    """What the policy does about one category."""

    threshold: float = NEVER  # probability in [0, 1]; inf = never refuse for this category
    active: bool = True  # whether the category takes part in the rule (the set S)
    bias: float = 0.0  # rule "bias" only: natural-log odds added to the category's score
    override: Override | None = None  # suppress: its token is never emitted. force: it is emitted for every prompt
    on_refuse: str = GENERATE  # "generate", or the refusal text to send instead
    locked: bool = False  # callers cannot override the threshold
    limits: tuple[float, float] | None = None  # callers may override within [lowest, highest]
    curve: tuple[CurvePoint, ...] = ()  # strict to lenient

    @property
    def may_emit(self) -> bool:
        """Whether the rule may refuse with this category."""
        return self.active and self.override != "suppress"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Taxonomy + calibrator + rule + thresholds + what to do on refusal + the promises.

    Raises PolicyError when the parts contradict each other.
    """

    name: str
    taxonomy: Taxonomy
    rule: Rule
    categories: tuple[CategoryPolicy, ...]  # in the order of taxonomy.categories
    calibrator: Calibrator = IDENTITY
    fingerprint: Fingerprint | None = None  # None only for policies that never meet a model
    promises: tuple[Promise, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise PolicyError(f"unknown rule {self.rule!r}", f"known: {', '.join(RULES)}")
        if len(self.categories) != len(self.taxonomy.categories):
            raise PolicyError(
                f"{len(self.categories)} category policies for {len(self.taxonomy.categories)} categories",
                "give one per category of the taxonomy, in its order",
            )
        for name, category in zip(self.taxonomy.names, self.categories, strict=True):
            _check_category(name, category)
        check_fits(self.calibrator, self.taxonomy.tokens)
        forced = [n for n, c in zip(self.taxonomy.names, self.categories, strict=True) if c.override == "force"]
        if len(forced) > 1:
            raise PolicyError(f"categories {forced} are all forced", "force at most one: one token is emitted")
        if self.rule == "sum" and len({c.threshold for c in self.categories if c.active}) > 1:
            raise PolicyError("rule 'sum' has one threshold for all active categories", "make them equal")
        if self.fingerprint is not None and self.fingerprint.tokens != self.taxonomy.tokens:
            raise PolicyError(
                f"fingerprint tokens {self.fingerprint.tokens} are not the taxonomy's {self.taxonomy.tokens}",
                "the policy was made for another taxonomy: calibrate again",
            )

    def category(self, name: str) -> CategoryPolicy:
        """The policy of one category, by name."""
        return self.categories[self.taxonomy.index(name)]

    def require_model(self, model: Fingerprint) -> None:
        """Raise PolicyError, naming what differs, unless the policy's numbers were made with this very model."""
        if self.fingerprint is None:
            raise PolicyError(f"policy {self.name!r} names no model", "calibrate on this model's scores")
        if differing := self.fingerprint.differences(model):
            raise PolicyError(
                f"policy {self.name!r} was made for another model: {', '.join(differing)} differ",
                "calibrate again on this model's scores, or use the model that the policy was made for",
            )

    def with_thresholds(self, thresholds: dict[str, float]) -> Policy:
        """The same policy with other thresholds for the named categories."""
        changed = list(self.categories)
        for name, threshold in thresholds.items():
            at = self.taxonomy.index(name)
            changed[at] = replace(changed[at], threshold=threshold)
        return replace(self, categories=tuple(changed))

    def threshold_at_rate(self, category: str, rate: float) -> float:
        """The most lenient stored threshold of a category that refuses at most `rate` of all calibration rows.

        Raises PolicyError if the policy carries no curve for it.
        """
        curve = self.category(category).curve
        if not curve:
            raise PolicyError(f"policy {self.name!r} has no operating curve for {category!r}", "calibrate again")
        fitting = [p.threshold for p in curve if p.refusal_rate.value <= rate]
        return min(fitting, default=NEVER)


def natural(taxonomy: Taxonomy, fingerprint: Fingerprint | None = None) -> Policy:
    """The policy that follows the model's most probable control token."""
    categories = tuple(CategoryPolicy() for _ in taxonomy.categories)
    return Policy(name="natural", taxonomy=taxonomy, rule="natural", categories=categories, fingerprint=fingerprint)


def _check_category(name: str, category: CategoryPolicy) -> None:
    t = category.threshold
    if math.isnan(t) or t < 0:
        raise PolicyError(f"threshold {t} of category {name!r} is not in [0, inf]", "0 always refuses, inf never")
    if not math.isfinite(category.bias):
        raise PolicyError(f"bias {category.bias} of category {name!r} is not finite", "to silence it, suppress it")
    if category.limits is not None:
        low, high = category.limits
        if not 0 <= low <= high:
            raise PolicyError(f"limits [{low}, {high}] of category {name!r} are not ordered", "lowest first")
        if not low <= t <= high:
            raise PolicyError(f"threshold {t} of category {name!r} is outside its limits [{low}, {high}]", "move one")
