"""demur calibrate: scores and a goal -> a policy, with what it promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.show import note, print_json, print_table
from demur.cli.steps import Steps
from demur.cli.workspace import Workspace, reopen
from demur.core.guarantee import Promise
from demur.core.policy import Policy, Rule
from demur.store.policy_file import policy_to_json

def command(
    run: options.Run,
    goal: Annotated[
        str | None, typer.Option(help='"f1 max", "refusal_rate[safety] = 10%", "false_refusal <= 0.02", ... (config)')
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Of a promise, e.g. 0.95. (config)")] = None,
    rule: Annotated[Rule | None, typer.Option(help="How probabilities become a choice. (config)")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the policy. (config)")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Choose thresholds on the calibrate split. Calls no model; exit code 3 if no threshold meets the goal."""
    workspace = reopen(run)
    given = {"goal": goal, "confidence": confidence, "rule": rule, "name": name}
    stage = replace(workspace.config.calibrate, **{k: v for k, v in given.items() if v is not None})
    workspace = Workspace(workspace.folder, replace(workspace.config, calibrate=stage))
    policy = Steps(workspace).perform("calibrate")
    if as_json:
        print_json(policy_to_json(policy))
        return
    print_table([("category", "threshold", "refused", "false refusals", "missed"), *policy_rows(policy)])
    for promise in policy.promises:
        note(promise_line(promise))
    note(f"policy: {workspace.folder.policy}")


def policy_rows(policy: Policy) -> list[tuple[str, ...]]:
    """Per category: the threshold, and what it did on the calibration rows by the policy's own curve."""
    rows = []
    for name, category in zip(policy.taxonomy.names, policy.categories, strict=True):
        at = [p for p in category.curve if p.threshold == category.threshold]
        rates = [(r.refusal_rate, r.false_refusal, r.missed_refusal) for r in at[:1]]
        cells = [f"{rate.hits} of {rate.of}" for rate in rates[0]] if rates else ["-"] * 3
        rows.append((name, threshold_text(category.threshold), *cells))
    return rows


def threshold_text(threshold: float) -> str:
    """A threshold as people read it."""
    return "never" if threshold > 1.0 else f"{threshold:.4g}"


def promise_line(promise: Promise) -> str:
    """One sentence about a promise: whether it holds, or was only measured."""
    level = "" if promise.level is None else f" at {promise.level:g}"
    seen = "" if promise.rate is None else f", {promise.rate.hits} of {promise.rate.of} on the calibration rows"
    sure = f" with {promise.confidence:.0%} confidence" if promise.confidence is not None else ", no guarantee"
    return f"{promise.status}: {promise.risk}{level}{sure}{seen} ({promise.method})"
