"""Policies by the names that users type, and overrides of their thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import ConfigError, ScoreError
from demur.cli.terminal import note
from demur.core.access import PolicyChoice, apply_overrides
from demur.core.decision import Decision, decide_many, doubt_reason, on_doubt
from demur.core.midway.monitor import Stop
from demur.core.policy import Policy, natural
from demur.core.score import leftover_of
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder, run_of


def named_policy(folder: RunFolder, name: str, base: Policy) -> Policy:
    """Find a policy by name: "natural", "calibrated", one that `calibrate --name` keeps, one of
    <run>/evaluate/policies by its goal, or a file's path; looked for in this order.

    base: the policy in use, whose taxonomy, model and rule for doubt the natural one takes.
    """
    if name == "natural":
        return replace(natural(base.taxonomy, base.fingerprint), doubt=base.doubt)
    if name == "calibrated":
        return open_policy(folder.policy)
    if name in folder.policy_names:
        return open_policy(folder.named(name).policy)
    # made by the evaluate stage for comparison: out of date with it
    stored = folder.stage("evaluate") / "policies" / f"{name}.json"
    if stored.exists():
        folder.require_fresh("evaluate")
    return open_policy(stored if stored.exists() else Path(name))


def open_policy(path: Path) -> Policy:
    """Read a policy, and note on stderr which of its promises do not count, and why.

    Raises ArtifactError if the policy lies in a run whose scores or rows changed since.
    """
    if (run := run_of(path)) is not None:
        run.require_fresh("calibrate")
    policy = read_policy(path)
    note_uncertified(policy)
    return policy


def note_uncertified(policy: Policy) -> None:
    """Note each promise that its file calls certified and whose digest or signature does not
    fit.
    """
    for promise in policy.promises:
        if promise.fault is not None:
            note(
                f"policy {policy.name!r}: {promise.risk} is not certified: {promise.fault}; "
                "calibrate again"
            )


def policy_file(path: Path, name: str | None = None) -> Path:
    """The path of a policy, from a path to its file or to the run folder that calibrated it.

    name: of a policy that the run keeps beside its own. Any other name is ignored: the caller
    looks it up elsewhere.
    """
    run = RunFolder(path)
    if name in run.policy_names:
        run = run.named(name or "")
    if not run.policy.is_file():
        return path
    run.require_fresh("calibrate")
    return run.policy


def run_with_policy(folder: RunFolder, name: str | Path | None) -> RunFolder:
    """The run folder with the paths of one of its policies; name: None: its own. Raises
    ConfigError, listing the names, on an unknown one.
    """
    if name is None:
        return folder
    if str(name) not in folder.policy_names:
        known = folder.policy_names
        hint = (
            f"policies beside its own: {', '.join(known)}"
            if known
            else "make one: demur calibrate RUN --name NAME"
        )
        raise ConfigError(f"{folder.root} keeps no policy {str(name)!r}", hint)
    return folder.named(str(name))


def requested_overrides(
    thresholds: Sequence[str] | None, rates: Sequence[str] | None, sensitivity: str | None = None
) -> PolicyChoice:
    """Parse the flags `--threshold category=number`, `--rate category=number` and `--sensitivity
    NAME`.
    """
    return PolicyChoice(
        sensitivity=sensitivity,
        rates=dict(_number(text, "--rate") for text in rates or ()),
        thresholds=dict(_number(text, "--threshold") for text in thresholds or ()),
    )


def policy_with_overrides(
    policy: Policy, thresholds: Sequence[str] | None, rates: Sequence[str] | None
) -> Policy:
    """The policy with "category=number" overrides, as a server applies them. Raises AccessError:
    see `effective`.
    """
    return apply_overrides(policy, requested_overrides(thresholds, rates)).policy


def decision_word(policy: Policy, decision: Decision) -> str:
    """ "respond", the category refused with, "defer: category" or "undecided": what an engine would
    do.
    """
    return "undecided" if decision.doubt and on_doubt(policy) == "error" else decision.words


def doubt_note(policy: Policy, logp_NC: Floats) -> str | None:
    """A sentence on how many of these scores are doubtful; None without any."""
    doubtful = int(decide_many(policy, logp_NC).doubt_N.sum())
    if not doubtful:
        return None
    act = "an error" if on_doubt(policy) == "error" else "refused, whatever the thresholds"
    return (
        f"doubt: {doubtful} of {len(logp_NC)} put more than {policy.doubt.most_leftover:.4g} of "
        f"their probability outside the control tokens: {act}"
    )


def decision_json(policy: Policy, logp_C: Floats, decision: Decision) -> dict[str, object]:
    """A decision for programs, with calibrated probabilities. margin is null where nothing was
    compared.

    refuses: no answer follows. defers: the policy's text follows in place of one. decision:
    "undecided" where a score is doubtful and the policy makes that an error.
    """
    # what thresholds are compared with; a calibrator takes a table, here of one row
    p_C = np.exp(policy.calibrator.apply(logp_C[None, :])[0])
    probability = {name: float(p) for name, p in zip(policy.taxonomy.choices, p_C, strict=True)}
    return {
        "decision": decision_word(policy, decision),
        "refuses": decision.refuses,
        "defers": decision.outcome == "defer",
        "heaviest": decision.heaviest,
        # infinite where no threshold was compared, which JSON cannot say
        "margin": decision.margin if np.isfinite(decision.margin) else None,
        "doubt": doubt_reason(policy, logp_C) if decision.doubt else None,
        "leftover": float(leftover_of(logp_C[None, :])[0]),
        "probability": probability,
    }


def stored_stops(policy: Policy, scores: Path, ids: Sequence[str]) -> list[Stop | None] | None:
    """Where a policy's monitor stops the answers to these prompts of a score file, by the followed
    answers beside it; None for a policy without a monitor.

    Raises ConfigError without such answers, PolicyError where they were written or followed
    otherwise than the monitor's, ScoreError where another model wrote them, or none to a prompt.
    """
    from demur.store.scores.answer_peaks import answers_beside, read_answers

    if policy.monitor is None:
        return None
    path = answers_beside(scores)
    if not path.exists():
        raise unwatched(policy, f"there is no {path}")
    file = read_answers(path)
    file.require_monitor(policy.monitor)
    model = policy.fingerprint
    if model is not None and (differing := file.fingerprint.differences(model.as_scored)):
        raise ScoreError(
            f"{path} is of another model than policy {policy.name!r}: "
            f"{', '.join(differing)} differ",
            "score again with this model: demur score",
        )
    return [answer.stop(policy.monitor) for answer in file.scored(ids)]


def unwatched(policy: Policy, why: str) -> ConfigError:
    """The error of deciding under a policy with a monitor where no answer says what it stops."""
    assert policy.monitor is not None
    tokens = policy.monitor.answers.most_tokens
    return ConfigError(
        f"policy {policy.name!r} has a monitor, which may stop an answer after its first position, "
        f"and {why}",
        f"follow answers: demur score RUN --answers {tokens} (docs/score.md), then name the score "
        "file; or decide first positions alone: demur decide --first",
    )


def stop_json(policy: Policy, decision: Decision, stop: Stop | None) -> dict[str, object] | None:
    """Where the answer to a request is stopped, for programs; None where none is written, or
    nothing stops it.
    """
    if stop is None or decision.refuses or decision.outcome == "defer":
        return None
    return {"category": policy.taxonomy.choices[stop.column], "position": stop.position}


def stop_words(stop: Any) -> str:
    """A value of `stop_json` for people."""
    return "-" if stop is None else f"{stop['category']} after {stop['position']} tokens"


def _number(text: str, flag: str) -> tuple[str, float]:
    """Parse "category=number", "never" being infinity. Raises ConfigError naming the flag."""
    category, equals, value = text.partition("=")
    try:
        number = float("inf" if value.strip() == "never" else value)
    except ValueError:
        # no number: the same error as without an equals sign
        equals = ""
        number = 0.0
    if not equals:
        raise ConfigError(
            f"cannot read {flag} {text!r}", f"write {flag} category=number, e.g. {flag} safety=0.3"
        )
    return category.strip(), number
