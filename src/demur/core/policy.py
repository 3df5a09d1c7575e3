"""The policy: everything that decides between answering and refusing, and what was promised of
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from demur.base.errors import AccessError, PolicyError, TaxonomyError
from demur.base.html import table_html
from demur.core.calibrator import IDENTITY, Calibrator, check_fits
from demur.core.fingerprint import Fingerprint
from demur.core.goals.goal import Promise
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.core.rates import Rate
from demur.core.taxonomy import Taxonomy
from demur.core.threshold import (
    ALWAYS,
    NEVER,
    OnDefer,
    check_thresholds,
    check_translations,
)

Rule = Literal["natural", "heaviest", "released", "sum", "any", "bias"]
Override = Literal["suppress", "force"]
OnDoubt = Literal["refuse", "error"]

RULES: tuple[Rule, ...] = ("natural", "heaviest", "released", "sum", "any", "bias")
# the others compare no thresholds
THRESHOLD_RULES: tuple[Rule, ...] = ("heaviest", "released", "sum", "any")
GENERATE = "generate"  # on_refuse: let the model write its own refusal
# Above this the model most probably begins its answer with no control token at all. What
# calibration measures is far below; policies written before there was a rule for doubt get this
# one. See docs/decisions/0010.
MOST_LEFTOVER = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One point of a category's operating curve, on the calibration rows, all other thresholds as
    in the policy.
    """

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
    # suppress: its token is never emitted. force: it is emitted for every prompt
    override: Override | None = None
    on_refuse: str = GENERATE  # "generate", or the refusal text to send instead
    # (language tag, that text), beside a text in on_refuse
    translations: tuple[tuple[str, str], ...] = ()
    locked: bool = False  # callers cannot override the threshold
    limits: tuple[float, float] | None = None  # callers may override within [lowest, highest]
    curve: tuple[CurvePoint, ...] = ()  # strict to lenient
    # from here up to the threshold requests are deferred (demur.core.threshold); None: none is
    defer_threshold: float | None = None
    on_defer: OnDefer | None = None
    defer_text: str = ""  # sent as the answer to a deferred request
    defer_translations: tuple[tuple[str, str], ...] = ()  # (language tag, that text)

    @property
    def held_from(self) -> float:
        """The lowest probability that is not answered: refused, or deferred where it defers."""
        return self.threshold if self.defer_threshold is None else self.defer_threshold

    @property
    def may_emit(self) -> bool:
        """Whether the rule may refuse with this category."""
        return self.active and self.override != "suppress"

    @property
    def own_text(self) -> str | None:
        """The refusal text that is sent in place of a written one; None: the model writes its
        own.
        """
        return None if self.on_refuse == GENERATE else self.on_refuse


