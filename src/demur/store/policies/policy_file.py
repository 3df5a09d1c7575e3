"""policy.json and the taxonomy and fingerprint inside it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from demur.base.boundary import Strict, read_json, validated
from demur.base.errors import DemurError, PolicyError
from demur.base.files import digest_json, write_json
from demur.core.fingerprint import Fingerprint
from demur.core.goals.parse import stated_goal
from demur.core.goals.promise import Promise
from demur.core.goals.slices import Facet, Slice
from demur.core.policy import (
    CategoryPolicy,
    CurvePoint,
    DoubtRule,
    OnDoubt,
    Override,
    Policy,
    Rule,
    Sensitivity,
)
from demur.core.rates import Rate
from demur.core.taxonomy import Category, Taxonomy
from demur.store.policies.binding import promise_digest
from demur.store.policies.calibrator_file import (
    CalibratorRow,
    calibrator_from_row,
    row_of_calibrator,
)
from demur.store.policies.signature import Signature, sign
from demur.store.policies.trust import DIGESTS_ONLY, Trust, judged

FileStatus = Literal["certified", "measured", "uncertified", "no longer supported"]

NEVER_WORD = "never"  # JSON has no infinity
# the same in file and record
_PLAIN = ("threshold", "active", "bias", "override", "on_refuse", "locked", "limits")


def _read_threshold(value: object) -> object:
    return math.inf if value == NEVER_WORD else value


def _write_threshold(value: float) -> float | str:
    return NEVER_WORD if math.isinf(value) else value


Threshold = Annotated[float, BeforeValidator(_read_threshold), PlainSerializer(_write_threshold)]


class CategoryRow(Strict):
    """One category of a taxonomy."""

    name: str
    token: str
    description: str


class TaxonomyRow(Strict):
    """A taxonomy, in policies, in demur.json and in users' TOML."""

    name: str
    respond_token: str
    categories: tuple[CategoryRow, ...]

    def to_core(self) -> Taxonomy:
        """The core record. Raises TaxonomyError."""
        categories = tuple(
            Category(name=c.name, token=c.token, description=c.description) for c in self.categories
        )
        return Taxonomy(name=self.name, respond_token=self.respond_token, categories=categories)

    @classmethod
    def from_core(cls, taxonomy: Taxonomy) -> TaxonomyRow:
        """The row of a core record."""
        rows = tuple(
            CategoryRow(name=c.name, token=c.token, description=c.description)
            for c in taxonomy.categories
        )
        return cls(name=taxonomy.name, respond_token=taxonomy.respond_token, categories=rows)


