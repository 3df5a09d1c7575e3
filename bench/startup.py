"""How long the door takes: `import demur` and `demur --help`, beside a bare interpreter. Whole processes, wall clock.

python bench/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import demur (target < 0.3 s)": [sys.executable, "-c", "import demur"],
    "demur --help (target < 0.5 s)": [sys.executable, "-m", "demur", "--help"],
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
        print(f"{name:<32} median {statistics.median(kept):.3f} s, {min(kept):.3f} to {max(kept):.3f}")


if __name__ == "__main__":
    main()
