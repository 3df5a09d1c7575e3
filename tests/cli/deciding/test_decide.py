"""Where the prompts of `demur decide` come from: arguments, standard input, rows of any format."""

import io
import json
import subprocess
import sys

import pytest

from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder
from tests.predictor_run import ANSWERED, DECLINED, predictor_run


def decisions(result):
    return [row["decision"] for row in json.loads(result.out)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of engine "prompts"; tests must not change it."""
    return predictor_run(tmp_path_factory.mktemp("runs") / "big")[0].root


@pytest.fixture
def typed(monkeypatch):
    """Put a text on standard input."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def decided(result):
    assert result.code == 0, result.err
    return json.loads(result.out)


PART = {"type": "text", "text": ANSWERED}


def test_decisions_show_calibrated_probabilities(demur, run):
    folder = RunFolder(run)
    demur("calibrate", run, "--calibrator", "platt")
    rows = json.loads(demur("decide", run, "--scores", folder.scores("test"), "--json").out)
    policy = read_policy(folder.policy)
    for row in rows:
        assert sum(row["probability"].values()) == pytest.approx(1.0, abs=1e-5)
        threshold = policy.category(row["heaviest"]).threshold
        assert row["refuses"] == (row["probability"][row["heaviest"]] >= threshold)


def test_decide_reads_scores_without_a_model_and_agrees_with_the_policy(demur, made_run):
    folder = RunFolder(made_run)
    result = demur("decide", "--policy", folder.policy, "--scores", folder.scores("test"), "--json")
    rows = json.loads(result.out)
    assert result.code == 0
    policy = read_policy(folder.policy)
    for row in rows:
        thresholds = {
            n: c.threshold for n, c in zip(policy.taxonomy.names, policy.categories, strict=True)
        }
        assert row["refuses"] == (row["decision"] != "respond")
        assert row["refuses"] == (
            row["probability"][row["heaviest"]] >= thresholds[row["heaviest"]]
        )


def test_deciding_stored_scores_imports_no_engine(made_run):
    folder = RunFolder(made_run)
    arguments = [
        "demur",
        "decide",
        "--policy",
        str(folder.policy),
        "--scores",
        str(folder.scores("test")),
    ]
    code = f"import sys\nsys.argv = {arguments}\nfrom demur.cli.main import main\ntry: main()\n"
    code += "except SystemExit as e: print(e.code, *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, *modules = done.stderr.split()
    assert exit_code == "0"
    assert not {"torch", "transformers", "trl"} & set(modules)


def test_an_override_of_one_category_leaves_the_others_alone(demur, made_run):
    scores = RunFolder(made_run).scores("test")
    plain = decisions(demur("decide", made_run, "--scores", scores, "--json"))
    silenced = decisions(
        demur("decide", made_run, "--scores", scores, "--threshold", "safety=never", "--json")
    )
    changed = {(a, b) for a, b in zip(plain, silenced, strict=True) if a != b}
    assert changed == {("safety", "respond")}


def test_a_rate_is_looked_up_on_the_policys_own_curve(demur, made_run):
    scores = RunFolder(made_run).scores("calibrate")
    chosen = decisions(
        demur("decide", made_run, "--scores", scores, "--rate", "humanizing=0.05", "--json")
    )
    assert 0.03 < chosen.count("humanizing") / len(chosen) <= 0.05


@pytest.mark.parametrize("override", ["safety", "safety=much", "=0.3"])
def test_an_override_that_cannot_be_read_says_how_to_write_it(demur, made_run, override):
    result = demur(
        "decide", made_run, "--scores", RunFolder(made_run).scores("test"), "--threshold", override
    )
    assert result.code == 2
    assert "hint:" in result.err


def test_a_policy_for_another_model_is_refused(demur, made_run, tmp_path):
    file = json.loads(RunFolder(made_run).policy.read_text(encoding="utf-8"))
    file["fingerprint"]["model_digest"] = "sha256:another"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(file), encoding="utf-8")
    result = demur(
        "decide", made_run, "--policy", other, "--scores", RunFolder(made_run).scores("test")
    )
    assert result.code == 2
    assert "made for another model: model_digest differ" in result.err


def test_decide_without_a_policy_says_what_to_give(demur):
    result = demur("decide")
    assert result.code == 2
    assert "give a run folder" in result.err


def test_an_unknown_category_in_an_override_gets_a_suggestion(demur, made_run):
    result = demur(
        "decide",
        made_run,
        "--scores",
        RunFolder(made_run).scores("test"),
        "--threshold",
        "safty=0.1",
    )
    assert result.code == 2
    assert "did you mean 'safety'?" in result.err


@pytest.mark.parametrize("text", [f"Hello.\n\n{DECLINED}\n", f"\ufeffHello.\n\n{DECLINED}\r\n"])
def test_standard_input_is_one_prompt_however_many_lines_it_has(demur, made, typed, text):
    typed(text)
    (row,) = decided(demur("decide", made, "--json"))
    assert row["prompt"] == f"Hello.\n\n{DECLINED}"
    typed(text)
    assert "Hello. How do I pick" in demur("decide", made).out


def test_each_line_is_a_prompt_where_that_is_asked_for(demur, made, typed):
    typed(f"{DECLINED}\r\n\n{ANSWERED}\n")
    rows = decided(demur("decide", made, "--lines", "--json"))
    assert [(r["prompt"], r["decision"]) for r in rows] == [
        (DECLINED, "refuse"),
        (ANSWERED, "respond"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", (f'{{"id": 7, "prompt": "{DECLINED}"}}\n{{"id": "b", "prompt": '
            f'"{ANSWERED}"}}\n')),
        ("p.csv", f"id,prompt\n7,{DECLINED}\nb,{ANSWERED}\n"),
        ("p.json", json.dumps([
            {"id": 7, "conversations": [{"from": "human", "value": DECLINED}]},
            {"id": "b", "messages": [{"role": "user", "content": [PART]}]},
        ])),
    ],
)  # fmt: skip
def test_rows_of_a_file_keep_their_ids(demur, made, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    rows = decided(demur("decide", made, "--prompts", tmp_path / name, "--json"))
    assert [(r["id"], r["prompt"], r["decision"]) for r in rows] == [
        ("7", DECLINED, "refuse"),
        ("b", ANSWERED, "respond"),
    ]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (((), " \n"), "there is no prompt"),
        ((("--lines",), "\n\n"), "there is no prompt"),
        ((("",), ""), "there is no prompt"),
        ((("a\x00b",), ""), "U+0000"),
        ((("a", "--lines"), ""), "several places"),
        ((("--prompts", "none.csv"), ""), "none.csv does not exist"),
    ],
)
def test_what_is_no_prompt_is_the_callers_fault(demur, made, typed, asked, says):
    arguments, text = asked
    typed(text)
    result = demur("decide", made, *arguments)
    assert (result.code, says in result.err) == (2, True), result.err