class FingerprintRow(Strict):
    """A core Fingerprint, field by field."""

    model_digest: str
    tokenizer_digest: str
    template_digest: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    dtype: str
    logprobs: str
    config_digest: str | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a digest that is not there: what was written before there was one keeps its own
        digest.
        """
        row: dict[str, Any] = serialise(self)
        if row["config_digest"] is None:
            del row["config_digest"]
        return row

    def to_core(self) -> Fingerprint:
        """The core record."""
        return Fingerprint(**dict(self))

    @classmethod
    def from_core(cls, fingerprint: Fingerprint) -> FingerprintRow:
        """The row of a core record."""
        return cls(**{f: getattr(fingerprint, f) for f in cls.model_fields})


class RateRow(Strict):
    """hits of so many."""

    hits: int
    of: int

    def to_core(self) -> Rate:
        """The core record."""
        return Rate(hits=self.hits, of=self.of)

    @classmethod
    def from_core(cls, rate: Rate) -> RateRow:
        """The row of a core record."""
        return cls(hits=rate.hits, of=rate.of)


class CurveRow(Strict):
    """One point of an operating curve."""

    threshold: Threshold
    refusal_rate: RateRow
    false_refusal: RateRow
    missed_refusal: RateRow


class CategoryPolicyRow(Strict):
    """What the policy does about one category."""

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

    def to_core(self) -> CategoryPolicy:
        """The core record."""
        fields = {f: getattr(self, f) for f in _PLAIN}
        curve = tuple(_curve_point(row) for row in self.curve)
        return CategoryPolicy(**fields, translations=tuple(self.translations.items()), curve=curve)


class SliceRow(Strict):
    """Rows and errors of one kind, category or source."""

    facet: Facet
    name: str
    rate: RateRow

    def to_core(self) -> Slice:
        """The core record."""
        return Slice(facet=self.facet, name=self.name, rate=self.rate.to_core())


class PromiseRow(Strict):
    """A core Promise, field by field."""

    risk: str
    level: FiniteFloat | None
    confidence: FiniteFloat | None
    status: FileStatus
    rate: RateRow | None
    data_digest: str
    method: str
    on_failure: str = "stop"  # files written before there was a choice stopped
    mix: tuple[SliceRow, ...] = ()  # what `rate` averages over; older files do not say it
    rows: str | None = None  # as above
    digest: str | None = None  # files written before there was one bind their promises to nothing

    def to_core(self) -> Promise:
        """The core record."""
        fields = {
            name: value for name, value in dict(self).items() if name not in ("risk", "level")
        }
        goal = stated_goal(self.risk, self.level, measured=self.status == "measured")
        mix = tuple(row.to_core() for row in self.mix)
        return Promise(
            **{
                **fields,
                "goal": goal,
                "rate": self.rate.to_core() if self.rate else None,
                "mix": mix,
            }
        )


class DoubtRow(Strict):
    """When a score is no score, and what is done then."""

    most_leftover: float
    then: OnDoubt

    def to_core(self) -> DoubtRule:
        """The core record. Raises PolicyError on a bound outside [0, 1]."""
        return DoubtRule(most_leftover=self.most_leftover, then=self.then)


class PolicyFile(Strict):
    """policy.json."""

    format: Literal["demur.policy/1"]
    name: str
    taxonomy: TaxonomyRow
    rule: Rule
    calibrator: CalibratorRow
    categories: tuple[CategoryPolicyRow, ...]
    promises: tuple[PromiseRow, ...] = ()
    # name -> category -> threshold
    sensitivities: dict[str, dict[str, Threshold]] = Field(default_factory=dict)
    # None: the default rule, and that of files written before there was one
    doubt: DoubtRow | None = None
    fingerprint: FingerprintRow | None
    signature: Signature | None = None  # of all the rest; no part of the policy's digest

    def to_core(self) -> Policy:
        """The core record. Raises PolicyError or TaxonomyError if the parts contradict each
        other.
        """
        named = tuple(c.category for c in self.categories)
        taxonomy = self.taxonomy.to_core()
        if named != taxonomy.names:
            raise PolicyError(
                f"categories {named} are not the taxonomy's {taxonomy.names}",
                "same names, same order",
            )
        return Policy(
            name=self.name,
            taxonomy=taxonomy,
            rule=self.rule,
            categories=tuple(c.to_core() for c in self.categories),
            calibrator=calibrator_from_row(self.calibrator),
            fingerprint=self.fingerprint.to_core() if self.fingerprint else None,
            promises=tuple(p.to_core() for p in self.promises),
            sensitivities=tuple(
                Sensitivity(name=name, thresholds=tuple(thresholds.items()))
                for name, thresholds in self.sensitivities.items()
            ),
            doubt=self.doubt.to_core() if self.doubt else DoubtRule(),
        )


def write_policy(path: Path, policy: Policy) -> None:
    """Write a policy atomically."""
    write_json(path, policy_to_json(policy))


def write_signed(path: Path, policy: Policy, key_file: Path) -> Signature:
    """Write a policy atomically, with its signature by a private key. Raises ConfigError on a file
    without one.
    """
    value = policy_to_json(policy)
    signature = sign(value, key_file)
    write_json(path, value | {"signature": signature.model_dump(mode="json")})
    return signature


def read_policy(path: Path, trust: Trust = DIGESTS_ONLY) -> Policy:
    """Read a policy. Raises PolicyError naming the file, the key and the remedy."""
    return policy_from_json(read_json(path, PolicyError), str(path), trust)


def policy_from_json(value: object, where: str, trust: Trust = DIGESTS_ONLY) -> Policy:
    """A policy from its JSON value, its promises as far as they may be believed: see
    demur.store.policies.trust.judged.

    Raises PolicyError naming `where`.
    """
    file = validated(PolicyFile, value, where, PolicyError)
    try:
        policy = file.to_core()
        return replace(
            policy, promises=judged(policy.promises, policy_to_json(policy), file.signature, trust)
        )
    except DemurError as e:
        raise PolicyError(f"{where}: {e.message}", e.hint) from None


def bound(policy: Policy) -> Policy:
    """The policy as certified, each certified promise tied to what it speaks of. For stages, once
    all is final.

    A promise that has a digest keeps it: a policy that was kept, and changed, does not become
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
    fingerprint = FingerprintRow.from_core(policy.fingerprint) if policy.fingerprint else None
    file = PolicyFile(
        format="demur.policy/1",
        name=policy.name,
        taxonomy=TaxonomyRow.from_core(policy.taxonomy),
        rule=policy.rule,
        calibrator=row_of_calibrator(policy.calibrator),
        categories=tuple(map(_category_row, policy.taxonomy.names, policy.categories)),
        promises=tuple(map(_promise_row, policy.promises)),
        sensitivities={s.name: dict(s.thresholds) for s in policy.sensitivities},
        doubt=_doubt_row(policy.doubt),
        fingerprint=fingerprint,
    )
    value = file.model_dump(mode="json")
    # Keys that came later are left out where there is nothing to say, so that a policy without them
    # keeps its digest.
    late_keys = [
        (value, "sensitivities"),
        (value, "doubt"),
        (value, "signature"),
        *((row, "translations") for row in value["categories"]),
        *((row, "mix") for row in value["promises"]),
        *((row, late) for row in value["promises"] for late in ("rows", "digest")),
    ]
    for table, late in late_keys:
        if not table[late]:
            del table[late]
    return value