@dataclass(frozen=True, kw_only=True, slots=True)
class DoubtRule:
    """When a score is no score, and what is done then. Raises PolicyError on a bound outside [0,
    1].
    """

    # probability outside the control tokens; more than this is doubt. 1: never
    most_leftover: float = MOST_LEFTOVER
    # refuse with the heaviest category; or error: the engine raises ScoreDoubt
    then: OnDoubt = "refuse"

    def __post_init__(self) -> None:
        if not 0.0 <= self.most_leftover <= 1.0:
            raise PolicyError(
                f"doubt: most_leftover {self.most_leftover} is not in [0, 1]",
                "calibrate measures it; 0.5 is the default",
            )
        if self.then not in ("refuse", "error"):
            raise PolicyError(f"doubt: unknown {self.then!r}", "known: refuse, error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """Thresholds that a caller may ask for by one name."""

    name: str
    # (category, threshold); the others stay as in the policy
    thresholds: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Taxonomy + calibrator + rule + thresholds + what to do on refusal + the promises.

    It decides at the first answer position, and may carry a monitor for the later ones. Raises
    PolicyError when the parts contradict each other.
    """

    name: str
    taxonomy: Taxonomy
    rule: Rule
    categories: tuple[CategoryPolicy, ...]  # in the order of taxonomy.categories
    calibrator: Calibrator = IDENTITY
    fingerprint: Fingerprint | None = None  # None only for policies that never meet a model
    promises: tuple[Promise, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    doubt: DoubtRule = DoubtRule()
    monitor: Monitor | None = None  # None: nothing stops an answer that was begun

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise PolicyError(f"unknown rule {self.rule!r}", f"known: {', '.join(RULES)}")
        if len(self.categories) != len(self.taxonomy.categories):
            raise PolicyError(
                f"{len(self.categories)} category policies for {len(self.taxonomy.categories)} "
                "categories",
                "give one per category of the taxonomy, in its order",
            )
        for name, category in zip(self.taxonomy.names, self.categories, strict=True):
            check_translations(name, category)
            check_thresholds(name, category, self.rule)
        check_fits(self.calibrator, self.taxonomy.tokens)
        _check_monitor(self)
        forced = [
            n
            for n, c in zip(self.taxonomy.names, self.categories, strict=True)
            if c.override == "force"
        ]
        if len(forced) > 1:
            raise PolicyError(
                f"categories {forced} are all forced", "force at most one: one token is emitted"
            )
        active = [c for c in self.categories if c.active]
        if self.rule == "sum" and len({(c.threshold, c.held_from) for c in active}) > 1:
            raise PolicyError(
                "rule 'sum' has one threshold for all active categories", "make them equal"
            )
        if self.fingerprint is not None and self.fingerprint.tokens != self.taxonomy.tokens:
            raise PolicyError(
                f"fingerprint tokens {self.fingerprint.tokens} are not the taxonomy's "
                f"{self.taxonomy.tokens}",
                "the policy was made for another taxonomy: calibrate again",
            )
        _check_sensitivities(self)

    def __repr__(self) -> str:
        certified = sum(p.status == "certified" and p.fault is None for p in self.promises)
        promised = (
            f"{certified} of {len(self.promises)} promises certified"
            if self.promises
            else "no promises"
        )
        thresholds = ", ".join(f"{name} {words}" for name, words in self._thresholds())
        return f"Policy({self.name!r}, rule {self.rule}: {thresholds}; {promised})"

    def _repr_html_(self) -> str:
        risks = [
            (p.risk if p.level is None else f"{p.risk} <= {p.level:g}", p.fault or p.status)
            for p in self.promises
        ]
        caption = f"policy {self.name}, rule {self.rule}"
        thresholds = table_html(("category", "threshold"), list(self._thresholds()), caption)
        return thresholds + (table_html(("promise", "status"), risks) if self.promises else "")

    def _thresholds(self) -> Iterator[tuple[str, str]]:
        """Each category with its threshold as people read it."""
        for name, c in zip(self.taxonomy.names, self.categories, strict=True):
            number = "never" if c.threshold > 1.0 else f"{c.threshold:.4g}"
            yield (
                name,
                c.override
                or ("inactive" if not c.active else "-" if self.rule == "natural" else number),
            )

    def own_text(self, column: int) -> str | None:
        """The policy's own text after a control token, by score column; None: the model writes (0
        is respond). Below 0: the text of a deferral.
        """
        own = self.categories[abs(column) - 1]
        return None if not column else own.own_text if column > 0 else own.defer_text

    def writes(self, column: int) -> bool:
        """Whether the model writes the text after a control token, by score column."""
        return self.own_text(column) is None

    @property
    def defers(self) -> bool:
        """Whether some category may defer requests, at these thresholds or moved ones."""
        return any(c.on_defer is not None for c in self.categories)

    def category(self, name: str) -> CategoryPolicy:
        """The policy of one category, by name."""
        return self.categories[self.taxonomy.index(name)]

    def require_model(self, model: Fingerprint) -> None:
        """Raise PolicyError, naming what differs, unless the policy's numbers were made with this
        very model.
        """
        if self.fingerprint is None:
            raise PolicyError(
                f"policy {self.name!r} names no model", "calibrate on this model's scores"
            )
        if differing := self.fingerprint.differences(model):
            if differing == ("config_digest",) and self.fingerprint.config_digest is None:
                raise PolicyError(
                    f"policy {self.name!r} was written before policies named the model's "
                    "configuration: nobody can tell whether this model computes with the same",
                    "score and calibrate again on this model",
                )
            if differing == ("logprobs",) and self.fingerprint.front != model.front:
                theirs, ours = (_front_words(f.front) for f in (self.fingerprint, model))
                raise PolicyError(
                    f"policy {self.name!r} decides on scores of {theirs}, and these are of {ours}",
                    "use the scores and the front model that it was made with, or calibrate again",
                )
            raise PolicyError(
                f"policy {self.name!r} was made for another model: {', '.join(differing)} differ",
                "calibrate again on this model's scores, or use the model that the policy was "
                "made for",
            )

    def require_no_monitor(self, who: str) -> None:
        """Raise PolicyError if the policy has a monitor: `who`, an engine, would not act on it."""
        if self.monitor is not None:
            raise PolicyError(
                f"policy {self.name!r} has a monitor, and {who} stops no answer that was begun",
                "serve it with an engine that does (docs/midway.md), or use a policy without one",
            )

    def require_served_monitor(self, written: AnswerSampling, *, taught: bool) -> None:
        """Raise PolicyError unless the monitor, if there is one, may stop a server's answers.

        written: how the server writes where a request says nothing else; the monitor must have been
        calibrated on such answers. taught: whether the model was taught to turn back. Of another
        one the position scores may be noise: then only a certified bound on false stops counts.
        """
        if self.monitor is None:
            return
        if not self.monitor.answers.covers(written):
            raise PolicyError(
                f"policy {self.name!r}: its monitor was calibrated on answers of "
                f"{self.monitor.answers.text}; the server writes answers of {written.text}",
                "set limits.answer_tokens, server.temperature and server.top_p to what it was "
                "calibrated on, or calibrate on answers as they are served",
            )
        if not taught and not self._stops_are_bounded(self.monitor):
            raise PolicyError(
                f"policy {self.name!r} has a monitor, no certified promise about false stops, and "
                "its model was not taught to turn back: its scores in mid-answer may be noise",
                'calibrate with a goal such as "false_stop <= 0.01", or train with '
                "[train.turn_back]",
            )

    def _stops_are_bounded(self, monitor: Monitor) -> bool:
        """Whether certified promises bound the false stops of every category that may stop."""
        goals = [
            p.goal
            for p in self.promises
            if p.goal.name == "false_stop" and p.status == "certified" and p.fault is None
        ]
        bounded = {name for goal in goals for name in goal.categories or self.taxonomy.names}
        pairs = zip(self.taxonomy.names, monitor.thresholds, strict=True)
        return all(name in bounded for name, threshold in pairs if threshold != NEVER)

    def passing(self) -> Policy:
        """The same policy for a request that was decided already: the first position refuses
        nothing, and the monitor stops as before.
        """
        passing = tuple(replace(c, override="suppress") for c in self.categories)
        return replace(self, categories=passing)

    def require_no_deferral(self, who: str) -> None:
        """Raise PolicyError if some category defers: `who` can only answer or refuse."""
        if self.defers:
            raise PolicyError(
                f"policy {self.name!r} defers requests, and {who} only answers or refuses",
                "serve it with `demur serve` (docs/serve.md), or use a policy without on_defer",
            )

    def without_bands(self) -> Policy:
        """The policy that answers what it would defer."""
        none = partial(
            replace, defer_threshold=None, on_defer=None, defer_text="", defer_translations=()
        )
        return replace(self, categories=tuple(map(none, self.categories)))

    def with_thresholds(self, thresholds: dict[str, float]) -> Policy:
        """The same policy with other thresholds for the named categories, of which nothing was
        promised. A category defers from where it did, or nothing where its threshold is below that.
        """
        changed = list(self.categories)
        for name, threshold in thresholds.items():
            at = self.taxonomy.index(name)
            lower = changed[at].defer_threshold and min(changed[at].held_from, threshold)
            changed[at] = replace(changed[at], threshold=threshold, defer_threshold=lower)
        return replace(self, categories=tuple(changed), promises=())

    def threshold_at_rate(self, category: str, rate: float) -> float:
        """The most lenient stored threshold of a category that refuses at most `rate` of all
        calibration rows.

        Raises PolicyError if the policy carries no curve for it.
        """
        curve = self.category(category).curve
        if not curve:
            raise PolicyError(
                f"policy {self.name!r} has no operating curve for {category!r}", "calibrate again"
            )
        fitting = [p.threshold for p in curve if p.refusal_rate.value <= rate]
        return min(fitting, default=NEVER)

    def require_movable(self, category: str, param: str | None = None) -> None:
        """Raise AccessError unless callers may move this category's threshold.

        param: the part of the request that asks for it, for the error.
        """
        if self.rule not in THRESHOLD_RULES:
            raise AccessError(
                f"rule {self.rule!r} of policy {self.name!r} compares no thresholds",
                f"choose a policy with one of the rules {', '.join(THRESHOLD_RULES)}",
                code="no_thresholds",
                param=param,
            )
        try:
            now = self.category(category)
        except TaxonomyError as e:
            raise AccessError(e.message, e.hint, code="unknown_category", param=param) from None
        if now.locked:
            raise AccessError(
                f"category {category!r} is locked by policy {self.name!r}",
                "leave it out; moving it takes another policy",
                code="locked",
                param=param,
            )

    def check_override(self, category: str, threshold: float, param: str | None = None) -> None:
        """Raise AccessError unless callers may move this category's threshold, and to there. param:
        see above.
        """
        self.require_movable(category, param)
        if math.isnan(threshold) or threshold < 0:
            raise AccessError(
                f"threshold {threshold} of category {category!r} is not in [0, inf]",
                "0 always refuses, inf never",
                code="invalid_value",
                param=param,
            )
        low, high = self.category(category).limits or (ALWAYS, NEVER)
        if not low <= threshold <= high:
            raise AccessError(
                f"threshold {threshold:.4g} of category {category!r} is outside its limits "
                f"[{low:g}, {high:g}]",
                f"policy {self.name!r} allows nothing else",
                code="outside_limits",
                param=param,
            )


def natural(taxonomy: Taxonomy, fingerprint: Fingerprint | None = None) -> Policy:
    """The policy that follows the model's most probable control token."""
    free = tuple(CategoryPolicy() for _ in taxonomy.categories)
    return Policy(
        name="natural", taxonomy=taxonomy, rule="natural", categories=free, fingerprint=fingerprint
    )


def _front_words(digest: str | None) -> str:
    """The scores' origin, for errors."""
    return f"a cascade with front {digest[:19]}" if digest else "the model alone"


def _check_sensitivities(policy: Policy) -> None:
    names = [s.name for s in policy.sensitivities]
    for sensitivity in policy.sensitivities:
        what = f"sensitivity {sensitivity.name!r}"
        if not sensitivity.name or names.count(sensitivity.name) > 1 or not sensitivity.thresholds:
            raise PolicyError(
                f"{what} has no name, no threshold or a twin", "give each a name and thresholds"
            )
        if policy.rule == "sum" and len({t for _, t in sensitivity.thresholds}) > 1:
            raise PolicyError(
                f"{what}: rule 'sum' has one threshold for all active categories", "make them equal"
            )
        for category, threshold in sensitivity.thresholds:
            try:
                policy.check_override(category, threshold)
            except AccessError as e:
                raise PolicyError(f"{what}: {e.message}", e.hint) from None


def _check_monitor(policy: Policy) -> None:
    if policy.monitor is None:
        return
    policy.monitor.require_categories(len(policy.taxonomy.categories))
    # A suppressed token is never emitted, in mid-answer no more than at the first position. Where
    # all are suppressed, the first position was decided elsewhere: see `passing`.
    if all(category.override == "suppress" for category in policy.categories):
        return
    for name, category, threshold in zip(
        policy.taxonomy.names, policy.categories, policy.monitor.thresholds, strict=True
    ):
        if category.override == "suppress" and threshold != NEVER:
            raise PolicyError(
                f"monitor: category {name!r} is suppressed and stops answers from {threshold:g} on",
                'set its monitor threshold to "never"',
            )
