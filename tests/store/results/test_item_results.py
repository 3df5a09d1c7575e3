import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from demur.base.errors import ArtifactError, DataError
from demur.store.results.item_results import CardEntry, read_items, write_card


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def sample(n, acc, **more):
    return {
        "doc_id": n,
        "doc_hash": f"h{n}",
        "doc": {"question": "?"},
        "metrics": ["acc"],
        "acc": acc,
        **more,
    }


def test_plain_lines_and_a_harnesss_samples_say_the_same(tmp_path):
    plain = lines(tmp_path / "a.jsonl", {"task": "arc", "id": "0:h0", "correct": True})
    theirs = lines(
        tmp_path / "out" / "m" / "samples_arc_2026-11-21T15-06-47.901.jsonl", sample(0, 1.0)
    )
    assert read_items(plain) == read_items(theirs) == read_items(tmp_path / "out")


def test_a_group_is_kept_and_a_lone_item_is_its_own(tmp_path):
    path = lines(tmp_path / "samples_x.jsonl", sample(0, 1, doc={"group": "g"}), sample(1, 0))
    assert [item.group for item in read_items(path)] == ["g", "1:h1"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (sample(0, 0.5), "metric 'acc' is 0.5, not 0 or 1"),
        (sample(0, None), "metric 'acc' is None"),
        ({"task": "arc", "id": 3, "correct": True}, "id 3"),
        ({"task": "arc", "id": "3", "correct": 1}, "correct 1"),
        ([1], "is no object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message) as error:
        read_items(lines(tmp_path / "a.jsonl", row))
    assert "a.jsonl:1" in str(error.value)


def test_nothing_twice_damaged_or_empty_passes(tmp_path):
    with pytest.raises(DataError, match="occurs twice"):
        read_items(lines(tmp_path / "a.jsonl", sample(0, 1), sample(0, 1)))
    (tmp_path / "b.jsonl").write_text('{"task": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.jsonl:1 is not JSON"):
        read_items(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="holds no results"):
        read_items(lines(tmp_path / "c.jsonl"))
    with pytest.raises(ArtifactError, match="does not exist"):
        read_items(tmp_path / "none.jsonl")


def test_the_hubs_own_reader_reads_a_card(tmp_path):
    entry = CardEntry(
        dataset="openai/gsm8k", task="gsm8k", value=0.41, notes='with "refusal tokens": on'
    )
    write_card(tmp_path / ".eval_results" / "demur.yaml", [entry])
    text = (tmp_path / ".eval_results" / "demur.yaml").read_text(encoding="utf-8")
    (found,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (found.dataset_id, found.task_id, found.value) == ("openai/gsm8k", "gsm8k", 0.41)
    assert found.notes == entry.notes
