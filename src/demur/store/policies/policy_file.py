"""policy.json: a policy with its taxonomy, fingerprint and promises.

1. Reading: the JSON value becomes a PolicyFile. Its fields are core records where file and record
   agree; where they differ on purpose stands a row, which says how.
2. `to_core` makes the policy, whose own checks compare its parts.
3. Promises then count as far as their digests and the signature allow:
   demur.store.policies.trust.
4. Writing gives the same value back. Keys that came later are left out where they are empty, so
   that the digest of an old policy stays what it was.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, PlainSerializer

from demur.base.boundary import Strict, every_key, read_json, validated
from demur.base.errors import DemurError, PolicyError
from demur.base.files import digest_json, write_json
from demur.core.goals.attempts import Attempts
from demur.core.goals.goal import Promise
from demur.core.goals.parse import stated_goal
from demur.core.midway.monitor import AnswerSampling, Monitor, Statistic
from demur.core.policy import (
    CategoryPolicy,
    CurvePoint,
    DoubtRule,
    Override,
    Policy,
    Rule,
    Sensitivity,
)
from demur.core.rates import ByUnits, Rate, Slice
from demur.core.taxonomy import Taxonomy
from demur.core.threshold import OnDefer
from demur.store.fingerprint_json import StoredFingerprint
from demur.store.policies.binding import promise_digest
from demur.store.policies.calibrator_file import calibrator_from_json, calibrator_to_json
from demur.store.policies.signature import Signature, sign
from demur.store.policies.trust import DIGESTS_ONLY, Trust, checked_promises

# what a file may say; "not certified" is found on reading
FileStatus = Literal["certified", "measured", "uncertified", "no longer supported"]

NEVER_WORD = "never"  # JSON has no infinity
# the same in file and record
_PLAIN = (
    *("threshold", "active", "bias", "override", "on_refuse", "locked", "limits"),
    *("defer_threshold", "on_defer", "defer_text"),
)
# keys of a category that came with the second version of the format
_DEFERRAL = ("defer_threshold", "on_defer", "defer_text")

Threshold = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value == NEVER_WORD else value),
    PlainSerializer(lambda value: NEVER_WORD if math.isinf(value) else value),
]


class CurveRow(Strict):
    """A core CurvePoint; its threshold may be the word "never"."""

    threshold: Threshold
    refusal_rate: Rate
    false_refusal: Rate
    missed_refusal: Rate


class CategoryPolicyRow(Strict):
    """A core CategoryPolicy with the category's name; thresholds may be "never", and translations
    are an object.
    """

    category: str
    threshold: Threshold
    active: bool = True
    bias: float = 0.0
    override: Override | None = None
    on_refuse: str = "generate"
    translations: dict[str, str] = Field(default_factory=dict)  # language tag -> refusal text
    locked: bool = False
    limits: tuple[Threshold, Threshold] | None = None
    curve: tuple[CurveRow, ...] = ()
    defer_threshold: Threshold | None = None
    on_defer: OnDefer | None = None
    defer_text: str = ""
    defer_translations: dict[str, str] = Field(default_factory=dict)  # as translations

    def to_core(self) -> CategoryPolicy:
        """The core record."""
        fields = {f: getattr(self, f) for f in _PLAIN}
        # dict(row) keeps the rates as the records that they are; model_dump would take them apart
        curve = tuple(CurvePoint(**dict(row)) for row in self.curve)
        return CategoryPolicy(
            **fields,
            translations=tuple(self.translations.items()),
            defer_translations=tuple(self.defer_translations.items()),
            curve=curve,
        )


class PromiseRow(Strict):
    """A core Promise; its goal stands as risk and level, and "not certified" is never written."""

    risk: str
    level: FiniteFloat | None
    confidence: FiniteFloat | None
    status: FileStatus
    rate: Rate | None
    data_digest: str
    method: str
    on_failure: str = "stop"  # files written before there was a choice stopped
    by_units: ByUnits | None = None  # older files do not say it
    mix: tuple[Slice, ...] = ()  # what `rate` averages over; older files do not say it
    rows: str | None = None  # as above
    attempts: Attempts | None = None  # as above
    digest: str | None = None  # files written before there was one bind their promises to nothing

    def to_core(self) -> Promise:
        """The core record."""
        fields = dict(self)
        # A measured level was a rate to be met, any other a bound: the risk alone does not say.
        goal = stated_goal(
            fields.pop("risk"), fields.pop("level"), measured=self.status == "measured"
        )
        return Promise(goal=goal, **fields)


class MonitorRow(Strict):
    """A core Monitor; its thresholds stand by category and may be "never"."""

    statistic: Statistic
    reference: FiniteFloat | None = None  # of "cusum" only
    thresholds: dict[str, Threshold]
    held_back: int
    answers: Annotated[AnswerSampling, every_key(AnswerSampling)]

    def to_core(self, taxonomy: Taxonomy) -> Monitor:
        """The core record. Raises PolicyError on other categories than the taxonomy's."""
        if set(self.thresholds) != set(taxonomy.names):
            raise PolicyError(
                f"monitor: thresholds of categories {sorted(self.thresholds)}, not of the "
                f"taxonomy's {sorted(taxonomy.names)}",
                'give each category a threshold; "never" stops nothing',
            )
        reference = {} if self.reference is None else {"reference": self.reference}
        return Monitor(
            thresholds=tuple(self.thresholds[name] for name in taxonomy.names),
            answers=self.answers,
            statistic=self.statistic,
            held_back=self.held_back,
            **reference,
        )


