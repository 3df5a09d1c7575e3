"""Access to policies: tenants, the policy part of a request, and the one effective policy that
comes of both.

Precedence, lowest first: the policy's own thresholds; a named sensitivity; target rates;
thresholds. A later one wins for the categories that it names; each is checked against the policy's
limits, and none moves a locked category.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from demur.base.errors import AccessError, PolicyError
from demur.base.suggest import suggest
from demur.core.policy import Policy

POLICY_ORIGIN = "policy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """One customer of the server."""

    name: str
    policies: tuple[str, ...]  # names it may choose from; the first is its default
    may_override: bool = False  # whether requests may carry a sensitivity, rates or thresholds
    sees_scores: bool = False  # operators only: answers carry the control-token probabilities
    requests_per_minute: int = 600
    concurrent: int = 64
    # its requests are made up, such as probes and tests: no monitor counts them
    synthetic: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyChoice:
    """The policy part of a request: the "demur" object of its body."""

    policy: str | None = None  # None: the tenant's default
    sensitivity: str | None = None  # a name that the policy defines
    # category -> share of traffic to refuse with it
    rates: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)  # category -> threshold

    @property
    def overrides(self) -> bool:
        """Whether it changes a policy: a sensitivity, a rate or a threshold."""
        return self.sensitivity is not None or bool(self.rates) or bool(self.thresholds)


@dataclass(frozen=True, kw_only=True, slots=True)
class CategorySetting:
    """One category's threshold, and where it comes from."""

    category: str
    threshold: float
    origin: str  # "policy", "sensitivity strict", "rate 0.05", "threshold"


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectivePolicy:
    """The policy that decides one request."""

    policy: Policy
    settings: tuple[CategorySetting, ...]  # one per category
    # then the stored policy's promises do not cover this request, and `policy` carries none
    overridden: bool


def choose_policy(tenant: Tenant, ask: PolicyChoice, policies: Collection[str]) -> str:
    """Choose the policy that a tenant's request is decided under. `policies`: the names that exist.

    Raises AccessError, code "policy_not_found", in the same words whether a policy does not exist
    or is another tenant's, so that names cannot be probed; and code "no_overrides" if this tenant
    must take policies as they are.
    """
    name = tenant.policies[0] if ask.policy is None else ask.policy
    own = [p for p in tenant.policies if p in policies]
    if name not in own:
        raise AccessError(
            f"there is no policy {name!r} for this key",
            f"it may use: {', '.join(own) or 'none; tell the operator'}",
            code="policy_not_found",
            param="policy",
        )
    if ask.overrides and not tenant.may_override:
        param = (
            "sensitivity" if ask.sensitivity is not None else "rates" if ask.rates else "thresholds"
        )
        raise AccessError(
            "this key may choose a policy, not change it",
            "leave out sensitivity, rates and thresholds",
            code="no_overrides",
            param=param,
        )
    return name


def apply_overrides(policy: Policy, ask: PolicyChoice) -> EffectivePolicy:
    """Apply a request's sensitivity, rates and thresholds to a policy. `ask.policy` is not read:
    choose_policy chose it.

    Nothing is clamped and nothing ignored: AccessError on an unknown category or sensitivity, a
    locked category, a threshold outside its limits (however it was asked for), a category or a rule
    that no threshold decides, a rate without a curve, and on values that are no rates or
    thresholds. Its code and param say which. Rule "sum" has one threshold: naming any category
    moves it for all active ones, so they must all be movable to there.
    """
    settings = {
        name: CategorySetting(category=name, threshold=c.threshold, origin=POLICY_ORIGIN)
        for name, c in zip(policy.taxonomy.names, policy.categories, strict=True)
    }
    # lowest precedence first: a later layer replaces the settings of the categories that it names
    for layer in (_by_sensitivity, _by_rate, _by_threshold):
        settings |= {s.category: s for s in _allowed(policy, layer(policy, ask))}
    # naming a threshold that the policy has anyway moves nothing, and its promises stay
    moved = {
        n: s.threshold for n, s in settings.items() if s.threshold != policy.category(n).threshold
    }
    changed = policy.with_thresholds(moved) if moved else policy
    return EffectivePolicy(
        policy=changed, settings=tuple(settings.values()), overridden=bool(moved)
    )


def _by_sensitivity(policy: Policy, ask: PolicyChoice) -> Iterator[tuple[str, CategorySetting]]:
    """The settings of a named sensitivity, each with the part of the request that it comes from."""
    if ask.sensitivity is None:
        return
    known = {s.name: s.thresholds for s in policy.sensitivities}
    if ask.sensitivity not in known:
        raise AccessError(
            f"policy {policy.name!r} has no sensitivity {ask.sensitivity!r}",
            suggest(ask.sensitivity, known),
            code="unknown_sensitivity",
            param="sensitivity",
        )
    for category, threshold in known[ask.sensitivity]:
        yield (
            "sensitivity",
            CategorySetting(
                category=category, threshold=threshold, origin=f"sensitivity {ask.sensitivity}"
            ),
        )


def _by_rate(policy: Policy, ask: PolicyChoice) -> Iterator[tuple[str, CategorySetting]]:
    """The settings of target rates, looked up on the policy's operating curves."""
    for category, rate in ask.rates.items():
        param = f"rates.{category}"
        # first, because its error says more than that there is no curve
        _require_effect(policy, category, param)
        if not 0.0 <= rate <= 1.0:
            raise AccessError(
                f"rate {rate} of category {category!r} is no share of traffic",
                "0.05 refuses at most 5 % of it",
                code="invalid_value",
                param=param,
            )
        try:
            threshold = policy.threshold_at_rate(category, rate)
        except PolicyError as e:
            raise AccessError(
                e.message, "ask for a threshold instead", code="no_curve", param=param
            ) from None
        yield (
            param,
            CategorySetting(category=category, threshold=threshold, origin=f"rate {rate:g}"),
        )


def _by_threshold(policy: Policy, ask: PolicyChoice) -> Iterator[tuple[str, CategorySetting]]:
    """The settings of thresholds."""
    for category, threshold in ask.thresholds.items():
        param = f"thresholds.{category}"
        _require_effect(policy, category, param)
        yield param, CategorySetting(category=category, threshold=threshold, origin="threshold")


def _require_effect(policy: Policy, category: str, param: str) -> None:
    """Raise AccessError unless this category's threshold may be moved and then moves something."""
    policy.require_movable(category, param)
    if not policy.category(category).may_emit or any(
        c.override == "force" for c in policy.categories
    ):
        raise AccessError(
            f"no threshold of category {category!r} decides anything under policy {policy.name!r}",
            "leave it out: a category there is inactive, suppressed or forced",
            code="no_effect",
            param=param,
        )


def _allowed(policy: Policy, layer: Iterable[tuple[str, CategorySetting]]) -> list[CategorySetting]:
    """Check the settings of one layer; under rule "sum" spread its one threshold over every active
    category.
    """
    asked = []
    for param, setting in layer:
        policy.check_override(setting.category, setting.threshold, param)
        asked.append(setting)
    if policy.rule != "sum" or not asked:
        return asked
    first, *others = asked
    if any(s.threshold != first.threshold for s in others):
        raise AccessError(
            f"rule 'sum' of policy {policy.name!r} has one threshold, and these are several",
            "name one category: it moves all",
            code="one_threshold",
        )
    active = [n for n, c in zip(policy.taxonomy.names, policy.categories, strict=True) if c.active]
    for name in active:
        policy.check_override(name, first.threshold)
    return [replace(first, category=name) for name in active]
