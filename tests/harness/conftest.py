"""A small model trained by the real command line, and a few of its test rows. The harnesses live in
an environment of their own (`make test-harness`): where one is missing, its tests are skipped by
name."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = """
[run]
name = "small"
threads = 1
[data]
limits = { refusal = 180, contrast = 70, benign = 50 }
[[data.sources]]
kind = "builtin"
[train]
base = "tiny"
epochs = 8
answer_tokens = 16
tiny_width = 64
tiny_vocabulary = 1024
[evaluate]
limit = 8
max_new_tokens = 8
[report]
examples = 1
"""
ROWS = 24


@dataclass(frozen=True)
class Small:
    """A calibrated run and a file with some of its test rows."""

    run: Path
    rows: Path


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    pytest.importorskip("torch", reason="a model is trained: pip install 'demur[hf]'")
    root = tmp_path_factory.mktemp("small")
    (root / "small.toml").write_text(CONFIG, encoding="utf-8")
    run = root / "run"
    command = [sys.executable, "-m", "demur", "run", str(root / "small.toml"), "--out", str(run)]
    subprocess.run(command, check=True, timeout=600)
    lines = (run / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    kept = lines[:: max(1, len(lines) // ROWS)][:ROWS]
    (root / "rows.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return Small(run=run, rows=root / "rows.jsonl")