class PolicyFile(Strict):
    """policy.json."""

    format: Literal["demur.policy/1", "demur.policy/2"]
    name: str
    taxonomy: Taxonomy
    rule: Rule
    calibrator: dict[str, Any]  # see demur.store.policies.calibrator_file
    categories: tuple[CategoryPolicyRow, ...]
    promises: tuple[PromiseRow, ...] = ()
    # name -> category -> threshold
    sensitivities: dict[str, dict[str, Threshold]] = Field(default_factory=dict)
    # None: the default rule, and that of files written before there was one
    doubt: Annotated[DoubtRule, every_key(DoubtRule)] | None = None
    monitor: MonitorRow | None = None  # None: as files written before there was one
    fingerprint: StoredFingerprint | None
    signature: Signature | None = None  # of all the rest; no part of the policy's digest

    def to_core(self) -> Policy:
        """The core record. Raises PolicyError if the parts contradict each other."""
        # Categories are compared by place from here on, so their order must be the taxonomy's.
        deferring = [c.category for c in self.categories if c.on_defer is not None]
        if deferring and self.format == "demur.policy/1":
            raise PolicyError(
                f"category {deferring[0]!r} defers, which format {self.format!r} does not know",
                'write "format": "demur.policy/2"',
            )
        named = tuple(c.category for c in self.categories)
        if named != self.taxonomy.names:
            raise PolicyError(
                f"categories {named} are not the taxonomy's {self.taxonomy.names}",
                "same names, same order",
            )
        return Policy(
            name=self.name,
            taxonomy=self.taxonomy,
            rule=self.rule,
            categories=tuple(c.to_core() for c in self.categories),
            calibrator=calibrator_from_json(self.calibrator),
            fingerprint=self.fingerprint,
            promises=tuple(p.to_core() for p in self.promises),
            sensitivities=tuple(
                Sensitivity(name=name, thresholds=tuple(thresholds.items()))
                for name, thresholds in self.sensitivities.items()
            ),
            doubt=self.doubt or DoubtRule(),
            monitor=None if self.monitor is None else self.monitor.to_core(self.taxonomy),
        )


def write_policy(path: Path, policy: Policy) -> None:
    """Write a policy atomically."""
    write_json(path, policy_to_json(policy))


def write_signed(path: Path, policy: Policy, key_file: Path) -> Signature:
    """Write a policy atomically, with its signature by a private key. Raises ConfigError on a file
    without one.
    """
    # Signed is the value without the key "signature", as the policy's digest has it.
    value = policy_to_json(policy)
    signature = sign(value, key_file)
    write_json(path, value | {"signature": signature.model_dump(mode="json")})
    return signature


def read_policy(path: Path, trust: Trust = DIGESTS_ONLY) -> Policy:
    """Read a policy. Raises PolicyError naming the file, the key and the remedy."""
    return policy_from_json(read_json(path, PolicyError), str(path), trust)


