"""Are promises kept? 20,000 draws of calibration rows per procedure, each promise held against its
known true rate.

Usage: python bench/validity.py [--draws 20000] [--only "path"] [--scores FILE ... --rows FILE ...]

The cases are those of tests/validity, which run 2,000 draws each. Printed per case: in how many
draws something was promised, in how many a promise was broken, the most that delta = 0.1 and the
chance of counting allow (99.9 %), and which share of the requests to be refused the promised
policies catch. Exit code 1 if a case breaks its word.

With --scores, score files as `demur score` writes them, and --rows, the same splits of the run's
data folder, the cases for real prompts are resampled from these rows instead; taxonomy "coconot".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import binom

from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.stats.labelled import label_scores
from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores

sys.path.insert(0, str(Path(__file__).parents[1]))  # the populations live beside the tests

from tests.validity.population import (
    BOTH_SIDES,
    CATEGORIES,
    DELTA,
    ONE_THRESHOLD,
    REAL,
    Tally,
    scored,
    tally,
)
from tests.validity.test_calibrated import calibrated_promises
from tests.validity.test_judged import corrected_promises


def simulated(args: argparse.Namespace) -> Iterator[tuple[str, Tally]]:
    """Every case on its simulated population."""
    for table, cases in {
        "one threshold": ONE_THRESHOLD,
        "categories": CATEGORIES,
        "both sides": BOTH_SIDES,
    }.items():
        for name, case in cases.items():
            if args.only in f"{table}: {name}":
                yield f"{table}: {name}", tally(case, args.draws, seed=2)
    further = {
        "labels: by a judge, some checked by hand": corrected_promises,
        "labels: by a judge, missed refusals": partial(
            corrected_promises, text="missed_refusal <= 0.35"
        ),
        "calibrator: temperature": partial(calibrated_promises, "temperature", apart=True),
        "calibrator: isotonic": partial(calibrated_promises, "isotonic", apart=True),
    }
    for name, run in further.items():
        if args.only in name:
            yield name, run(args.draws)


def resampled(args: argparse.Namespace) -> Iterator[tuple[str, Tally]]:
    """The cases for real prompts, on stored scores."""
    taxonomy = coconot()
    template = Policy(
        name="real", taxonomy=taxonomy, rule="heaviest", categories=(CategoryPolicy(),) * 5
    )
    pairs = zip(args.rows, args.scores, strict=True)
    parts = [
        label_scores(read_examples(rows), taxonomy, read_scores(scores)[0])
        for rows, scores in pairs
    ]
    logp_NC, label_N = (
        np.concatenate(x) for x in zip(*((p.table.logp_NC, p.label_N) for p in parts), strict=True)
    )
    print(f"{len(label_N):,} scored rows, by class {np.bincount(label_N).tolist()}")
    for name, case in REAL.items():
        if args.only in f"real prompts: {name}":
            people = scored(logp_NC, label_N, template, case.rounding)
            yield f"real prompts: {name}", tally(case, args.draws, seed=2, people=people)


def main() -> None:
    """Run every case, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--only", default="", help="run the cases whose name holds this")
    parser.add_argument("--scores", type=Path, nargs="+", help="score files to resample from")
    parser.add_argument("--rows", type=Path, nargs="+", help="their splits, as data/*.jsonl")
    args = parser.parse_args()
    if len(args.scores or ()) != len(args.rows or ()):
        parser.error("give one file of rows for each file of scores")
    allowed = int(binom.ppf(0.999, args.draws, DELTA))
    print(f"{args.draws:,} draws, delta = {DELTA}: at most {allowed:,} may be broken")
    print(f"{'case':55} {'promised':>9} {'broken':>8} {'rate':>7} {'caught':>7}")
    failed = []
    for name, seen in (resampled if args.scores else simulated)(args):
        rate = seen.broken / seen.draws
        print(
            f"{name:55} {seen.granted:9,} {seen.broken:8,} {rate:7.4f} {seen.caught:7.1%}",
            flush=True,
        )
        if seen.broken > allowed:
            failed.append(name)
    if failed:
        raise SystemExit(f"broken too often: {', '.join(failed)}")


if __name__ == "__main__":
    main()
