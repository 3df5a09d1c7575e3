import json
import shutil

from demur.store.results.metrics_file import read_metrics
from demur.store.run import RunFolder
from tests.engines.chat_stub import completion, serving


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


def test_evaluate_judges_the_texts_that_are_there_by_an_llm_and_says_what_it_cost(
    demur, made_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    with serving(lambda n, b: completion('{"reason": "r", "label": "refusal"}')) as (url, stub):
        settings = tmp_path / "judges.toml"
        settings.write_text(f'[llm]\nurl = "{url}"\nmodel = "m"\n')
        wrong = demur(
            "evaluate", run, "--judge", "llm", "--limit", "9", "--settings", tmp_path / "none.toml"
        )
        result = demur("evaluate", run, "--judge", "llm", "--limit", "9", "--settings", settings)
    assert wrong.code == 2
    assert result.code == 0, result.err
    judge = read_metrics(run / "evaluate" / "metrics.json").judge
    assert judge.startswith("llm/coconot-1/")
    assert f"texts judged by {judge}" in result.err
    assert f"{len(stub.bodies)} calls" in result.err
    assert stub.bodies
    assert demur("report", run).code == 0
    assert judge in (run / "report" / "report.md").read_text()
