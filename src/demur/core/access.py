"""Who may ask for which policy: tenants, requests for a policy, and the one effective policy that comes of them.

Precedence, lowest first: the policy's own thresholds; a named sensitivity; target rates; thresholds. A later one wins
for the categories that it names; each is checked against the policy's limits, and none moves a locked category.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from demur.core.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """One customer of the server."""

    name: str
    policies: tuple[str, ...]  # names it may choose from; the first is its default
    may_override: bool = False  # whether requests may carry a sensitivity, rates or thresholds
    sees_scores: bool = False  # operators only: answers carry the control-token probabilities
    requests_per_minute: int = 600
    concurrent: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyAsk:
    """What a request says about its policy: the "demur" object of the request body."""

    policy: str | None = None  # None: the tenant's default
    sensitivity: str | None = None  # a name that the policy defines
    rates: Mapping[str, float] = field(default_factory=dict)  # category -> share of traffic to refuse with it
    thresholds: Mapping[str, float] = field(default_factory=dict)  # category -> threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where one category's threshold comes from."""

    category: str
    threshold: float
    origin: str  # "policy", "sensitivity strict", "rate 0.05", "threshold"


@dataclass(frozen=True, kw_only=True, slots=True)
class Effective:
    """The policy that decides one request."""

    policy: Policy
    settings: tuple[Setting, ...]  # one per category
    overridden: bool  # then the stored policy's promises do not cover this request
