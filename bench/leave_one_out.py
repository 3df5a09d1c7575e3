"""How well a decision learnt on all other sources holds on a source that nobody learnt from.

    python bench/leave_one_out.py --data DIR --out build/leave_one_out
    python bench/leave_one_out.py --data DIR --out build/one_out --arms tf-idf probe --rows 4000

DIR holds JSONL files in the row format of docs/data.md. Each file is left out once: an arm learns
from at most --rows training rows of the other files, drawn by the seed, and is measured on the
left-out file's rows of all splits. A file whose rows all should be refused, or all answered, is
measured together with the test rows of the other kind from the other files; at most --measured rows
are measured, the same for all arms and seeds. Beside it stands the same arm on the test rows of the
files that it learnt from. Intervals: 1,000 bootstrap samples of the measured rows. Finished (arm,
file, seed) are kept in --out and not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from demur.core.example import Example
from demur.sources.files import FileSource
from real_input import ARMS, FILES, split_rows

Row = dict[str, float]
# to learn from, left out, known
Rows = tuple[Sequence[Example], Sequence[Example], Sequence[Example]]


def sources_of(data: Path) -> dict[str, set[str]]:
    """The sources that each file holds."""
    return {
        f: {e.source for e in FileSource(folder=data, files=(f"{f}.jsonl",)).read()} for f in FILES
    }


def left_out(rows: Sequence[Example], test: Sequence[Example], sources: set[str]) -> list[Example]:
    """The rows of these sources, and test rows of the others where these hold one kind only."""
    held = [e for e in rows if e.source in sources]
    kinds = {e.expected for e in held}
    if len(kinds) > 1:
        return held
    return held + [e for e in test if e.source not in sources and e.expected not in kinds]


def drawn(rows: Sequence[Example], most: int, seed: int = 0) -> list[Example]:
    """At most so many of the rows, by the seed."""
    return random.Random(seed).sample(list(rows), min(most, len(rows)))


def interval(should_N: np.ndarray, refusal_N: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the AUROC."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        drawn_N = rng.integers(len(should_N), size=len(should_N))
        if 0 < should_N[drawn_N].sum() < len(should_N):
            found.append(roc_auc_score(should_N[drawn_N], refusal_N[drawn_N]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def measured(
    arm: str,
    rows: tuple[Sequence[Example], Sequence[Example], Sequence[Example]],
    seed: int,
    out: Path,
) -> Row:
    """The AUROC on the left-out rows with its interval, and on the test rows of the learnt
    sources.
    """
    train, held, known = rows
    decided = ARMS[arm](train, [*held, *known], seed, out)
    should_N = np.array([e.expected == "refuse" for e in (*held, *known)])
    here, there = slice(len(held)), slice(len(held), None)
    low, high = interval(should_N[here], decided.refusal_N[here])
    return {
        "auroc": float(roc_auc_score(should_N[here], decided.refusal_N[here])),
        "low": low,
        "high": high,
        "known": float(roc_auc_score(should_N[there], decided.refusal_N[there])),
        "rows": len(held),
        "cpu_s": decided.extra["cpu_s"],
    }


def show(found: dict[tuple[str, str], list[Row]], files: Sequence[str]) -> None:
    """A line for each file and arm, then the means over files."""
    print(
        f"{'left out':<22}{'arm':<14}{'rows':>6}{'AUROC (mean over seeds)':>26}"
        f"{'95 %':>16}{'known':>8}{'CPU-s':>8}"
    )
    arms = list(dict.fromkeys(arm for arm, _ in found))
    for file in files:
        for arm in arms:
            rows = found[arm, file]
            mean = {k: statistics.mean(r[k] for r in rows) for k in rows[0]}
            span = f"{mean['low']:.3f}-{mean['high']:.3f}"
            print(
                f"{file:<22}{arm:<14}{mean['rows']:>6.0f}{mean['auroc']:>26.4f}{span:>16}"
                f"{mean['known']:>8.4f}{mean['cpu_s']:>8.0f}"
            )
    for arm in arms:
        per_seed = zip(*(found[arm, file] for file in files), strict=True)
        means = [statistics.mean(r["auroc"] for r in rows) for rows in per_seed]
        known = statistics.mean(r["known"] for file in files for r in found[arm, file])
        print(
            f"mean, {arm:<14} {statistics.mean(means):.4f} ({min(means):.4f}-{max(means):.4f}), "
            f"known {known:.4f}"
        )


def main() -> None:
    """Leave out each file, run the arms that are asked for, print all that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["tf-idf", "tiny", "encoder", "probe", "pretrained"],
        choices=ARMS,
    )
    parser.add_argument("--files", nargs="+", default=list(FILES), choices=FILES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--measured", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, test = split_rows(args)
    sources = sources_of(args.data)
    found: dict[tuple[str, str], list[Row]] = {}
    for arm in args.arms:
        for file in args.files:
            for seed in args.seeds if arm != "tf-idf" else args.seeds[:1]:
                kept = args.out / f"{arm}-without-{file}-{seed}-{args.rows}-{args.measured}.json"
                if not kept.exists():
                    others = [e for e in train if e.source not in sources[file]]
                    learnt = drawn(others, args.rows, seed)
                    held = drawn(left_out([*train, *test], test, sources[file]), args.measured)
                    # Where the file holds one kind only, test rows of the other stand in `held`.
                    taken = {e.id for e in held}
                    rest = [e for e in test if e.source not in sources[file] and e.id not in taken]
                    known = drawn(rest, args.measured)
                    row = measured(arm, (learnt, held, known), seed, args.out / kept.stem)
                    kept.write_text(json.dumps(row), encoding="utf-8")
                found.setdefault((arm, file), []).append(
                    json.loads(kept.read_text(encoding="utf-8"))
                )
                print(f"done: {arm} without {file}, seed {seed}", flush=True)
    show(found, args.files)


if __name__ == "__main__":
    main()
