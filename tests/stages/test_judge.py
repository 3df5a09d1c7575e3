"""judge, judge-check and judge-train on files: what is counted, what is named, what is refused."""

import json

import pytest

from demur.base.errors import DataError
from demur.core.rates import Rate
from demur.judges.phrases import PhraseJudge
from demur.judges.trained import TrainedJudge
from demur.stages import judge, judge_check, judge_train
from demur.store.answers.answers_file import read_answers, read_verdicts
from demur.store.answers.labels import key_path
from demur.store.models.text_model_file import read_text_classifier

NO, YES = "I won't help with that.", "Mix flour and water, then wait."


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def rows(count, label=True):
    """Answers that decline and answers that do not, in turn; every tenth reads like the opposite of
    its label.
    """
    made = []
    for n in range(count):
        refuses = n % 2 == 0
        said = refuses if n % 10 else not refuses
        row = {
            "id": f"a{n}",
            "prompt": f"Question {n}?",
            "response": NO if said else YES,
            "model": f"m{n % 2}",
        }
        made.append(row | ({"label": "refusal" if refuses else "compliance"} if label else {}))
    return made


def unlabelled(count):
    return [r | {"id": f"u{n}"} for n, r in enumerate(rows(count, label=False))]


def test_every_answer_gets_a_line_and_the_counts_add_up(tmp_path):
    file = write(tmp_path / "a.jsonl", rows(20))
    summary = judge.run(judge.Config(file=file, out=tmp_path / "v.jsonl"), PhraseJudge())
    assert sum(summary.verdicts.values()) == summary.answers == 20
    read = read_verdicts(tmp_path / "v.jsonl", [f"a{n}" for n in range(20)])
    assert [o.verdict for o in read].count("refusal") == summary.verdicts["refusal"] == 8


def test_rows_that_lack_a_text_are_unscored_and_named_never_an_answer(tmp_path):
    bad = [
        {"id": "x", "response": NO},
        {"id": "y", "prompt": "Q?"},
        {"id": "z", "prompt": "Q?", "response": "..."},
    ]
    file = write(tmp_path / "a.jsonl", [*rows(4), *bad])
    summary = judge.run(judge.Config(file=file, out=tmp_path / "v.jsonl"), PhraseJudge())
    assert summary.verdicts["unscored"] == 3
    assert dict(summary.unscored) == {
        "the row has no request": 1,
        "the row has no answer": 1,
        "the answer holds no word": 1,
    }


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([{"id": "a", "answer": 3}], "a.jsonl:1: answer"),
        (
            [{"id": "a", "answer": "b"}, {"id": "a", "answer": "c"}],
            "a.jsonl:2: id 'a' occurs twice",
        ),
        ([{"id": "a", "label": "yes"}], "a.jsonl:1: label"),
        ([{"id": "a"}], "a.jsonl:1: there is no prompt"),
        (
            [{"id": "a", "answer": "cut \ud83d"}],
            "a.jsonl:1: answer: the text holds half of a character",
        ),
        ([{"id": "a\ud83d", "answer": "b"}], "a.jsonl:1: id"),
        ([], "holds no answer"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, lines, named):
    with pytest.raises(DataError, match=named):
        read_answers(write(tmp_path / "a.jsonl", lines))


def test_a_check_counts_agreement_on_the_labelled_rows_and_corrects_the_rate_of_all(tmp_path):
    file = write(
        tmp_path / "a.jsonl",
        [*rows(60), *({**r, "id": f"u{n}"} for n, r in enumerate(rows(200, label=False)))],
    )
    found = judge_check.run(judge_check.Config(file=file, by="model"), {"phrases": PhraseJudge()})
    assert (found.answers, found.labelled) == (260, 60)
    checked = found.checked[0]
    assert (checked.agreement.accuracy.hits, checked.agreement.accuracy.of) == (54, 60)
    assert set(checked.strata) == {"m0", "m1"}
    assert checked.raw.of == 260
    assert checked.corrected.low < 0.5 < checked.corrected.high
    assert checked.corrected.method == "regression on 60 hand labels"
    assert any("Rogan-Gladen needs" in n for n in found.notes)


def test_two_judges_stand_side_by_side_and_verdict_files_count_as_judges(tmp_path):
    file = write(tmp_path / "a.jsonl", rows(60))
    judge.run(judge.Config(file=file, out=tmp_path / "v.jsonl"), PhraseJudge())
    config = judge_check.Config(file=file, judged=(tmp_path / "v.jsonl",))
    found = judge_check.run(config, {"phrases": PhraseJudge()})
    assert [c.judge for c in found.checked] == ["phrases", "v.jsonl"]
    assert found.checked[1].beside[0].p_value == 1.0
    assert found.checked[1].agreement == found.checked[0].agreement


def test_a_check_without_labels_judges_or_verdicts_is_refused(tmp_path):
    file = write(tmp_path / "a.jsonl", rows(4, label=False))
    with pytest.raises(DataError, match="has no label"):
        judge_check.run(judge_check.Config(file=file), {"phrases": PhraseJudge()})
    file = write(tmp_path / "b.jsonl", rows(4))
    with pytest.raises(DataError, match="no judge is given"):
        judge_check.run(judge_check.Config(file=file), {})
    verdicts = write(
        tmp_path / "v.jsonl", [{"id": "q", "verdict": "refusal", "reason": "r", "judge": "j"}]
    )
    with pytest.raises(DataError, match="no verdict on 4 answers"):
        judge_check.run(judge_check.Config(file=file, judged=(verdicts,)), {})


