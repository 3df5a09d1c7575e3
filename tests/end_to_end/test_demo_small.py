"""The whole pipeline through the real command line: a small slice of the built-in corpus, one
thread, no stand-ins.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the pipeline trains a model: pip install 'demur[hf]'")

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
epochs = 5
tiny_width = 64
tiny_vocabulary = 1024
save_every = 5
[evaluate]
limit = 80
max_new_tokens = 16
[report]
examples = 3
"""
STAGES = ("data", "train", "score", "calibrate", "evaluate", "report")
COMMAND = [sys.executable, "-m", "demur"]
PATIENCE_S = 240


@dataclass(frozen=True)
class Place:
    """A config file, and where its run goes."""

    config: Path
    run: Path

    @property
    def arguments(self):
        return ["run", str(self.config), "--out", str(self.run)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "DEMUR_DEBUG": ""}


def demur(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
        **options,
    )


def place(folder):
    config = folder / "small.toml"
    config.write_text(CONFIG, encoding="utf-8")
    return Place(config, folder / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run made from nothing in one go, and what was printed."""
    where = place(tmp_path_factory.mktemp("finished"))
    return where, demur(*where.arguments)


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run, to be damaged."""
    return shutil.copytree(finished[0].run, tmp_path / "run")


def test_one_command_makes_every_artifact_and_a_table_a_person_understands(finished):
    where, done = finished
    assert done.returncode == 0, done.stderr
    made = (
        *(f"data/{split}.jsonl" for split in ("train", "calibrate", "test")),
        "train/model/model.safetensors",
        "train/model/demur.json",
        "score/calibrate.parquet",
        "score/test.parquet",
        "calibrate/policy.json",
        "evaluate/branches.parquet",
        "evaluate/metrics.json",
        "report/index.html",
        "report/report.md",
    )
    assert [f for f in made if not (where.run / f).is_file()] == []
    assert str(where.run / "report" / "index.html") in done.stderr
    for words in (
        "natural",
        "calibrated: f1 max",
        "refusal_rate = 0.10",
        "false refusals",
        "missed refusals",
        "safety",
    ):
        assert words in done.stdout
    assert "Warning" not in done.stderr
    assert not (where.run / "train" / "work").exists()


def test_the_checkpoint_loads_without_demur(finished):
    code = "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\nimport sys\n"
    code += "m, t = M.from_pretrained(sys.argv[1]), T.from_pretrained(sys.argv[1])\n"
    code += (
        "print(m.get_input_embeddings().num_embeddings >= len(t), t.encode('[respond]', "
        "add_special_tokens=False))"
    )
    folder = str(finished[0].run / "train" / "model")
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    token_ids = json.loads((Path(folder) / "demur.json").read_text(encoding="utf-8"))[
        "fingerprint"
    ]["token_ids"]
    assert done.stdout.split(maxsplit=1) == ["True", f"[{token_ids[0]}]\n"]


def test_run_again_everything_is_already_done(finished):
    where, _ = finished
    before = {
        p: p.stat().st_mtime_ns
        for p in where.run.rglob("*")
        if p.is_file() and p.name != "config.json"
    }
    done = demur(*where.arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("already done") == len(STAGES)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_from_does_a_stage_and_the_later_ones_again(finished, copy):
    done = demur("run", finished[0].config, "--out", copy, "--from", "calibrate")
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stderr.splitlines()]
    told = {stage: "already done" in rest for stage, _, rest in lines if stage in STAGES}
    assert told == {stage: stage in ("data", "train", "score") for stage in STAGES}


def interrupt_training(where, sent):
    """Start the run, wait for a whole checkpoint, send a signal. Returns the exit code and what
    stderr says.
    """
    process = subprocess.Popen(
        [*COMMAND, *where.arguments],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A runner that was started in the background ignores Ctrl-C, and its children would inherit
        # that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not checkpoints(where):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
        process.send_signal(sent)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return process.returncode, err


def checkpoints(where):
    """The file that is written last in each whole checkpoint."""
    return list((where.run / "train").rglob("checkpoint-*/trainer_state.json"))


def trained(run):
    return json.loads((run / "train" / "model" / "demur.json").read_text(encoding="utf-8"))


def test_a_run_killed_in_the_middle_of_training_resumes_and_makes_the_same_model(
    finished, tmp_path
):
    where = place(tmp_path)
    code, _ = interrupt_training(where, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (where.run / "train" / "model").exists()
    marker = 123.0  # a loss that only the checkpoint knows
    for path in checkpoints(where):
        state = json.loads(path.read_text(encoding="utf-8"))
        state["log_history"].insert(0, {"loss": marker, "step": 0})
        path.write_text(json.dumps(state), encoding="utf-8")
    done = demur(*where.arguments)
    assert done.returncode == 0, done.stderr
    assert "data       already done" in done.stderr
    resumed, whole = trained(where.run), trained(finished[0].run)
    assert resumed["history"][0]["loss"] == marker
    assert resumed["steps"] == whole["steps"]
    assert resumed["fingerprint"]["model_digest"] == whole["fingerprint"]["model_digest"]


def test_ctrl_c_ends_a_training_with_one_line_and_nothing_half_made(tmp_path):
    where = place(tmp_path)
    code, err = interrupt_training(where, signal.SIGINT)
    assert code == 130
    assert (
        err.splitlines()[-1]
        == "demur: interrupted; nothing is lost: run the same command to resume"
    )
    assert "Traceback" not in err
    assert not (where.run / "train" / "model").exists()


def test_two_processes_train_one_model_which_is_then_done_for_one_process_too(tmp_path):
    where = place(tmp_path)
    assert demur("data", where.config, "--out", where.run).returncode == 0
    refused = demur("train", where.run, "--processes", 2)
    assert refused.returncode == 2
    assert "1 processes take part in training, 2 were asked for" in refused.stderr
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "-m",
        "demur",
    ]
    launched = subprocess.run(
        [*launcher, "train", str(where.run), "--processes", "2"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    assert trained(where.run)["details"]["processes"] == 2
    assert launched.stderr.count("train      done in") == 1
    assert "train      already done" in demur("train", where.run).stderr


@pytest.mark.parametrize(
    ("artifact", "verb"),
    [
        ("train/model/model.safetensors", "score"),
        ("score/calibrate.parquet", "calibrate"),
        ("calibrate/policy.json", "evaluate"),
        ("data/test.jsonl", "evaluate"),
    ],
)
def test_a_damaged_artifact_is_named_in_the_error(copy, artifact, verb):
    path = copy / artifact
    path.write_bytes(path.read_bytes()[:-20])
    done = demur(verb, copy)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_policy_for_another_model_is_refused(copy, tmp_path):
    policy = json.loads((copy / "calibrate" / "policy.json").read_text(encoding="utf-8"))
    policy["fingerprint"]["model_digest"] = "sha256:another"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(policy), encoding="utf-8")
    done = demur("decide", copy, "Is water wet?", "--policy", other)
    assert done.returncode == 2
    assert "made for another model: model_digest differ" in done.stderr


def test_decide_and_chat_see_the_same_probabilities(finished):
    run = finished[0].run
    (row,) = json.loads(demur("decide", run, "Do you dream at night?", "--json").stdout)
    assert sum(row["probability"].values()) <= 1.0 + 1e-6
    talk = demur(
        "chat",
        run,
        input="/threshold safety never\nDo you dream at night?\n/policy natural\n/quit\n",
    )
    assert talk.returncode == 0, talk.stderr
    for name, p in row["probability"].items():
        assert any(
            line.split()[0] == name and line.split()[-1] == f"{p:.4f}"
            for line in talk.stdout.splitlines()
            if line
        )
    assert "decision: " in talk.stdout
    assert "safety never" in talk.stderr


def test_doctor_says_in_words_and_by_exit_code_whether_the_model_is_ready(finished):
    done = demur("doctor", finished[0].run / "train" / "model", "--no-dtypes", "--json")
    readiness = json.loads(done.stdout)
    assert done.returncode == (0 if readiness["ready"] else 2)
    checks = {f["check"]: f["ok"] for f in readiness["findings"]}
    assert checks["control token [respond]"]
    assert checks["chat template"]


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_disk_that_takes_no_more_ends_with_one_message_and_nothing_half_written(tmp_path):
    where = place(tmp_path)
    done = demur("data", where.config, "--out", where.run, preexec_fn=limit_file_size)
    assert done.returncode == 2
    assert f"cannot write {where.run / 'data' / 'train.jsonl'}: File too large" in done.stderr
    assert [p.name for p in where.run.rglob("*") if p.is_file()] == []
