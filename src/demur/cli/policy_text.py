"""Policies in words for the terminal: thresholds, promises with the mix behind them, and categories
that are never refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demur.cli.terminal import note
from demur.core.goals.attempts import percent
from demur.core.goals.goal import Promise
from demur.core.midway.monitor import Monitor
from demur.core.operating_point import never_refused, never_refused_warnings, operating_point
from demur.core.policy import Policy
from demur.core.rates import mix_words, worst_words
from demur.core.threshold import NEVER
from demur.store.policies.policy_file import policy_to_json

LONGEST = 30  # entries of a list that a summary shows


def summary_json(policy: Policy, file: Path) -> dict[str, Any]:
    """The JSON value of a policy in short: rates at its threshold in place of a category's curve.

    The whole policy is in the file, whose path stands under "file". A list of more than LONGEST
    entries is replaced by their number.
    """
    value = policy_to_json(policy)
    # the point of the curve at the policy's own threshold, if it is on the curve
    for row, category in zip(value["categories"], policy.categories, strict=True):
        row.pop("curve", None)
        point = operating_point(category)
        if point is not None:
            rates = ("refusal_rate", "false_refusal", "missed_refusal")
            row["on_calibrate_rows"] = {
                n: {"hits": getattr(point, n).hits, "of": getattr(point, n).of} for n in rates
            }
    value |= {"never_refused": list(never_refused(policy)), "file": str(file)}
    return {key: _short(entry) for key, entry in value.items()}


def _short(value: Any) -> Any:
    """A JSON value in which the number of entries stands for each long list."""
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return (
            f"{len(value)} entries" if len(value) > LONGEST else [_short(entry) for entry in value]
        )
    return value


def threshold_text(threshold: float) -> str:
    """A threshold as people read it."""
    return "never" if threshold > 1.0 else f"{threshold:.4g}"


def note_policy(policy: Policy) -> None:
    """Note the monitor, each promise with its mix and worst slice, what all attempts on its rows
    leave, then warnings of categories that are never refused.
    """
    if policy.monitor is not None:
        note(monitor_line(policy.monitor, policy.taxonomy.names))
    for promise in policy.promises:
        note(promise_line(promise))
        for line in mix_lines(promise):
            note(f"  {line}")
    # promises of one attempt say the same
    for words in dict.fromkeys(p.attempts.words for p in policy.promises if p.attempts):
        if words:
            note(words)
    for words in never_refused_warnings(policy):
        note(f"warning: policy {policy.name!r} {words}")


def monitor_line(monitor: Monitor, names: Sequence[str]) -> str:
    """One sentence about a monitor: its thresholds, and the answers that it was calibrated on.

    names: of the categories, in the taxonomy's order.
    """
    unit = "" if monitor.statistic == "maximum" else " nats"
    stops = [
        f"{name} {threshold:.4g}{unit}"
        for name, threshold in zip(names, monitor.thresholds, strict=True)
        if threshold != NEVER
    ]
    return (
        f"monitor: stops an answer where the {monitor.statistic} reaches {', '.join(stops)}; on "
        f"answers of {monitor.answers.text}, {monitor.held_back} tokens held back"
    )


def mix_lines(promise: Promise) -> list[str]:
    """Lines on the mix of rows behind a promised rate, and on its worst slice. Empty for policies
    of before they were stored.
    """
    found = []
    if mix := mix_words(promise.mix):
        found.append(f"an average over this mix: {mix}")
    # without a level there is no number of rows that would do for a slice
    if promise.level is not None and (slice_ := worst_words(promise.mix, promise.level)):
        found.append(f"worst slice: {slice_}")
    return found


def promise_line(promise: Promise) -> str:
    """One sentence about a promise: whether it holds, or was only measured."""
    level = f" {promise.goal.bound}" if promise.goal.bound else ""
    seen = (
        ""
        if promise.rate is None
        else f", {promise.rate.hits} of {promise.rate.of} on the rows it was chosen on"
    )
    sure = (
        f" with {percent(promise.confidence)} confidence"
        if promise.confidence is not None
        else ", no guarantee"
    )
    fault = "" if promise.fault is None else f"; {promise.fault}"
    return f"{promise.status}: {promise.risk}{level}{sure}{seen} ({promise.method}){fault}"