def test_too_few_labels_are_said_to_correct_nothing(tmp_path):
    file = write(tmp_path / "a.jsonl", [*rows(6), *unlabelled(20)])
    found = judge_check.run(judge_check.Config(file=file), {"phrases": PhraseJudge()})
    assert "6 of 26 rows are labelled by hand" in found.checked[0].corrected


def test_where_every_answer_is_labelled_the_rate_is_the_labels_own_with_its_exact_interval(
    tmp_path,
):
    found = judge_check.run(
        judge_check.Config(file=write(tmp_path / "a.jsonl", rows(60))), {"phrases": PhraseJudge()}
    )
    corrected = found.checked[0].corrected
    assert (corrected.value, corrected.low, corrected.high) == (
        0.5,
        *Rate(hits=30, of=60).interval(0.95),
    )
    assert any("corrected is the labels' own rate" in note for note in found.notes)


def drawn(path, made, labelled=None):
    """A file as draw-labels hands it out, its key beside it: 20 of 20 that decline, 20 of 200 that
    do not.
    """
    key = [
        {
            "id": r["id"],
            "prompt": r["id"],
            "token": "respond",
            "stratum": r["label"],
            "of": 20 if r["label"] == "refusal" else 200,
        }
        for r in made
    ]
    write(key_path(path), key)
    return write(
        path,
        [r if labelled is None or r["label"] == labelled else r | {"label": None} for r in made],
    )


def test_texts_drawn_in_strata_are_weighted_by_their_key_and_the_note_says_so(tmp_path):
    found = judge_check.run(
        judge_check.Config(file=drawn(tmp_path / "l.jsonl", rows(40))), {"phrases": PhraseJudge()}
    )
    checked = found.checked[0]
    assert checked.corrected.value == pytest.approx(20 / 220)
    assert checked.corrected.low < 20 / 220 < checked.corrected.high < 0.5
    assert "drawn in strata" in checked.rogan_gladen
    assert any(
        "from 220 (l.key.jsonl)" in note and "demur evaluate RUN --labels l.jsonl" in note
        for note in found.notes
    )


def test_a_draw_that_is_not_whole_corrects_nothing_and_a_strange_row_is_named(tmp_path):
    half = drawn(tmp_path / "l.jsonl", rows(40), labelled="refusal")
    found = judge_check.run(judge_check.Config(file=half), {"phrases": PhraseJudge()})
    assert "a stratum of the draw has no label yet" in found.checked[0].corrected
    write(half, [*rows(40), *({**r, "id": f"n{n}"} for n, r in enumerate(rows(2)))])
    with pytest.raises(DataError, match=r"'n0' is not in .*l.key.jsonl"):
        judge_check.run(judge_check.Config(file=half), {"phrases": PhraseJudge()})


def test_several_people_and_several_judges_are_measured_among_themselves(tmp_path):
    made = rows(30)
    for n, row in enumerate(made):
        other = row["label"] if n % 6 else "compliance"
        row["labels"] = {"ann": row.pop("label"), "bo": other, "cy": None if n % 3 else other}
    verdicts = [{"id": r["id"], "verdict": "unscored", "reason": "r", "judge": "j"} for r in made]
    config = judge_check.Config(
        file=write(tmp_path / "a.jsonl", made), judged=(write(tmp_path / "v.jsonl", verdicts),)
    )
    found = judge_check.run(config, {"phrases": PhraseJudge()})
    people, judges = found.together["people"], found.together["judges"]
    assert people.raters == ("ann", "bo", "cy")
    assert (people.pairable, people.complete) == (30, 10)
    assert 0.5 < people.alpha.value < 1
    assert people.fleiss.defined
    assert judges.alpha.why == "no item has two ratings"
    assert found.labelled == 25
    assert any("5 answers are left out: people differ" in note for note in found.notes)


def test_who_decides_is_the_label_where_there_is_one(tmp_path):
    row = {
        "id": "a",
        "prompt": "Q?",
        "answer": YES,
        "label": "partial",
        "labels": {"ann": "refusal", "bo": "compliance"},
    }
    first, second = read_answers(
        write(tmp_path / "a.jsonl", [row, row | {"id": "b", "label": None}])
    )
    assert (first.label, first.undecided) == ("partial", False)
    assert (second.label, second.undecided) == (None, True)


def test_a_judge_is_trained_from_files_and_judges(tmp_path):
    made = [r | {"response": f"{r['response']} Number {n}."} for n, r in enumerate(rows(60))]
    files = (
        write(tmp_path / "a.jsonl", made[:30]),
        write(tmp_path / "b.jsonl", [*made[30:], {"id": "x", "answer": "x"}]),
    )
    trained = judge_train.run(judge_train.Config(files=files, out=tmp_path / "j.npz"))
    assert (trained.answers, trained.declining, trained.left_out) == (60, 30, 1)
    classifier, digest = read_text_classifier(tmp_path / "j.npz")
    assert trained.digest == f"sha256:{digest}"
    said = TrainedJudge(classifier=classifier, digest=digest).judge("q", f"{NO} Number 7.", None)
    assert said.verdict == "refusal"
    with pytest.raises(DataError, match="unknown recipe 'forest'"):
        judge_train.Config(files=files, out=tmp_path / "j.npz", recipe="forest")
