"""Policies as the caller of `decide` and `chat` names and changes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demur.cli.show import note
from demur.core.access import PolicyAsk, effective
from demur.core.decision import Decision, decide_many, doubt_reason, on_doubt
from demur.core.errors import ConfigError
from demur.core.policy import Policy, natural
from demur.core.score import Floats, leftover_of
from demur.store.policy_file import read_policy
from demur.store.run import RunFolder


def named_policy(folder: RunFolder, name: str, base: Policy) -> Policy:
    """The policy of a run by name: "natural", "calibrated", one of <run>/evaluate/policies, or a file's path."""
    if name == "natural":
        return natural(base.taxonomy, base.fingerprint)
    if name == "calibrated":
        return opened(folder.policy)
    stored = folder.stage("evaluate") / "policies" / f"{name}.json"
    if stored.exists():
        folder.require_fresh("evaluate")
    return opened(stored if stored.exists() else Path(name))


def opened(path: Path) -> Policy:
    """Read a policy, and say on stderr which of its promises do not count, and why.

    Raises ArtifactError if it is a run's own and was calibrated on scores or rows that are others by now.
    """
    if path == RunFolder(path.parent.parent).policy:
        RunFolder(path.parent.parent).require_fresh("calibrate")
    policy = read_policy(path)
    tell_of_unproven(policy)
    return policy


def tell_of_unproven(policy: Policy) -> None:
    """Say which promises their file calls certified and does not bear out."""
    for promise in policy.promises:
        if promise.fault is not None:
            note(f"policy {policy.name!r}: {promise.risk} is not certified: {promise.fault}; calibrate again")


def policy_file(path: Path) -> Path:
    """A policy as operators name it: its file, or the run folder that has calibrated it."""
    if not RunFolder(path).policy.is_file():
        return path
    RunFolder(path).require_fresh("calibrate")
    return RunFolder(path).policy


def asked(thresholds: Sequence[str] | None, rates: Sequence[str] | None, sensitivity: str | None = None) -> PolicyAsk:
    """The overrides of `--threshold category=number`, `--rate category=number` and `--sensitivity NAME`."""
    return PolicyAsk(
        sensitivity=sensitivity,
        rates=dict(_number(text, "--rate") for text in rates or ()),
        thresholds=dict(_number(text, "--threshold") for text in thresholds or ()),
    )


def overridden(policy: Policy, thresholds: Sequence[str] | None, rates: Sequence[str] | None) -> Policy:
    """The policy with "category=number" overrides, as a server applies them. Raises AccessError: see `effective`."""
    return effective(policy, asked(thresholds, rates)).policy


def decided_word(policy: Policy, decision: Decision) -> str:
    """ "respond", the category refused with, or "undecided": as an engine would act on the decision."""
    return "undecided" if decision.doubt and on_doubt(policy) == "error" else decision.choice


def doubt_note(policy: Policy, logp_NC: Floats) -> str | None:
    """How many of these scores are doubtful, in words; None if there is none."""
    doubtful = int(decide_many(policy, logp_NC).doubt_N.sum())
    if not doubtful:
        return None
    act = "an error" if on_doubt(policy) == "error" else "refused, whatever the thresholds"
    return (
        f"doubt: {doubtful} of {len(logp_NC)} put more than {policy.doubt.most_leftover:.4g} of their probability "
        f"outside the control tokens: {act}"
    )


def decision_json(policy: Policy, logp_C: Floats, decision: Decision) -> dict[str, object]:
    """A decision for programs, with calibrated probabilities. margin is null where nothing was compared.

    refuses: no answer follows. decision: "undecided" where a score is doubtful and the policy makes that an error.
    """
    p_C = np.exp(policy.calibrator.apply(logp_C[None, :])[0])
    probability = {name: float(p) for name, p in zip(policy.taxonomy.choices, p_C, strict=True)}
    return {
        "decision": decided_word(policy, decision),
        "refuses": decision.refuses,
        "heaviest": decision.heaviest,
        "margin": decision.margin if np.isfinite(decision.margin) else None,
        "doubt": doubt_reason(policy, logp_C) if decision.doubt else None,
        "leftover": float(leftover_of(logp_C[None, :])[0]),
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
