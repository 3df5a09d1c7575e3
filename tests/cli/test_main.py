import os
import re
import subprocess
import sys

import pytest
from rich.markup import render
from typer.core import TyperOption

from demur.cli.main import GROUPS, OLD_NAMES, VERBS, load

# A flag that comes or goes is a decision: change this list with it. No verb has more than eight.
FLAGS = {
    "demo": ["--out", "--set"],
    "run": ["--data", "--out", "--from", "--set"],
    "init": ["--out", "--json"],
    "data": ["--data", "--out", "--set", "--again", "--json"],
    "train": ["--processes", "--seen"],
    "score": ["--rewrite", "--answers", "--temperature", "--prompts", "--out", "--policy"],
    "distil": ["--traffic", "--scores", "--bound", "--policy", "--json"],
    "plan-labels": [
        "--goal",
        "--have",
        "--confidence",
        "--method",
        "--on-failure",
        "--share",
        "--success",
        "--json",
    ],
    "calibrate": [
        "--goal",
        "--confidence",
        "--name",
        "--on-failure",
        "--calibrator",
        "--spend",
        "--set",
        "--json",
    ],
    "evaluate": [
        "--branches",
        "--also",
        "--limit",
        "--labels",
        "--judge",
        "--settings",
        "--policy",
        "--json",
    ],
    "report": ["--policy"],
    "decide": [
        "--policy",
        "--scores",
        "--prompts",
        "--lines",
        "--threshold",
        "--rate",
        "--first",
        "--json",
    ],
    "chat": ["--threshold", "--rate", "--policy", "--alone"],
    "serve": ["--config", "--policies", "--tenants", "--backend", "--url", "--host", "--port"],
    "explain": [
        "--tenant",
        "--policy",
        "--sensitivity",
        "--rate",
        "--threshold",
        "--row",
        "--json",
    ],
    "diff": ["--scores", "--prompts", "--json"],
    "sign": ["--key", "--new-key", "--out", "--json"],
    "verify": ["--trusted", "--json"],
    "keys": ["--label", "--days", "--json"],
    "judge read": ["--judge", "--out", "--category", "--settings", "--set", "--json"],
    "judge check": [
        "--judge",
        "--judged",
        "--category",
        "--settings",
        "--set",
        "--view",
        "--by",
        "--json",
    ],
    "judge train": ["--out", "--recipe", "--model", "--json"],
    "judge draw": ["--out", "--labels", "--seed", "--json"],
    "blackbox": ["--url", "--model", "--out", "--judge", "--hand", "--most-calls", "--set"],
    "attack": [
        "--attack",
        "--policy",
        "--judge",
        "--settings",
        "--limit",
        "--out",
        "--keep-texts",
        "--json",
    ],
    "audit": [
        "--goal",
        "--scores",
        "--out",
        "--labels",
        "--batch",
        "--confidence",
        "--policy",
        "--json",
    ],
    "watch": ["--scores", "--feedback", "--state", "--policy", "--in-order", "--reset", "--json"],
    "bench calibration": ["--out", "--calibrator", "--by", "--json"],
    "bench refusals": [
        "--benchmark",
        "--policy",
        "--judge",
        "--settings",
        "--limit",
        "--out",
        "--card",
        "--json",
    ],
    "bench temporal": [
        "--cutoff",
        "--url",
        "--model",
        "--margin",
        "--most-calls",
        "--out",
        "--set",
        "--json",
    ],
    "bench ability": ["--margin", "--confidence", "--metric", "--card", "--card-dataset", "--json"],
    "doctor": ["--taxonomy", "--dtypes", "--recipe", "--rows", "--json"],
}


def flags(verb):
    own = [p for p in load(verb).params if isinstance(p, TyperOption) and p.name != "help"]
    return [p.opts[0] for p in own]


def test_the_list_of_flags_is_the_one_agreed_on():
    assert {verb: flags(verb) for verb in VERBS} == FLAGS
    assert max(map(len, FLAGS.values())) <= 8


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(demur, verb):
    result = demur(verb, "--help")
    assert result.code == 0
    assert f"demur {verb}" in " ".join(result.out.split("Example:")[1].split())


def test_what_stands_in_brackets_is_shown():
    for param in [
        p for verb in VERBS for p in load(verb).params if "[" in (getattr(p, "help", "") or "")
    ]:
        assert render(param.help).plain.count("[") == param.help.count("[") > 0


