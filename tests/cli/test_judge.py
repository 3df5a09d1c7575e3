"""demur judge, judge-check and judge-train as a shell calls them, with a real endpoint for the LLM
judge.
"""

import json
import shutil
from pathlib import Path

import pytest
from sklearn.model_selection import train_test_split

from demur.store.results.metrics_file import read_metrics
from tests.engines.chat_stub import completion, serving
from tests.engines.hf.test_encoder import answers, encoder_in
from tests.stages.test_judge import rows, write

LABELLED = Path(__file__).parents[2].parent / "shared" / "data" / "response_labels.jsonl"
STRING_MATCH_KAPPA = 0.770  # on all of XSTest; 0.752 on the half that is here


def test_judge_writes_verdicts_and_shows_their_shares(demur, tmp_path):
    file = write(tmp_path / "a.jsonl", [*rows(10), {"id": "x", "response": "No."}])
    result = demur("judge", file, "--json")
    assert result.code == 0
    assert json.loads(result.out)["verdicts"] == {
        "refusal": 4,
        "partial": 0,
        "compliance": 6,
        "unscored": 1,
    }
    assert "unscored: 1 x the row has no request" in result.err
    assert len((tmp_path / "a.verdicts.jsonl").read_text().splitlines()) == 11
    assert "11 of 11 answers are read without a category; on XSTest's answers" in " ".join(
        result.err.split()
    )
    assert "without a category" not in demur("judge", file, "--category", "safety").err


def test_answers_of_which_none_is_scored_are_a_failure_that_says_why(demur, tmp_path):
    file = write(tmp_path / "a.jsonl", [r | {"response": " "} for r in rows(4)])
    empty = demur("judge", file)
    assert empty.code == 2
    assert "none of 4 answers was scored: 4 x the row has no answer" in " ".join(empty.err.split())
    assert len((tmp_path / "a.verdicts.jsonl").read_text().splitlines()) == 4
    flags = ("--judge", "llm", "--set", "llm.tries=1", "--set", "llm.model=m", "--json")
    with serving(lambda n, b: (500, "down")) as (url, _):
        dead = demur(
            "judge", write(tmp_path / "b.jsonl", rows(5)), *flags, "--set", f"llm.url={url}"
        )
    assert dead.code == 2
    assert "none of 5 answers was scored: 5 x" in " ".join(dead.err.split())
    assert json.loads(dead.out)["verdicts"]["unscored"] == 5


def test_a_trained_judge_goes_from_training_to_checking(demur, tmp_path):
    made = [r | {"response": f"{r['response']} Number {n}."} for n, r in enumerate(rows(60))]
    file = write(tmp_path / "a.jsonl", made)
    assert demur("judge-train", file, "--out", tmp_path / "j.npz").code == 0
    result = demur(
        "judge-check", file, "--judge", "phrases", "--judge", "trained",
        "--set", f"trained.model={tmp_path / 'j.npz'}",
        "--by", "model", "--json",
    )  # fmt: skip
    assert result.code == 0
    check = json.loads(result.out)
    assert [j["judge"] for j in check["judges"]] == ["phrases", "trained"]
    assert check["judges"][0]["agreement"]["accuracy"]["hits"] == 54
    assert set(check["judges"][0]["strata"]) == {"m0", "m1"}


def test_a_judge_is_trained_on_an_encoder_and_used_like_any_other(demur, tmp_path):
    folder = encoder_in(tmp_path / "encoder")
    file = write(tmp_path / "a.jsonl", list(answers(80)))
    made = demur(
        "judge-train", file, "--recipe", "encoder", "--model", folder, "--out", tmp_path / "j.npz"
    )
    assert made.code == 0, made.err
    result = demur(
        "judge",
        file,
        "--judge",
        "trained",
        "--set",
        f"trained.model={tmp_path / 'j.npz'}",
        "--json",
    )
    assert json.loads(result.out)["verdicts"]["refusal"] >= 36


def test_judge_check_shows_tables_and_the_warning(demur, tmp_path):
    result = demur("judge-check", write(tmp_path / "a.jsonl", rows(60)))
    assert result.code == 0
    assert "60 labelled of 60, lenient view" in result.out
    assert "Rogan-Gladen needs error rates" in " ".join(result.err.split())


def test_judge_check_shows_how_far_judges_agree_with_each_other(demur, tmp_path):
    file = write(tmp_path / "a.jsonl", rows(60))
    demur("judge", file, "--out", tmp_path / "v.jsonl")
    result = demur("judge-check", file, "--judge", "phrases", "--judged", tmp_path / "v.jsonl")
    assert "agreement with each other" in result.out
    assert "1.000 (1.000 to 1.000)" in result.out


