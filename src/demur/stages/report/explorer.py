"""Sliders for the thresholds of the calibrated policy, over the test rows.

The page takes no decision that decide_many did not take here first:

1. Every threshold that a caller could move is set to "never", then to "always".
2. A row with the same choice both times does not depend on the sliders (an answer, a locked
   category, doubt): that choice is stored.
3. Any other row is refused with one category from some probability on, because the rule `heaviest`
   compares each row with one movable threshold. Its rank among those of its category is stored
   beside the choice below it, and the page compares whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from demur.base.arrays import Doubles, Floats, Ints
from demur.core.decision import decide_many
from demur.core.policy import Policy
from demur.core.threshold import ALWAYS, NEVER
from demur.pages.parts import Explorer, ExplorerRow, Slider
from demur.stages.report.finished_run import FinishedRun
from demur.stats.sample import evenly_spaced

MOST_ROWS = 2000  # in the page: about 1 MB of prompts
MOST_LETTERS = 600  # of a prompt


def explorer(m: FinishedRun, run_name: str) -> Explorer:
    """The test rows with the rank that decides each, and a slider for each category whose threshold
    may move.

    run_name: of the run folder, for the command. Policies of other rules than `heaviest` get no
    sliders: their rows are compared with several thresholds at once.
    """
    policy = m.calibrated.without_bands()
    shown = np.array(evenly_spaced(range(len(m.examples)), MOST_ROWS), dtype=np.int64)
    logp_NC = m.rows.table.logp_NC[shown]
    # Categories whose thresholds may move without moving another's decisions: active, and neither
    # overridden nor locked.
    movable = tuple(
        name
        for name, c in zip(policy.taxonomy.names, policy.categories, strict=True)
        if policy.rule == "heaviest" and c.active and c.override is None and not c.locked
    )
    strict_N = _chosen(policy, logp_NC, movable, NEVER)
    column_N = _chosen(policy, logp_NC, movable, ALWAYS)
    # Each row's log-probability of the category that "always" would refuse it with: the number that
    # the category's threshold is compared with.
    logq_NC = policy.calibrator.apply(logp_NC).astype(np.float64)
    logq_N = np.take_along_axis(logq_NC, column_N[:, None], axis=1)[:, 0]
    # Per slider, the distinct numbers of the rows that depend on it, rising: one position each.
    stops = {
        name: np.unique(logq_N[(column_N == policy.taxonomy.column(name)) & (strict_N != column_N)])
        for name in movable
    }
    rows = []
    for at, n in enumerate(shown.tolist()):
        column, below = int(column_N[at]), int(strict_N[at])
        # Rows whose two choices are equal depend on no slider.
        own = stops[m.evaluation.choices[column]] if column != below else np.array([])
        rows.append(
            ExplorerRow(
                prompt=m.examples[n].text[:MOST_LETTERS],
                kind=m.examples[n].kind,
                label=int(m.rows.label_N[n]),
                below=below,
                column=column,
                # The likeliest row has rank 1: position 1 refuses it alone. No stops: rank 0.
                rank=len(own) - int(np.searchsorted(own, logq_N[at])),
            )
        )
    return Explorer(
        title="Move a threshold",
        caption=_caption(len(rows), len(m.examples), bool(movable))
        + (" What the policy defers counts as answered here." if m.calibrated.defers else ""),
        choices=m.evaluation.choices,
        sliders=tuple(_slider(policy, name, stops[name]) for name in movable),
        rows=tuple(rows),
        command=f"demur chat {run_name}",
    )


def _chosen(policy: Policy, logp_NC: Floats, movable: tuple[str, ...], threshold: float) -> Ints:
    """The columns that the policy chooses with the thresholds of all `movable` categories set to
    `threshold`, without their limits.
    """
    categories = tuple(
        replace(c, threshold=threshold, limits=None) if name in movable else c
        for name, c in zip(policy.taxonomy.names, policy.categories, strict=True)
    )
    return decide_many(replace(policy, categories=categories, sensitivities=()), logp_NC).choice_N


def _slider(policy: Policy, name: str, stops: Doubles) -> Slider:
    """A slider that starts at the policy's own threshold.

    stops: the distinct log-probabilities that it decides, rising. The thresholds of its positions
    lie half-way between two neighbours, so that they can be typed without hitting a row.
    """
    # Position k refuses the k likeliest stops; the policy refuses those at or above its threshold.
    threshold = policy.category(name).threshold
    with np.errstate(divide="ignore"):
        start = int((stops >= np.log(threshold)).sum())
    falling = np.exp(stops[::-1])
    below = np.append(falling[1:], 0.0)
    return Slider(
        column=policy.taxonomy.column(name),
        start=start,
        threshold="never" if math.isinf(threshold) else f"{threshold:.4g}",
        thresholds=tuple(((falling + below) / 2).tolist()),
    )


def _caption(shown: int, of: int, movable: bool) -> str:
    rows = f"{shown:,} test prompts" if shown == of else f"{shown:,} of {of:,} test prompts"
    if not movable:
        return f"{rows}. The policy's rule compares no threshold of one category alone: no sliders."
    return (
        f"{rows}, decided again in this page whenever a slider moves: further to the right more is "
        "refused, at the left end nothing. Nothing is promised of thresholds that were moved."
    )
