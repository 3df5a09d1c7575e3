import json
from pathlib import Path

import pytest
from sklearn.model_selection import train_test_split

from tests.engines.hf.test_encoder import answers, encoder_in
from tests.stages.test_judge import rows, write

LABELLED = Path(__file__).parents[3].parent / "shared" / "data" / "response_labels.jsonl"


STRING_MATCH_KAPPA = 0.770  # on all of XSTest; 0.752 on the half that is here


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
