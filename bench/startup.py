"""How long a start takes: `import demur`, `demur --help` and every verb, beside a bare interpreter.
Wall clock.

A verb is asked for its help: all that it needs before it looks at a run is imported by then.

python bench/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from demur.cli.main import VERBS

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import demur (target < 0.3 s)": [sys.executable, "-c", "import demur"],
    "demur --help (target <= 0.15 s)": [sys.executable, "-m", "demur", "--help"],
    # target <= 0.5 s each
    **{f"demur {verb} --help": [sys.executable, "-m", "demur", verb, "--help"] for verb in VERBS},
}


def main() -> None:
    """Time the commands in turn, so that a drifting machine hurts all alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):  # the first round warms the file cache and is dropped
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        kept = values[1:]
        print(
            f"{name:<32} median {statistics.median(kept):.3f} s, {min(kept):.3f} to {max(kept):.3f}"
        )


if __name__ == "__main__":
    main()
