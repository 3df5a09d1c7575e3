"""Score the held-out rows by every model that bench/real_input.py has trained, as runs for `demur
bench calibration`.

Usage: python bench/score_arms.py build/real_input --out build/study
       demur bench calibration build/study
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from demur.assembly.config import config_from
from demur.assembly.run import create
from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from demur.stages import score


def main() -> None:
    """One run folder per model: its config, the rows' splits, their scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trained", type=Path, help="the --out of bench/real_input.py")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for model in sorted(args.trained.glob("*/model")):
        root = args.out / model.parent.name
        table = {"taxonomy": {"preset": "coconot"}, "data": {"sources": [{"kind": "builtin"}]}}
        workspace = create(config_from(table, str(root / "config.json"), base=root), root)
        shutil.copytree(args.trained / "rows" / "data", root / "data", dirs_exist_ok=True)
        engine = HfEngine(model=model, tokens=coconot().tokens)
        tables = score.run(score.Config(), engine, workspace.folder)
        print(
            f"{root.name}: "
            + ", ".join(f"{len(t.ids):,} {split} rows" for split, t in tables.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
