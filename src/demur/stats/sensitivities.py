"""Named sensitivities: rates that the operator names, stored as thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from demur.base.errors import AccessError, PolicyError
from demur.core.access import POLICY_ORIGIN, PolicyChoice, apply_overrides
from demur.core.policy import Policy, Sensitivity


def with_sensitivities(policy: Policy, rates: Mapping[str, Mapping[str, float]]) -> Policy:
    """Add named sensitivities to a policy: name -> category -> share of the threshold rows to
    refuse with it at most.

    The thresholds are looked up on the policy's own curves, and stored: what a name means does not
    move. Raises PolicyError, naming the sensitivity, for what a caller could not ask of this policy
    by rate. The model left to itself, kept because the goals could not be certified, has none.
    """
    if policy.rule == "natural" or not rates:
        return policy
    made = []
    for name, wanted in rates.items():
        try:
            found = apply_overrides(policy, PolicyChoice(rates=wanted)).settings
        except AccessError as e:
            raise PolicyError(f"sensitivity {name!r}: {e.message}", e.hint) from None
        named = tuple((s.category, s.threshold) for s in found if s.origin != POLICY_ORIGIN)
        made.append(Sensitivity(name=name, thresholds=named))
    return replace(policy, sensitivities=tuple(made))
