"""Promises at scale: certified thresholds per category beside MAPIE's controller on its grid of 100
thresholds.

Usage: python bench/certify.py [--sizes 10000,100000,1000000] [--mapie-up-to 1000000] [--draws 12]

Speed: from scores and labels to certified thresholds, median of 5 runs, one process; then at the
largest size by "auto" (wall time and CPU time) for rows that stand alone, in groups of five, with
counts (one row in fifty stands for 2 to 50 requests), both, and with three facets (3 kinds, 8
sources, 30 tenants), whose slices get intervals of their own. Utility: at
the same promise (false_refusal <= 0.05, confidence 0.9) the share of requests to be refused that
each policy catches on 200,000 fresh rows, mean over draws, beside the false-refusal rate it then
has; the last line is the knapsack optimum on the fresh rows, which promises nothing. MAPIE comes
with the extra `test`; it is skipped by name where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from demur.core.decision import compared_scores, decide_many
from demur.core.goals.parse import parse_goals
from demur.core.policy import CategoryPolicy, Policy
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores, traits_from
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.curve import category_sweeps
from demur.stats.thresholds.sweep import most_caught
from timing import median_seconds

LEVEL, CONFIDENCE, RUNS, FRESH = 0.05, 0.9, 5, 200_000
GOALS = parse_goals(f"false_refusal <= {LEVEL}")
POLICY = Policy(
    name="bench", taxonomy=coconot(), rule="heaviest", categories=(CategoryPolicy(),) * 5
)


def simulated(n: int, seed: int) -> LabelledScores:
    """Half of the rows are to be refused; categories differ in size, in sharpness and in the scale
    of their scores.
    """
    rng = np.random.default_rng(seed)
    label_N = rng.choice(6, size=n, p=[0.5, 0.2, 0.12, 0.1, 0.05, 0.03])
    logits_NC = rng.normal(size=(n, 6)).astype(np.float32) * np.array(
        [1, 1, 1.3, 1.3, 1.6, 1.6], dtype=np.float32
    )
    logits_NC[np.arange(n), label_N] += np.array([3.5, 5.5, 4.5, 3.0, 2.5, 4.0])[label_N]
    logits_NC += np.array([0.0, 1.0, 0.0, -1.0, -1.0, 0.0], dtype=np.float32)
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    table = ScoreTable(
        ids=tuple(map(str, range(n))), logp_NC=np.minimum(logp_NC, 0).astype(np.float32)
    )
    return LabelledScores(table=table, label_N=label_N)


def ours(rows: LabelledScores, method: str, seed: int = 0) -> tuple[float, ...]:
    """Certified thresholds, one per category; NEVER for each where nothing is certified."""
    how = CertifyOptions(confidence=CONFIDENCE, method=method, seed=seed, explained=False)  # type: ignore[arg-type]
    found = certify(GOALS, POLICY, rows, how)
    return found.certified.thresholds if isinstance(found, Granted) else (NEVER,) * 5


def mapie(rows: LabelledScores) -> tuple[float, ...]:
    """The same promise by MAPIE: one threshold, fixed-sequence testing over its default grid, most
    caught.
    """
    # optional, slow to import
    from mapie.risk_control import BinaryClassificationController, recall

    p_N = np.exp(compared_scores(POLICY, rows.table.logp_NC).astype(np.float64))
    controller = BinaryClassificationController(
        predict_function=lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
        risk="fpr",
        target_level=LEVEL,
        confidence_level=CONFIDENCE,
        best_predict_param_choice=recall,
        fwer_method="fixed_sequence",
        list_predict_params=np.linspace(0.99, 0, 100),
    )
    controller.calibrate(p_N[:, None], (rows.label_N != 0).astype(int))
    best = controller.best_predict_param
    return (NEVER if best is None else float(best),) * 5


def measured(thresholds: tuple[float, ...], fresh: LabelledScores) -> tuple[float, float]:
    """(caught, false refusals) as shares of the fresh rows."""
    policy = POLICY.with_thresholds(dict(zip(POLICY.taxonomy.names, thresholds, strict=True)))
    refuses_N = decide_many(policy, fresh.table.logp_NC).refuses_N
    return float(refuses_N[fresh.label_N != 0].mean()), float(refuses_N[fresh.label_N == 0].mean())


def installed() -> str | None:
    """MAPIE's version, if it is there."""
    try:
        return importlib.metadata.version("mapie")
    except importlib.metadata.PackageNotFoundError:
        return None


