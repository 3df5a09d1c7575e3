import json

from tests.engines.chat_stub import completion, serving
from tests.stages.test_judge import rows, write


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
