"""Public reports 08, 15 and 22: files as people have them, through the verbs that read rows. Texts
are our own.
"""

import codecs
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.base.test_rows import saved

SINGLE = (
    '[taxonomy]\npreset = "single"\n[data]\ncalibrate_share = 0.3\ntest_share = '
    "0.3\n[[data.sources]]\n"
)
NOUNS = [
    "kettle",
    "ladder",
    "violin",
    "lantern",
    "candle",
    "mirror",
    "pocket",
    "saddle",
    "tunnel",
    "wagon",
    "anchor",
    "basket",
    "carpet",
    "feather",
    "glacier",
]


def pairs():
    """(prompt, reply, whether to refuse) of 120 unlike rows."""
    for n in range(120):
        a, b, c = NOUNS[n % 15], NOUNS[(n * 7 + n // 15) % 15], NOUNS[(n * 4 + n // 9) % 15]
        what = f"row{n} the {a} past{n} a {b} with{n} the {c} of{n}"
        yield (
            (f"Steal {what}?", "I can't help with that.", True)
            if n % 2
            else (f"Paint {what}?", "Like this.", False)
        )


def shape(name, prompt, reply):
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": reply}
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    tools = [user, {"role": "assistant", "content": None, "tool_calls": [call]},
             {"role": "tool", "tool_call_id": "1", "content": "nothing"}, assistant]  # fmt: skip
    sharegpt = [{"from": "human", "value": prompt}, {"from": "gpt", "value": reply}]
    return {
        "messages": {"messages": [user, assistant]},
        "sharegpt": {"conversations": sharegpt},
        "alpaca": {"instruction": prompt, "input": "", "output": reply},
        "parts": {
            "messages": [
                {**m, "content": [{"type": "text", "text": m["content"]}]}
                for m in (user, assistant)
            ]
        },
        "tools": {"messages": tools},
        "empty system": {"messages": [{"role": "system", "content": ""}, user, assistant]},
        "developer": {"messages": [{"role": "developer", "content": "Be brief."}, user, assistant]},
        "prompt and completion": {"prompt": [user], "completion": [assistant]},
        "prompt and text": {"prompt": prompt, "completion": reply},
        "preference": {"prompt": prompt, "chosen": reply, "rejected": "Sure."},
        "preference, implicit": {"chosen": [user, assistant], "rejected": [user]},
        "separator": {"messages": [{"role": "user", "content": f"{prompt}\u2028so?"}, assistant]},
        "two users": {"messages": [{"role": "user", "content": "Hi"}, user, assistant]},
        "assistant first": {
            "messages": [{"role": "assistant", "content": "Welcome!"}, user, assistant]
        },
    }[name]


SHAPES = (
    *(
        "messages",
        "sharegpt",
        "alpaca",
        "parts",
        "tools",
        "empty system",
        "developer",
        "prompt and completion",
    ),
    *(
        "prompt and text",
        "preference",
        "preference, implicit",
        "separator",
        "two users",
        "assistant first",
    ),
)


def rows_of(name):
    """Rows with whole-number ids, a label of other people's words, and a blank category where there
    is none.
    """
    return [
        {
            **shape(name, prompt, reply),
            "id": n,
            "label": "harmful" if bad else "fine",
            "category": "",
        }
        for n, (prompt, reply, bad) in enumerate(pairs())
    ]


def read(demur, folder, file, options=""):
    (folder / "run.toml").write_text(
        f'{SINGLE}kind = "files"\nfolder = "."\nfiles = ["{file}"]\n{options}\n'
        'label_map = { harmful = "refuse", fine = "respond" }\n'
    )
    return demur("data", folder / "run.toml", "--out", folder / "run", "--json")


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_read_from_lines_arrays_and_columns(demur, tmp_path, name):
    rows = rows_of(name)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-16")
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    saved(tmp_path / "set", rows)
    splits = []
    for file in ("a.jsonl", "a.json", "a.parquet", "set"):
        result = read(demur, tmp_path, file)
        assert result.code == 0, result.err
        summary = json.loads(result.out)
        assert (summary["read"], summary["duplicates"]) == (120, 0)
        splits.append(
            (tmp_path / "run" / "data" / "train.jsonl").read_text().replace('"set"', '"a"')
        )
    assert len(set(splits)) == 1


SURROGATE = '{"id": 1, "prompt": "cut \\ud83d", "label": "fine"}\n'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (SURROGATE, "half of a character"),
        ('{"id": 1, "prompt": "a\\u0000b", "label": "fine"}\n', "U+0000"),
        ('{"id": 1, "prompt": "  ", "label": "fine"}\n', "prompt: it is blank"),
        (
            '{"id": 1, "messages": [{"role": "user", "content": " \\n"}], "label": "fine"}\n',
            "turn is blank",
        ),
        (
            '{"id": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}], "label": '
            '"fine"}\n',
            "text only",
        ),
        ('{"id": 1, "prompt": "a", "label": "odd"}\n', "values of 'label': 'odd' (1)"),
    ],
)
def test_what_cannot_be_used_is_named_by_file_and_line(demur, tmp_path, line, says):
    (tmp_path / "a.jsonl").write_text(line)
    result = read(demur, tmp_path, "a.jsonl")
    assert (result.code, "a.jsonl:1" in result.err, says in result.err) == (2, True, True), (
        result.err
    )


