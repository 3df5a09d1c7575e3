"""Where the prompts of `demur decide` come from: arguments, standard input, rows of any format."""

import io
import json
import sys

import pytest

from tests.predictor_run import ANSWERED, DECLINED, predictor_run


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


PART = {"type": "text", "text": ANSWERED}


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