def speed(sizes: list[int], mapie_up_to: int, version: str | None) -> None:
    """One line per size; seconds per row times log of rows should stay about level."""
    print(f"{'rows':>10} {'per category':>14} {'ns / (n log2 n)':>16} {'MAPIE':>10}")
    for n in sizes:
        rows = simulated(n, seed=0)
        took = median_seconds(lambda rows=rows: ours(rows, "path"), RUNS)
        other = "-"
        if version and n <= mapie_up_to:
            other = f"{median_seconds(lambda rows=rows: mapie(rows), RUNS):.3f} s"
        print(
            f"{n:10,} {took:12.3f} s {1e9 * took / (n * np.log2(n)):16.1f} {other:>10}", flush=True
        )


def linked(n: int) -> dict[str, LabelledScores]:
    """Rows by what links them: groups, counts, and facets whose slices are told apart."""
    rows, rng = simulated(n, seed=0), np.random.default_rng(3)
    group_N = rng.integers(0, n // 5, n)
    count_N = np.where(rng.random(n) < 0.02, rng.integers(2, 51, n), 1)
    ordinary_N = np.where(rng.random(n) < 0.3, "contrast", "benign")
    traits = traits_from(
        {
            "kind": np.where(rows.label_N == 0, ordinary_N, "refusal").tolist(),
            "source": [f"source {k}" for k in rng.integers(0, 8, n).tolist()],
            "tenant": [f"tenant {k}" for k in rng.integers(0, 30, n).tolist()],
        }
    )
    both = replace(rows, group_N=group_N, count_N=count_N)
    return {
        "alone": rows,
        "in groups": replace(rows, group_N=group_N),
        "with counts": replace(rows, count_N=count_N),
        "both": both,
        "alone, 41 slices": replace(rows, traits=traits),
        "both, 41 slices": replace(both, traits=traits),
    }


def speed_of_links(n: int) -> None:
    """One line per way in which rows are linked, and one for a promise to every tenant."""
    print(f"\n{f'{n:,} rows, auto':34} {'wall':>8} {'CPU':>8}")
    found = linked(n)
    cases = [(name, rows, GOALS) for name, rows in found.items()]
    every = parse_goals(f"false_refusal <= {LEVEL} in every tenant")
    cases.append(("both, in every one of 30 tenants", found["both, 41 slices"], every))
    how = CertifyOptions(confidence=CONFIDENCE, explained=False)
    for name, rows, goals in cases:
        wall, cpu = (
            median_seconds(
                lambda rows=rows, goals=goals: certify(goals, POLICY, rows, how), RUNS, clock
            )
            for clock in (time.perf_counter, time.process_time)
        )
        print(f"{name:34} {wall:6.2f} s {cpu:6.2f} s", flush=True)


def utility(draws: int, version: str | None) -> None:
    """What each way catches at the same promise."""
    fresh = simulated(FRESH, seed=10**6)
    ways: dict[str, Callable[[LabelledScores, int], tuple[float, ...]]] = {
        "per category, auto": lambda rows, seed: ours(rows, "auto", seed),
        "per category, path": lambda rows, seed: ours(rows, "path", seed),
        "per category, graphical": lambda rows, seed: ours(rows, "graphical", seed),
        "one threshold, closed form": lambda rows, seed: ours(rows, "shared", seed),
    }
    if version:
        ways["one threshold, MAPIE, 100 points"] = lambda rows, _: mapie(rows)
    print(f"\n{'way':34} {'rows':>8} {'caught':>8} {'false refusals':>15}")
    for n in (1_000, 4_000, 20_000):
        for name, way in ways.items():
            seen = np.array(
                [measured(way(simulated(n, seed), seed), fresh) for seed in range(draws)]
            ).mean(axis=0)
            print(f"{name:34} {n:8,} {seen[0]:8.2%} {seen[1]:15.2%}", flush=True)
    part = simulated(20_000, seed=10**6)
    budget = int(LEVEL * part.to_answer)
    best = most_caught(list(category_sweeps(POLICY, part).values()), budget)[1] / part.to_refuse
    print(f"{'knapsack optimum, no promise':34} {'':8} {best:8.2%} {budget / part.to_answer:15.2%}")


def main() -> None:
    """Print speed, then utility."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument(
        "--mapie-up-to", type=int, default=1_000_000, help="MAPIE holds rows x thresholds in memory"
    )
    parser.add_argument("--draws", type=int, default=12)
    args = parser.parse_args()
    version = installed()
    print(
        f"false_refusal <= {LEVEL} at {CONFIDENCE:.0%} confidence; MAPIE "
        f"{version or 'not installed: skipped'}"
    )
    speed([int(n) for n in args.sizes.split(",")], args.mapie_up_to, version)
    speed_of_links(max(int(n) for n in args.sizes.split(",")))
    utility(args.draws, version)


if __name__ == "__main__":
    main()