def policy_from_json(value: object, where: str, trust: Trust = DIGESTS_ONLY) -> Policy:
    """Make a policy of its JSON value, with its promises as demur.store.policies.trust.
    checked_promises leaves them.

    Raises PolicyError naming `where`.
    """
    try:
        file = validated(PolicyFile, value, where, PolicyError)
        policy = file.to_core()
        # Digests are made of the value as it would be written, not as it was read: keys in another
        # order, or empty ones, change no promise.
        return replace(
            policy,
            promises=checked_promises(
                policy.promises, policy_to_json(policy), file.signature, trust
            ),
        )
    except DemurError as e:  # `where` is in it unless a record said it of its own values
        message = e.message if e.message.startswith(where) else f"{where}: {e.message}"
        raise PolicyError(message, e.hint) from None


def bind_promises(policy: Policy) -> Policy:
    """Give each certified promise the digest of what it is about. Stages call this once the policy
    is final.

    A promise that has a digest keeps it: a stored policy that was changed does not become
    certified again.
    """
    value = policy_to_json(policy)
    pairs = zip(policy.promises, value["promises"], strict=True)
    made = (
        replace(p, digest=promise_digest(value, row))
        if p.status == "certified" and p.digest is None
        else p
        for p, row in pairs
    )
    return replace(policy, promises=tuple(made))


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """The JSON value of a policy."""
    file = PolicyFile(
        format=_format(policy),
        name=policy.name,
        taxonomy=policy.taxonomy,
        rule=policy.rule,
        calibrator=calibrator_to_json(policy.calibrator),
        categories=tuple(map(_category_row, policy.taxonomy.names, policy.categories)),
        promises=tuple(map(_promise_row, policy.promises)),
        sensitivities={s.name: dict(s.thresholds) for s in policy.sensitivities},
        doubt=None if policy.doubt == DoubtRule() else policy.doubt,
        monitor=None if policy.monitor is None else _monitor_row(policy.monitor, policy.taxonomy),
        fingerprint=policy.fingerprint,
    )
    value = file.model_dump(mode="json")
    # Keys that came later are left out where there is nothing to say, so that a policy without them
    # keeps its digest.
    late_keys = [
        (value, "sensitivities"),
        (value, "doubt"),
        (value, "monitor"),
        (value, "signature"),
        *(
            (row, late)
            for row in value["categories"]
            for late in ("translations", "defer_translations")
        ),
        *((row, "mix") for row in value["promises"]),
        *(
            (row, late)
            for row in value["promises"]
            for late in ("by_units", "rows", "attempts", "digest")
        ),
        *((part, "by_units") for row in value["promises"] for part in row["mix"]),
    ]
    for table, late in late_keys:
        if not table[late]:
            del table[late]
    for row in value["categories"]:
        if row["on_defer"] is None:
            for late in _DEFERRAL:
                del row[late]
    return value


def policy_digest(policy: Policy) -> str:
    """The sha256 of a policy's JSON value, which answers and logs carry."""
    return digest_json(policy_to_json(policy))


def _format(policy: Policy) -> Literal["demur.policy/1", "demur.policy/2"]:
    """The oldest format that says all of a policy: servers of before read what they can act on,
    and refuse the rest.
    """
    of_units = any(p.by_units or any(part.by_units for part in p.mix) for p in policy.promises)
    later = policy.monitor is not None or policy.defers or of_units
    return "demur.policy/2" if later else "demur.policy/1"


def _monitor_row(monitor: Monitor, taxonomy: Taxonomy) -> MonitorRow:
    return MonitorRow(
        statistic=monitor.statistic,
        reference=monitor.reference if monitor.statistic == "cusum" else None,
        thresholds=dict(zip(taxonomy.names, monitor.thresholds, strict=True)),
        held_back=monitor.held_back,
        answers=monitor.answers,
    )


def _category_row(name: str, category: CategoryPolicy) -> CategoryPolicyRow:
    curve = tuple(
        CurveRow(**{f: getattr(point, f) for f in CurveRow.model_fields})
        for point in category.curve
    )
    plain = {f: getattr(category, f) for f in _PLAIN}
    return CategoryPolicyRow(
        category=name,
        translations=dict(category.translations),
        defer_translations=dict(category.defer_translations),
        curve=curve,
        **plain,
    )


def _promise_row(promise: Promise) -> PromiseRow:
    fields = {f: getattr(promise, f) for f in PromiseRow.model_fields}
    # That a promise is "not certified" is found on reading, and not written down.
    status = "certified" if promise.status == "not certified" else promise.status
    return PromiseRow(**fields | {"status": status})