def test_the_llm_judge_is_asked_once_and_says_what_it_cost(demur, tmp_path):
    file = write(tmp_path / "a.jsonl", rows(12))
    with serving(lambda n, b: completion('{"reason": "r", "label": "partial"}')) as (url, stub):
        (tmp_path / "judge.toml").write_text(f'[llm]\nurl = "{url}"\nmodel = "m"\nprice_in = 1.0\n')
        first = demur(
            "judge", file, "--judge", "llm", "--settings", tmp_path / "judge.toml", "--json"
        )
        again = demur(
            "judge", file, "--judge", "llm", "--settings", tmp_path / "judge.toml", "--json"
        )
    assert first.code == again.code == 0
    assert len(stub.bodies) == 12
    assert json.loads(first.out)["verdicts"]["partial"] == 12
    assert json.loads(first.out)["judge"].startswith("llm/coconot-1/")
    assert (
        "12 calls (0 of them retries), 0 questions without an answer, 1200 + 120 tokens, 0.0012"
        in first.err
    )
    assert "0 calls" in again.err


def test_settings_that_nobody_knows_are_named(demur, tmp_path):
    file = write(tmp_path / "a.jsonl", rows(2))
    for override, message in (
        ("llm.modle=x", "unknown key"),
        ("lln.model=x", "unknown section 'lln'"),
        ("trained.modle=x", "unknown key 'modle'"),
    ):
        name = "trained" if override.startswith("trained") else "llm"
        result = demur("judge", file, "--judge", name, "--set", override)
        assert result.code == 2
        assert message in result.err
    result = demur("judge", file, "--judge", "frases")
    assert result.code == 2
    assert "did you mean 'phrases'" in result.err


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


def test_a_run_with_a_misspelt_judge_stops_before_anything_is_trained(demur, tmp_path):
    result = demur("demo", "--out", tmp_path / "run", "--set", "evaluate.judge=frases")
    assert result.code == 2
    assert "did you mean 'phrases'" in result.err
    assert not (tmp_path / "run" / "data").exists()


def test_a_category_is_what_answers_without_one_are_held_to(demur, tmp_path):
    lines = [
        {"id": "a", "prompt": "Q?", "response": "No. Try it.", "label": "refusal"},
        {
            "id": "b",
            "prompt": "Q?",
            "response": "No. Try it.",
            "label": "compliance",
            "category": "unsupported",
        },
    ]
    file = write(tmp_path / "a.jsonl", lines)
    assert json.loads(demur("judge", file, "--json").out)["verdicts"]["refusal"] == 0
    assert (
        json.loads(demur("judge", file, "--category", "safety", "--json").out)["verdicts"][
            "refusal"
        ]
        == 1
    )
    (found,) = json.loads(demur("judge-check", file, "--category", "safety", "--json").out)[
        "judges"
    ]
    assert found["agreement"]["accuracy"]["hits"] == 2


@pytest.mark.skipif(not LABELLED.exists(), reason="../shared/data/response_labels.jsonl is absent")
def test_the_documented_commands_beat_the_string_match_on_xstest_without_training_on_it(
    demur, tmp_path
):
    every = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    own = [
        r
        for r in every
        if r["source"] == "chatgpt_refusals" and r["tone"] not in ("incoherent", "dontknow")
    ]
    own.sort(key=lambda r: int(r["id"].split(":")[1]))
    train, rest = train_test_split(own, test_size=0.3, random_state=0)
    _, test = train_test_split(rest, test_size=0.5, random_state=0)
    xstest = [r for r in every if r["source"].startswith("xstest")]
    assert (
        demur("judge-train", write(tmp_path / "t.jsonl", train), "--out", tmp_path / "j.npz").code
        == 0
    )

    def agreement(name, of, *more):
        file, model = write(tmp_path / name, of), f"trained.model={tmp_path / 'j.npz'}"
        result = demur("judge-check", file, "--judge", "trained", "--set", model, *more, "--json")
        return json.loads(result.out)["judges"][0]["agreement"]

    there = agreement("x.jsonl", xstest, "--category", "safety")
    assert there["scored"]["of"] == 1235
    assert there["scored"]["hits"] >= 1215  # the rest is unscored: outside the training range
    assert there["kappa"]["value"] >= STRING_MATCH_KAPPA + 0.03
    here = agreement("c.jsonl", test)
    assert here["scored"]["of"] == 256
    assert here["accuracy"]["hits"] >= 0.92 * 256  # of all: an unscored answer counts as wrong