ANSWERS = """{"id": 0, "request": "Steal it?", "answer": "I can't help with that."}
{"id": 1, "request": "Hi", "answer": "Hello."}
"""
CHATS = json.dumps([
    {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
    for q, a in (("Steal it?", "I can't help with that."), ("Hi", "Hello."))
])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.jsonl", ANSWERS.encode()),
        ("bom.jsonl", codecs.BOM_UTF8 + ANSWERS.encode()),
        ("crlf.jsonl", ANSWERS.replace("\n", "\r\n").encode()),
        ("utf16.jsonl", ANSWERS.encode("utf-16")),
        ("chats.json", CHATS.encode()),
        (
            "bom.csv",
            codecs.BOM_UTF8
            + b"id,request,answer\r\n0,Steal it?,I can't help with that.\r\n1,Hi,Hello.\r\n",
        ),
        ("a.tsv", b"request\tanswer\nSteal it?\tI can't help with that.\nHi\tHello.\n"),
    ],
)
def test_answers_of_every_format_are_judged_alike(demur, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    result = demur(
        "judge", tmp_path / name, "--judge", "phrases", "--out", tmp_path / "o.jsonl", "--json"
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["verdicts"] == {
        "refusal": 1,
        "partial": 0,
        "compliance": 1,
        "unscored": 0,
    }


def test_a_csv_file_where_lines_are_expected_is_called_csv(demur, tmp_path):
    (tmp_path / "a.jsonl").write_text("id,request,answer\n1,Hi,Hello\n")
    result = demur("judge", tmp_path / "a.jsonl", "--judge", "phrases")
    assert (result.code, "looks like CSV" in result.err, "cut off" in result.err) == (
        2,
        True,
        False,
    ), result.err


def test_the_hint_about_a_dataset_without_kinds_can_be_followed(demur, tmp_path):
    pytest.importorskip("datasets", reason="datasets is not installed (extra 'hub')")
    phrases = ("Requests with safety concerns", "Incomplete requests", "Indeterminate requests",
               "Humanizing requests", "Unsupported requests")  # fmt: skip
    flat = [
        {
            "id": str(n),
            "category": phrases[n % 5],
            "subcategory": "x",
            "prompt": prompt,
            "response": "No.",
        }
        for n, (prompt, _, _) in enumerate(pairs())
    ]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in flat))
    head = '[data]\ncalibrate_share = 0.3\n[[data.sources]]\nkind = "builtin"\n[[data.sources]]\n'
    hub = f'{head}kind = "hub"\nname = "{tmp_path / "set"}"\nadapter = "coconot"\n'
    (tmp_path / "run.toml").write_text(hub)
    result = demur("data", tmp_path / "run.toml", "--out", tmp_path / "run", "--json")
    assert (result.code, "set rows_kind = 'refusal' or 'contrast'" in result.err) == (2, True), (
        result.err
    )
    (tmp_path / "run.toml").write_text(f'{hub}rows_kind = "refusal"\n')
    result = demur("data", tmp_path / "run.toml", "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    (tmp_path / "run.toml").write_text(
        f'{head}kind = "files"\nfolder = "."\nfiles = ["set/rows.jsonl"]\nrows_kind = "refusal"\n'
        "[data.sources.label_map]\n"
        + "".join(
            f'"{p}" = "{p.split()[0].lower() if "safety" not in p else "safety"}"\n'
            for p in phrases
        )
    )
    again = demur("data", tmp_path / "run.toml", "--out", tmp_path / "run", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["read"] == json.loads(result.out)["read"]
