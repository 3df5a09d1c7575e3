import json

import pytest

from demur.base.errors import ArtifactError, DataError
from demur.core.example import Message
from demur.core.judging.outcome import Outcome
from demur.core.rates import Rate
from demur.store.answers.answers_file import read_answers
from demur.store.answers.blackbox_file import (
    BlackboxFile,
    BlackboxFolder,
    HandRow,
    prompts_without_outcome,
    read_summary,
    write_answers,
    write_rows,
    write_summary,
)
from demur.store.prompts_file import PromptRow
from demur.store.run import RunFolder

SUMMARY = BlackboxFile(
    model="m-1",
    asked_as="m temperature=0",
    prompts=4,
    duplicates=1,
    without_prompt=0,
    answered=2,
    empty=1,
    not_asked=1,
    failed={"HTTP 500": 1},
    judge="phrases/1",
    verdicts={"refusal": 1, "partial": 0, "compliance": 0, "unscored": 1},
    unscored={"the row has no answer": 1},
    hand=HandRow(answers=40, declining=20, accuracy=Rate(hits=38, of=40), unscored=0),
)


def test_the_counts_read_back_as_they_were_written(tmp_path):
    write_summary(tmp_path / "s.json", SUMMARY)
    assert read_summary(tmp_path / "s.json") == SUMMARY
    (tmp_path / "s.json").write_text(json.dumps({"format": "demur.blackbox/1"}))
    with pytest.raises(ArtifactError, match=r"s\.json: model"):
        read_summary(tmp_path / "s.json")


def test_answers_can_be_labelled_by_hand_and_are_not_labelled_yet(tmp_path):
    asked = [PromptRow(id="a", messages=(Message(role="user", content="Who?"),), group=None)]
    write_answers(
        tmp_path / "a.jsonl",
        asked,
        ["Nobody."],
        [Outcome(verdict="refusal", reason="r", judge="j")],
    )
    (row,) = read_answers(tmp_path / "a.jsonl")
    assert (row.id, row.item.request, row.item.answer, row.label) == ("a", "Who?", "Nobody.", None)


def test_labels_by_hand_outlive_another_writing_unless_the_answer_changed(tmp_path):
    path = tmp_path / "a.jsonl"
    asked = [
        PromptRow(id=i, messages=(Message(role="user", content=f"{i}?"),), group=None)
        for i in "abc"
    ]
    said = [Outcome(verdict="refusal", reason="r", judge="j")] * 3
    write_answers(path, asked, ["No.", "No.", "Yes."], said)
    lines = [json.loads(line) | {"label": "partial"} for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in lines[:2])
        + json.dumps(lines[2] | {"label": None})
    )
    write_answers(path, asked, ["No.", "Maybe.", "Yes."], said)
    assert [row.label for row in read_answers(path)] == ["partial", None, None]
    path.write_text('{"id": "a", "label": "refused"}')
    with pytest.raises(DataError, match=r"a\.jsonl:1: label"):
        write_answers(path, asked, ["No.", "No.", "Yes."], said)


def test_counts_that_are_gone_are_not_taken_for_none_missing(tmp_path):
    folder = BlackboxFolder(RunFolder(tmp_path))
    assert prompts_without_outcome(folder.run) == 0  # no black-box run
    write_rows(folder.rows, [])
    with pytest.raises(ArtifactError, match=r"summary\.json"):
        prompts_without_outcome(folder.run)
    write_summary(folder.summary, SUMMARY)
    assert prompts_without_outcome(folder.run) == 2
