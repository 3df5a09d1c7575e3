"""All 102 calibration measurements of one model in one call, beside computing each measurement
afresh.

Usage: python bench/calibration_metrics.py [--rows 100000] [--runs 5]

The baselines compute the 90 binned errors: "loop over cells" masks the rows of each cell, as
published evaluators do; "bin and count" bins all rows again for each measurement, without a loop.
The other 12 measurements are in our time and not in theirs; MMCE's published form takes N^2 kernel
values and is timed alone, on fewer rows. Medians; CPU seconds of one process. Values must agree to
1e-12.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from demur.stats.calibration.metrics import BINS, COLUMNS, Column, benchmark
from demur.stats.calibration.smooth import mmce
from demur.stats.calibration.views import forecast, top_label
from demur.stats.measure import Statistic
from timing import median_seconds

COLUMNS_OF_SCORES = 6
QUADRATIC_ROWS = 3000
cpu_seconds = partial(median_seconds, clock=time.process_time)
LOOP_RUNS = 1  # one is enough: it takes many seconds

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def simulated(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overconfident log-probabilities, calibrated ones, and labels drawn from the latter."""
    rng = np.random.default_rng(0)
    logits_NC = rng.normal(size=(rows, COLUMNS_OF_SCORES)) * 2
    raw_NC, true_NC = (
        x - np.logaddexp.reduce(x, axis=1)[:, None] for x in (1.5 * logits_NC, logits_NC)
    )
    label_N = (np.exp(true_NC).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return raw_NC, true_NC, label_N


def by_loop(p_N: np.ndarray, event_N: np.ndarray, cell_N: np.ndarray, bins: int) -> np.ndarray:
    """(l1, max) of a binned error: one mask per cell."""
    l1, most = 0.0, 0.0
    for b in range(bins):
        inside = cell_N == b
        if inside.any():
            gap = abs(p_N[inside].mean() - event_N[inside].mean())
            l1 += gap * inside.mean()
            most = max(most, gap)
    return np.array([l1, most])


def by_count(p_N: np.ndarray, event_N: np.ndarray, cell_N: np.ndarray, bins: int) -> np.ndarray:
    """(l1, max) of a binned error: counts per cell."""
    n_B, excess_B = np.bincount(cell_N, minlength=bins), np.bincount(cell_N, p_N - event_N, bins)
    return np.array(
        [np.abs(excess_B).sum() / len(p_N), (np.abs(excess_B) / np.maximum(n_B, 1)).max()]
    )


def width_cells(p_N: np.ndarray, bins: int) -> np.ndarray:
    """Cells (j/B, (j+1)/B]."""
    return np.digitize(p_N, np.arange(1, bins) / bins, right=True)


def mass_cells(p_N: np.ndarray, bins: int) -> np.ndarray:
    """Cells of equal numbers of rows."""
    cell_N = np.empty(len(p_N), dtype=np.int64)
    cell_N[np.argsort(p_N, kind="stable")] = np.arange(len(p_N)) * bins // len(p_N)
    return cell_N


def afresh(logp_NC: np.ndarray, label_N: np.ndarray, measure: Measure) -> Iterator[float]:
    """The 45 binned errors of one forecast, each from its probabilities, in the order of
    COLUMNS.
    """
    p_NC = np.exp(logp_NC)
    top_N = p_NC.argmax(axis=1)
    top = (p_NC.max(axis=1), (top_N == label_N).astype(float))
    classes = [(p_NC[:, c], (label_N == c).astype(float)) for c in range(p_NC.shape[1])]
    for views, cells, norm in (
        ([top], width_cells, 0),
        ([top], mass_cells, 0),
        ([top], width_cells, 1),
        (classes, width_cells, 0),
        (classes, mass_cells, 0),
    ):
        for bins in BINS:
            yield float(
                np.mean([measure(p, event, cells(p, bins), bins)[norm] for p, event in views])
            )


def quadratic_mmce(p_N: np.ndarray, event_N: np.ndarray) -> float:
    """MMCE as published: all pairs."""
    r_N = event_N - p_N
    return float(
        np.sqrt(max(r_N @ np.exp(-np.abs(p_N[:, None] - p_N) / 0.4) @ r_N, 0.0)) / len(p_N)
    )


def by_netcal(raw_NC: np.ndarray, true_NC: np.ndarray, label_N: np.ndarray) -> list[float]:
    """ECE and MCE of the top label at every number of bins, before and after, as netcal has them:
    36 of the 102.
    """
    from netcal.metrics import ECE, MCE  # of the extra `test`, slow to import

    found = []
    for logp_NC in (raw_NC, true_NC):
        p_N, event_N = (
            np.exp(logp_NC.max(axis=1)),
            (logp_NC.argmax(axis=1) == label_N).astype(float),
        )
        found += [float(kind(bins).measure(p_N, event_N)) for kind in (ECE, MCE) for bins in BINS]
    return found


def ours_of(figures: dict[Column, Statistic]) -> list[float]:
    """The same 18 of one forecast."""
    return [
        figures[Column(family=family, bins=bins)].value
        for family in ("ece", "mce")
        for bins in BINS
    ]


def main() -> None:
    """Check that all agree, time them, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    raw_NC, true_NC, label_N = simulated(args.rows)
    found = benchmark(raw_NC, true_NC, label_N)
    ours = [
        figures[c].value
        for figures in (found.raw, found.calibrated)
        for c in COLUMNS
        if c.bins is not None
    ]

    def baseline(measure: Measure) -> list[float]:
        return [
            value for logp_NC in (raw_NC, true_NC) for value in afresh(logp_NC, label_N, measure)
        ]

    if np.abs(np.subtract(ours, baseline(by_count))).max() > 1e-12:
        raise SystemExit("the one call and the measurements made afresh disagree")
    if (
        np.abs(
            np.subtract(
                ours_of(found.raw) + ours_of(found.calibrated), by_netcal(raw_NC, true_NC, label_N)
            )
        ).max()
        > 1e-9
    ):
        raise SystemExit("netcal and the one call disagree")
    seconds = cpu_seconds(lambda: benchmark(raw_NC, true_NC, label_N), args.runs)
    print(
        f"{args.rows:,} rows x {COLUMNS_OF_SCORES} control tokens, CPU seconds, median of "
        f"{args.runs} runs"
    )
    print(f"  one call, {len(found)} measurements       {seconds:8.3f} s")
    for name, measure, runs in (
        ("bin and count", by_count, args.runs),
        ("loop over cells", by_loop, LOOP_RUNS),
    ):
        theirs = cpu_seconds(lambda m=measure: baseline(m), runs)  # type: ignore[misc]
        print(f"  {name + ', 90 binned':34s}{theirs:8.3f} s   {theirs / seconds:6.1f} x")
    netcal = cpu_seconds(lambda: by_netcal(raw_NC, true_NC, label_N), args.runs)
    print(f"  {'netcal, ECE and MCE, 36':34s}{netcal:8.3f} s   {netcal / seconds:6.1f} x")
    top = top_label(forecast(raw_NC[:QUADRATIC_ROWS], label_N[:QUADRATIC_ROWS]))
    if abs(mmce(top) - quadratic_mmce(top.p_N, top.event_N)) > 1e-12:
        raise SystemExit("MMCE by prefix sums and over all pairs disagree")
    linear = cpu_seconds(lambda: [mmce(top) for _ in range(100)], args.runs) / 100
    quadratic = cpu_seconds(lambda: quadratic_mmce(top.p_N, top.event_N), args.runs)
    print(f"  MMCE, {QUADRATIC_ROWS:,} rows: prefix sums   {linear:10.5f} s")
    print(
        f"  MMCE, {QUADRATIC_ROWS:,} rows: all pairs     {quadratic:10.5f} s   "
        f"{quadratic / linear:6.0f} x"
    )


if __name__ == "__main__":
    main()
