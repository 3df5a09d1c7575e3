"""examples/loop.py against the real stages: the same scores, hence the same decisions at its
threshold.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores
from tests.engines.tiny_run import tiny_run

LOOP = Path(__file__).parents[2] / "examples" / "loop.py"


def test_the_loop_decides_as_the_stages_scores_say(tmp_path):
    _, folder = tiny_run(tmp_path / "run")
    command = [sys.executable, str(LOOP), str(folder.root), "--level", "0.5", "--prompt", "Please."]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    threshold = float(re.search(r"threshold ([\d.]+|inf)", done.stdout)[1])
    table, _ = read_scores(folder.scores("test"))
    examples = read_examples(folder.split("test"))
    p_N = np.exp(table.select(tuple(e.id for e in examples)).logp_NC[:, 1:].max(axis=1))
    answer_N = np.array([e.label is None for e in examples])
    # batches round differently, and the threshold is printed with 4 digits
    sure_N = np.abs(p_N - threshold) > 1e-3
    said = re.search(r"test: (\d+) of (\d+) false refusals, (\d+) of (\d+) missed", done.stdout)
    false, answerable, missed, refusable = map(int, said.groups())
    assert (answerable, refusable) == (int(answer_N.sum()), int((~answer_N).sum()))
    unsure = int((~sure_N).sum())
    assert abs(false - int((p_N >= threshold)[answer_N].sum())) <= unsure
    assert abs(missed - int((p_N < threshold)[~answer_N].sum())) <= unsure
    assert "Please. -> " in done.stdout