def test_help_lists_every_verb_without_importing_one():
    code = "import sys\nsys.argv = ['demur', '--help']\nfrom demur.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *page, modules = done.stdout.splitlines()
    assert [v for v in VERBS if not re.search(rf"\b{v.split()[0]}\b", "\n".join(page))] == []
    loaded = set(modules.split())
    assert not loaded & {
        "torch",
        "sklearn",
        "plotly",
        "pyarrow",
        "pydantic",
        "numpy",
        "rich.markdown",
    }
    assert not {f"demur.cli.{v.module}" for v in VERBS.values()} & loaded


def test_no_verb_at_all_shows_the_help(demur):
    result = demur()
    assert result.code == 0
    assert "calibrate" in result.out


def test_the_version_is_printed(demur):
    assert demur("--version").out.startswith("demur ")


def test_a_misspelt_verb_is_the_callers_mistake_and_gets_a_suggestion(demur):
    result = demur("calibrte", "runs/a")
    assert result.code == 2
    assert "calibrate" in result.err
    assert result.out == ""


@pytest.mark.parametrize(("old", "new"), list(OLD_NAMES.items()))
def test_a_name_of_before_there_were_groups_answers_with_the_new_one(demur, old, new):
    before, now = demur(old, "--help"), demur(*new.split(), "--help")
    assert (before.code, before.out) == (now.code, now.out) == (0, now.out)
    assert f"called `demur {new}` now" in before.err
    assert now.err == ""


def test_judge_with_a_file_reads_it(demur, tmp_path):
    result = demur("judge", tmp_path / "none.jsonl")
    assert result.code == 2
    assert "called `demur judge read` now" in result.err
    assert "none.jsonl does not exist" in result.err


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_shows_its_commands_and_names_the_nearest(demur, group):
    shown = demur(group, "--help")
    assert shown.code == 0
    verbs = [v.partition(" ")[2] for v in VERBS if v.startswith(f"{group} ")]
    assert all(re.search(rf"^  {verb} ", shown.out, re.MULTILINE) for verb in verbs)
    assert demur(group).code == 2


def test_a_misspelt_verb_of_a_group_gets_a_suggestion(demur):
    result = demur("bench", "refusal")
    assert result.code == 2
    assert "did you mean 'refusals'" in result.err


def test_the_help_fits_one_screen(demur):
    assert len(demur("--help").out.splitlines()) <= 50


def test_an_unknown_flag_is_the_callers_mistake(demur):
    assert demur("report", "runs/a", "--colour").code == 2


def test_a_user_error_has_a_message_and_a_hint_and_no_traceback(demur, tmp_path):
    result = demur("report", tmp_path)
    assert result.code == 2
    assert str(tmp_path) in result.err
    assert "hint: make one: demur run" in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def fails_with(monkeypatch, error):
    """Put a fault into a verb."""

    def command():
        raise error

    monkeypatch.setattr("demur.cli.stages.report.command", command)


def test_a_bug_of_ours_is_one_line_unless_debugging(demur, monkeypatch):
    fails_with(monkeypatch, RuntimeError("the wheel came off"))
    result = demur("report")
    assert result.code == 1
    assert "internal error: RuntimeError: the wheel came off" in result.err
    assert "Traceback" not in result.err
    assert "Traceback" in demur("--debug", "report").err
    monkeypatch.setenv("DEMUR_DEBUG", "1")
    assert "Traceback" in demur("report").err


def test_ctrl_c_says_how_to_go_on(demur, monkeypatch):
    fails_with(monkeypatch, KeyboardInterrupt())
    result = demur("report")
    assert result.code == 130
    assert "run the same command to resume" in result.err
    assert "Traceback" not in result.err


def test_a_refusal_of_the_operating_system_names_the_file(demur, monkeypatch):
    fails_with(monkeypatch, OSError(28, "No space left on device", "runs/a/train/model.partial"))
    result = demur("report")
    assert result.code == 2
    assert "runs/a/train/model.partial: No space left on device" in result.err


def test_shells_complete_verbs_and_flags(monkeypatch):
    def completed(words):
        command = [sys.executable, "-m", "demur"]
        asked = {
            "_DEMUR_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run(
            command, env={**os.environ, **asked}, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert completed("demur eva") == ["evaluate"]
    assert completed("demur calibrate --go") == ["--goal"]
