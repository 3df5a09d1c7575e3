"""Policies as the caller of `decide` and `chat` names and changes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demur.core.decision import Decision
from demur.core.errors import ConfigError, PolicyError
from demur.core.policy import Policy, natural
from demur.core.score import Floats
from demur.store.policy_file import read_policy
from demur.store.run import RunFolder

THRESHOLDED = ("heaviest", "released", "sum", "any")


def named_policy(folder: RunFolder, name: str, base: Policy) -> Policy:
    """The policy of a run by name: "natural", "calibrated", one of <run>/evaluate/policies, or a file's path."""
    if name == "natural":
        return natural(base.taxonomy, base.fingerprint)
    if name == "calibrated":
        return read_policy(folder.policy)
    stored = folder.stage("evaluate") / "policies" / f"{name}.json"
    return read_policy(stored if stored.exists() else Path(name))


def overridden(policy: Policy, thresholds: Sequence[str], rates: Sequence[str]) -> Policy:
    """The policy with "category=number" overrides; a rate is looked up on the category's operating curve.

    Raises PolicyError when a category is locked, a value is outside its limits, or the rule has no thresholds.
    """
    if (thresholds or rates) and policy.rule not in THRESHOLDED:
        raise PolicyError(
            f"rule {policy.rule!r} of policy {policy.name!r} compares no thresholds",
            f"calibrate with one of {', '.join(THRESHOLDED)}: demur calibrate --rule heaviest",
        )
    chosen = dict(_number(text, "--threshold") for text in thresholds)
    for category, rate in (_number(text, "--rate") for text in rates):
        chosen[category] = policy.threshold_at_rate(category, rate)
    for category in chosen:
        if policy.category(category).locked:
            raise PolicyError(
                f"category {category!r} is locked by policy {policy.name!r}", "calibrate again with another threshold"
            )
    if policy.rule == "sum" and chosen:  # one threshold for all, whichever category it is said of
        chosen = dict.fromkeys(policy.taxonomy.names, next(iter(chosen.values())))
    return policy.with_thresholds(chosen)


def decision_json(policy: Policy, logp_C: Floats, decision: Decision) -> dict[str, object]:
    """A decision for programs, with calibrated probabilities. margin is null where nothing was compared."""
    p_C = np.exp(policy.calibrator.apply(logp_C[None, :])[0])
    probability = {name: float(p) for name, p in zip(policy.taxonomy.choices, p_C, strict=True)}
    return {
        "decision": decision.choice,
        "refuses": decision.refuses,
        "heaviest": decision.heaviest,
        "margin": decision.margin if np.isfinite(decision.margin) else None,
        "probability": probability,
    }


def _number(text: str, flag: str) -> tuple[str, float]:
    category, equals, value = text.partition("=")
    try:
        number = float("inf" if value.strip() == "never" else value)
    except ValueError:
        equals = ""
        number = 0.0
    if not equals:
        raise ConfigError(f"cannot read {flag} {text!r}", f"write {flag} category=number, e.g. {flag} safety=0.3")
    return category.strip(), number
