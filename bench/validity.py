"""Are promises kept? 20,000 draws of calibration rows per procedure, each promise held against its
known true rate.

Usage: python bench/validity.py [--draws 20000] [--only "path"] [--scores FILE ... --rows FILE ...]
    [--into FILE [--minutes 9]]

The cases are those of tests/validity, which run 2,000 draws each. Printed per case: in how many
draws something was promised, in how many a promise was broken, the most that delta = 0.1 and the
chance of counting allow (99.9 %), and which share of the requests to be refused the promised
policies catch. Exit code 1 if a case breaks its word.

With --scores, score files as `demur score` writes them, and --rows, the same splits of the run's
data folder, the cases for real prompts are resampled from these rows instead; taxonomy "coconot".

Draws are made in pieces of PIECE with seeds of their own, all cases of one piece before the next.
--into FILE keeps a line per case and piece and makes no piece twice, so that a long run can be
ended (after --minutes, say) and taken up again; printed is what the file then holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
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
    Case,
    Population,
    Tally,
    scored,
    tally,
)
from tests.validity.test_calibrated import calibrated_promises
from tests.validity.test_judged import corrected_promises

PIECE = 1000  # draws of one seed
_SEED = 2  # of all pieces; the number of the piece stands beside it

Run = Callable[..., Tally]  # (draws, seed=) -> Tally


def simulated() -> dict[str, Run]:
    """Every case on its simulated population."""
    tables = {"one threshold": ONE_THRESHOLD, "categories": CATEGORIES, "both sides": BOTH_SIDES}
    found: dict[str, Run] = {
        f"{table}: {name}": partial(tally, case)
        for table, cases in tables.items()
        for name, case in cases.items()
    }
    judged = partial(corrected_promises, text="missed_refusal <= 0.35")
    return found | {
        "labels: by a judge, some checked by hand": corrected_promises,
        "labels: by a judge, missed refusals": judged,
        "calibrator: temperature": partial(calibrated_promises, "temperature", apart=True),
        "calibrator: isotonic": partial(calibrated_promises, "isotonic", apart=True),
    }


def resampled(rows: list[Path], scores: list[Path]) -> dict[str, Run]:
    """The cases for real prompts, on stored scores."""
    taxonomy = coconot()
    template = Policy(
        name="real", taxonomy=taxonomy, rule="heaviest", categories=(CategoryPolicy(),) * 5
    )
    parts = [
        label_scores(read_examples(own), taxonomy, read_scores(scored_rows)[0])
        for own, scored_rows in zip(rows, scores, strict=True)
    ]
    logp_NC, label_N = (
        np.concatenate(x) for x in zip(*((p.table.logp_NC, p.label_N) for p in parts), strict=True)
    )
    print(f"{len(label_N):,} scored rows, by class {np.bincount(label_N).tolist()}")

    def people(case: Case) -> Population:
        return scored(logp_NC, label_N, template, case.rounding)

    return {
        f"real prompts: {name}": partial(tally, case, people=people(case))
        for name, case in REAL.items()
    }


def pieces(cases: Mapping[str, Run], args: argparse.Namespace) -> dict[str, list[Tally]]:
    """Make the pieces that --into does not hold yet, until --minutes are over; all there are."""
    done: dict[tuple[str, int], Tally] = {}
    if args.into and args.into.exists():
        for line in args.into.read_text(encoding="utf-8").splitlines():
            kept = json.loads(line)
            key = kept.pop("case"), kept.pop("piece")
            done[key] = Tally(**kept)
    sizes = [min(PIECE, args.draws - start) for start in range(0, args.draws, PIECE)]
    end = time.monotonic() + 60 * args.minutes
    for piece, draws in enumerate(sizes):
        for name, run in cases.items():
            if (name, piece) in done or time.monotonic() > end:
                continue
            done[name, piece] = seen = run(draws, seed=(_SEED, piece))
            if args.into:
                with args.into.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"case": name, "piece": piece, **asdict(seen)}) + "\n")
    return {
        name: [seen for (own, piece), seen in done.items() if own == name and piece < len(sizes)]
        for name in cases
    }


def summed(parts: list[Tally]) -> Tally:
    """All pieces of one case as one."""
    granted = sum(part.granted for part in parts)
    caught = sum(part.caught * part.granted for part in parts) / max(granted, 1)
    draws, broken = sum(part.draws for part in parts), sum(int(part.broken) for part in parts)
    return Tally(draws, granted, broken, caught)


def main() -> None:
    """Run every case, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--only", default="", help="run the cases whose name holds this")
    parser.add_argument("--scores", type=Path, nargs="+", help="score files to resample from")
    parser.add_argument("--rows", type=Path, nargs="+", help="their splits, as data/*.jsonl")
    parser.add_argument("--into", type=Path, help="keep pieces here, and make none of it again")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no piece after these")
    args = parser.parse_args()
    if len(args.scores or ()) != len(args.rows or ()):
        parser.error("give one file of rows for each file of scores")
    cases = resampled(args.rows, args.scores) if args.scores else simulated()
    cases = {name: run for name, run in cases.items() if args.only in name}
    print(f"delta = {DELTA}")
    print(f"{'case':50} {'draws':>7} {'promised':>9} {'broken':>7} {'most':>6} {'rate':>7}  caught")
    failed = []
    for name, parts in pieces(cases, args).items():
        if not (seen := summed(parts)).draws:
            continue
        most = int(binom.ppf(0.999, seen.draws, DELTA))
        print(
            f"{name:50} {seen.draws:7,} {seen.granted:9,} {seen.broken:7,} {most:6,} "
            f"{seen.broken / seen.draws:7.4f} {seen.caught:7.1%}"
        )
        if seen.broken > most:
            failed.append(name)
    if failed:
        raise SystemExit(f"broken too often: {', '.join(failed)}")


if __name__ == "__main__":
    main()