def policy_digest(policy: Policy) -> str:
    """sha256 of a policy's JSON value: the hash that answers and logs carry."""
    return digest_json(policy_to_json(policy))


def _doubt_row(rule: DoubtRule) -> DoubtRow | None:
    if rule == DoubtRule():
        return None
    return DoubtRow(most_leftover=rule.most_leftover, then=rule.then)


def _curve_point(row: CurveRow) -> CurvePoint:
    return CurvePoint(
        threshold=row.threshold,
        refusal_rate=row.refusal_rate.to_core(),
        false_refusal=row.false_refusal.to_core(),
        missed_refusal=row.missed_refusal.to_core(),
    )


def _category_row(name: str, category: CategoryPolicy) -> CategoryPolicyRow:
    curve = tuple(
        CurveRow(
            threshold=p.threshold,
            refusal_rate=RateRow.from_core(p.refusal_rate),
            false_refusal=RateRow.from_core(p.false_refusal),
            missed_refusal=RateRow.from_core(p.missed_refusal),
        )
        for p in category.curve
    )
    plain = {f: getattr(category, f) for f in _PLAIN}
    return CategoryPolicyRow(
        category=name, translations=dict(category.translations), curve=curve, **plain
    )


def _promise_row(promise: Promise) -> PromiseRow:
    """The row as its file has it: that a promise is "not certified" is found on reading, and not
    written down.
    """
    fields = {
        f: getattr(promise, f)
        for f in PromiseRow.model_fields
        if f not in ("rate", "status", "mix")
    }
    status: FileStatus = "certified" if promise.status == "not certified" else promise.status
    mix = tuple(
        SliceRow(facet=s.facet, name=s.name, rate=RateRow.from_core(s.rate)) for s in promise.mix
    )
    return PromiseRow(
        **fields,
        status=status,
        rate=RateRow.from_core(promise.rate) if promise.rate else None,
        mix=mix,
    )
