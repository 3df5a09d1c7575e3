"""What a training is estimated to hold in memory, beside what it held: each way in a process of its
own (Linux only).

    python bench/training_memory.py [--rows 600] [--way full]

Rows of the built-in corpus. "estimate" is what demur says before it loads anything; "measured" is
the growth of the process's own memory (RssAnon, sampled 50 times a second) from just before the
model is loaded to the peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from demur.core.taxonomy import coconot
from demur.core.training.settings import TrainSettings, cpu, tiny
from demur.sources.corpus import BuiltinSource

_FULL = replace(cpu(), recipe="none", frozen_share=0.0, control_start="words", answer_tokens=16)
WAYS: dict[str, TrainSettings] = {
    "tiny": tiny(epochs=0.2),
    "recipe cpu": cpu(),
    "full": _FULL,
    "full, 4,096 tokens a batch": replace(_FULL, batch_tokens=4096),
    "full, own template, checkpointed": replace(
        _FULL, chat_template=None, gradient_checkpointing=True
    ),
    "full, float32 arithmetic": replace(_FULL, autocast="no"),
    "LoRA, rank 16": replace(_FULL, lora_rank=16),
}


def own_memory() -> float:
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024.0 * int(status.partition("RssAnon:")[2].split()[0])


def measure(way: str, count: int) -> None:
    """Train on `count` rows in this process and print the estimate and the peak as one line of
    JSON.
    """
    from demur.engines.training import sft
    from demur.engines.training.resources import memory

    said: dict[str, Any] = {}

    reckon = memory.memory_needed

    def note(case: memory.PlannedTraining) -> memory.MemoryNeed:
        need = reckon(case)
        said.update(estimate=need.total, parts=need.text, before=own_memory())
        return need

    memory.memory_needed = note
    peak = [0.0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], own_memory())
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    every = [e for e in BuiltinSource().read() if e.kind is not None]
    rows = every[:: max(1, len(every) // count)][:count]
    with tempfile.TemporaryDirectory() as folder:
        sft.SftTrainer(WAYS[way]).train(rows, coconot(), Path(folder))
    print(json.dumps({**said, "measured": peak[0] - said["before"]}))


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        measure(given.way, given.rows)
        return
    print(
        "| way | estimate, GB | measured, GB | estimate / measured | parts |\n|---|---|---|---|---|"
    )
    for way in [given.way] if given.way else WAYS:
        command = [sys.executable, __file__, "--here", "--way", way, "--rows", str(given.rows)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        estimate, measured = found["estimate"] / 1e9, found["measured"] / 1e9
        parts = found["parts"].partition("(")[2].rstrip(")")
        print(
            f"| {way} | {estimate:.2f} | {measured:.2f} | {estimate / measured:.2f} | {parts} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
