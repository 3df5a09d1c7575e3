"""Are promises kept? 20,000 draws of calibration rows per procedure, each promise held against its known true rate.

Usage: python bench/validity.py [--draws 20000] [--only "path"]

The cases are those of tests/validity, which run 2,000 draws each. Printed per case: in how many draws something was
promised, in how many a promise was broken, the most that delta = 0.1 and the chance of counting allow (99.9 %), and
which share of the requests to be refused the promised policies catch. Exit code 1 if a case breaks its word.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parents[1]))  # the populations live beside the tests

from tests.validity.population import BOTH_SIDES, CATEGORIES, DELTA, ONE_THRESHOLD, tally


def main() -> None:
    """Run every case, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--only", default="", help="run the cases whose name holds this")
    args = parser.parse_args()
    tables = {"one threshold": ONE_THRESHOLD, "categories": CATEGORIES, "both sides": BOTH_SIDES}
    allowed = int(binom.ppf(0.999, args.draws, DELTA))
    print(f"{args.draws:,} draws, delta = {DELTA}: at most {allowed:,} may be broken")
    print(f"{'case':55} {'promised':>9} {'broken':>8} {'rate':>7} {'caught':>7}")
    failed = []
    for table, cases in tables.items():
        for name, case in cases.items():
            if args.only not in f"{table}: {name}":
                continue
            seen = tally(case, args.draws, seed=2)
            rate = seen.broken / seen.draws
            print(
                f"{table + ': ' + name:55} {seen.granted:9,} {seen.broken:8,} {rate:7.4f} {seen.caught:7.1%}",
                flush=True,
            )
            if seen.broken > allowed:
                failed.append(name)
    if failed:
        raise SystemExit(f"broken too often: {', '.join(failed)}")


if __name__ == "__main__":
    main()
