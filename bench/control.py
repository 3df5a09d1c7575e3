"""What the thresholds of a finished run control, on its held-out rows. No model is called.

    python bench/control.py RUN          # a folder made by `demur demo` or `demur run`

Prints: rows of other categories that change when one category's threshold sweeps its whole range
(must be 0); target refusal rates chosen on the calibrate split and met on the test split; leftover
mass; whether texts keep the token's word.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import fisher_exact

from demur.base.arrays import Floats
from demur.base.errors import GoalInfeasible
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.cuts import cut_below
from demur.stats.thresholds.solve import solve
from demur.store.policies.policy_file import read_policy
from demur.store.results.metrics_file import read_metrics
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

TARGETS = (0.02, 0.05, 0.10, 0.20, 0.30)


def other_rows_changed(policy: Policy, logp_NC: Floats) -> dict[str, tuple[int, int]]:
    """Per category: (thresholds tried, rows whose decision changed although another category was
    heaviest).
    """
    start = decide_many(policy, logp_NC)
    changed = {}
    for column, name in enumerate(policy.taxonomy.names, start=1):
        cuts = [0.0, math.inf, *(cut_below(q) for q in np.unique(logp_NC[:, column]))]
        others_N = start.heaviest_N != column
        rows = np.zeros(len(logp_NC), dtype=bool)
        for cut in cuts:
            moved = decide_many(policy.with_thresholds({name: cut}), logp_NC)
            rows |= others_N & (moved.choice_N != start.choice_N)
        changed[name] = (len(cuts), int(rows.sum()))
    return changed


def print_targets(policy: Policy, calibrate: LabelledScores, test: LabelledScores) -> None:
    """Target rates in total and per category: asked, on the calibrate rows, on the test rows with
    its interval.
    """
    inside = alike = tried = 0
    for scope in ("", *(f"[{n}]" for n in policy.taxonomy.names)):
        for level in TARGETS:
            try:
                goal = parse_goal(f"refusal_rate{scope} = {level}")
                chosen = solve(
                    [goal],
                    policy,
                    calibrate,
                    CertifyOptions(confidence=0.95, method="shared"),
                    data_digest="",
                )
            except GoalInfeasible:
                print(
                    f"  refusal_rate{scope:<16} = {level:.2f}   cannot be met: ties or too few rows"
                )
                continue
            rates = []
            for rows in (calibrate, test):
                choice_N = decide_many(chosen, rows.table.logp_NC).choice_N
                column = policy.taxonomy.column(scope.strip("[]") or None)
                hits = int((choice_N == column).sum() if column else (choice_N > 0).sum())
                rates.append(Rate(hits=hits, of=len(choice_N)))
            if rates[0].value < 0.9 * level:
                print(
                    f"  refusal_rate{scope:<16} = {level:.2f}   out of reach: heaviest on "
                    f"{rates[0].value:.3f}"
                )
                continue
            low, high = rates[1].interval()
            table = [[r.hits, r.of - r.hits] for r in rates]
            tried, inside = tried + 1, inside + (low <= level <= high)
            alike += bool(fisher_exact(table).pvalue >= 0.05)
            print(
                f"  refusal_rate{scope:<16} = {level:.2f}   calibrate {rates[0].value:.3f}   test "
                f"{rates[1].value:.3f} ({low:.3f} to {high:.3f})"
            )
    print(
        "  target inside the 95% interval of the test rate, as if the threshold were given: "
        f"{inside} of {tried}"
    )
    print(
        "  calibrate and test rate alike at 95% (Fisher), which counts the sampling of both: "
        f"{alike} of {tried}"
    )


def main() -> None:
    """Print everything for one run folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    folder = RunFolder(parser.parse_args().run)
    policy = replace(read_policy(folder.policy), promises=())
    rows = {}
    for split in ("calibrate", "test"):
        table, _ = read_scores(folder.scores(split))
        rows[split] = label_scores(read_examples(folder.split(split)), policy.taxonomy, table)
    print("one category's threshold over its whole range, rows of other categories that change:")
    for name, (cuts, changed) in other_rows_changed(policy, rows["test"].table.logp_NC).items():
        print(f"  {name:<16} {cuts:>5} thresholds   {changed} rows")
    print("target rates:")
    print_targets(policy, rows["calibrate"], rows["test"])
    print(
        f"mean leftover mass on test rows: {rows['test'].table.leftover_N.mean():.4f} (target < "
        "0.02)"
    )
    print("texts, by the control token forced before them, as judged:")
    for token, verdicts in read_metrics(folder.metrics).branches.items():
        print(
            f"  {token:<16} {verdicts.refusal} refuse, {verdicts.compliance} answer, "
            f"{verdicts.partial} partly"
        )


if __name__ == "__main__":
    main()
