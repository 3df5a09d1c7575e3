"""demur init: a folder as people have it -> a TOML that `demur data` runs, and what was not
understood.
"""

import csv
import json
import random

import pytest

from tests.base.test_rows import saved

WORDS = tuple(f"{a}{b}" for a in ("ba", "do", "ki", "lu") for b in ("me", "no", "pa", "ri", "so"))


def prompts(verb, n):
    draw = random.Random(verb)
    return [
        f"{verb} the {' '.join(draw.sample(WORDS, 5))} at {draw.randrange(10**6)}?"
        for _ in range(n)
    ]


def table(path, *rows, delimiter=","):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        out = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        out.writeheader()
        out.writerows(rows)


def lines(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def yes_and_no(folder):
    """A spreadsheet with a column of ones and zeros, beside ShareGPT rows, both numbered from 1."""
    rows = [
        {"id": n, "user_text": text, "unsafe": n % 2, "model_answer": "Yes; so."}
        for n, text in enumerate(
            [
                p
                for pair in zip(prompts("Steal", 60), prompts("Paint", 60), strict=True)
                for p in pair
            ]
        )
    ]
    table(folder / "sheet.csv", *rows, delimiter=";")
    talk = [
        {
            "id": n,
            "conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": "ok"}],
            "label": "respond",
        }
        for n, p in enumerate(prompts("Describe", 40))
    ]
    lines(folder / "talk.jsonl", *talk)


def topics(folder):
    """Alpaca rows whose topic is either fine or a reason to refuse."""
    rows = [
        {"instruction": p, "input": "", "output": "x", "topic": topic}
        for verb, topic in (("Bake", "ok"), ("Sue", "Legal advice"), ("Swallow", "medical"))
        for p in prompts(verb, 80)
    ]
    random.Random(0).shuffle(rows)
    lines(folder / "topics.jsonl", *rows)


def file_names(folder):
    """Nothing but the names of the files tells."""
    table(folder / "harmful.csv", *({"goal": p, "target": "Sure"} for p in prompts("Steal", 90)))
    table(folder / "harmless.csv", *({"goal": p, "target": "Sure"} for p in prompts("Paint", 90)))


def our_own(folder):
    """Rows of demur's own format, in a folder that `datasets` saved."""
    rows = [
        {"messages": [{"role": "user", "content": p}], "kind": kind, "category": "safety"}
        for kind, verb in (("refusal", "Steal"), ("contrast", "Lock"), ("benign", "Paint"))
        for p in prompts(verb, 80)
    ]
    saved(folder / "set", rows)


def category_phrases(folder):
    """CoCoNot's own words, once as refusals and once as their contrast."""
    for stem, verb in (("original", "Steal"), ("contrast_set", "Lock")):
        rows = [
            {"prompt": p, "category": "Requests with safety concerns", "response": ""}
            for p in prompts(verb, 90)
        ]
        table(folder / f"{stem}.csv", *rows)


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (
            yes_and_no,
            [
                "sheet.csv: the prompt is taken from column 'user_text'",
                "column 'unsafe' is taken for the label",
            ],
        ),
        (topics, ["column 'topic' is taken for the label"]),
        (file_names, ["all rows are taken for refusal rows, by the name of the file"]),
        (our_own, []),
        (category_phrases, ["column 'category' is taken for the label"]),
    ],
)
def test_what_init_writes_is_run_by_data(demur, tmp_path, fill, says):
    fill(tmp_path / "mine")
    made = demur("init", tmp_path / "mine")
    assert made.code == 0, made.err
    assert [s for s in says if s not in made.err] == []
    done = demur("data", tmp_path / "mine" / "demur.toml", "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    counted = json.loads(
        demur("init", tmp_path / "mine", "--out", tmp_path / "again.toml", "--json").out
    )
    read = sum(c["rows"] for look in counted for c in look["counts"])
    assert json.loads(done.out)["read"] == read == sum(look["rows"] for look in counted)
    again = demur("data", tmp_path / "again.toml", "--out", tmp_path / "other", "--json")
    assert (again.code, json.loads(again.out)["read"]) == (0, read), again.err


def test_what_it_did_not_understand_is_said_and_left_out(demur, tmp_path):
    topics(tmp_path)
    lines(
        tmp_path / "images.jsonl",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "kind": "benign"},
    )
    (tmp_path / "config.json").write_text('{\n"a": 1\n}')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cut.jsonl").write_text('{"prompt": "a')
    (tmp_path / "notes.txt").write_text("hello")
    made = demur("init", tmp_path, "--out", tmp_path / "x.toml")
    assert made.code == 0, made.err
    said = " ".join(made.err.split())
    assert "images.jsonl: left out: 1 of 1 rows cannot be used" in said
    assert "text only" in said
    assert "sub/cut.jsonl: left out" in said
    assert "not looked at, by their names: notes.txt" in said
    assert 'files = ["topics.jsonl"]' in (tmp_path / "x.toml").read_text()


def test_a_value_that_nobody_could_tell_is_skipped_and_named(demur, tmp_path):
    labels = (("Steal", "harmful"), ("Paint", "safe"), ("Fold", "qz"))
    rows = [{"prompt": p, "label": label} for verb, label in labels
            for p in prompts(verb, 60)]  # fmt: skip
    table(tmp_path / "a.csv", *rows)
    made = demur("init", tmp_path)
    assert made.code == 0, made.err
    assert "not understood, mapped to skip: 'qz' of column 'label'" in made.err
    assert '"qz" = "skip"' in (tmp_path / "demur.toml").read_text()


def test_nothing_is_overwritten(demur, tmp_path):
    topics(tmp_path)
    (tmp_path / "demur.toml").write_text("mine")
    made = demur("init", tmp_path)
    assert (made.code, "is there already" in made.err) == (2, True)
    assert (tmp_path / "demur.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no file of rows that can be used"),
        ([{"prompt": "How do I paint a door?"}], "nothing tells what is to be refused"),
        (
            [{"prompt": p, "label": "refuse"} for p in prompts("Steal", 60)],
            "these rows make no run yet",
        ),
    ],
)
def test_rows_that_make_no_run_are_said_to_make_none(demur, tmp_path, rows, says):
    if rows:
        table(tmp_path / "a.csv", *rows)
    made = demur("init", tmp_path)
    assert (made.code, says in made.err) == (2, True), made.err
    assert not (tmp_path / "demur.toml").exists()


def test_a_folder_that_is_none_is_named(demur, tmp_path):
    made = demur("init", tmp_path / "none")
    assert (made.code, "none is not a folder" in made.err) == (2, True), made.err
