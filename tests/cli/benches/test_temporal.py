import json

import pytest

from demur.sources.benchmarks import load_benchmark, parse_selection
from tests.engines.chat_stub import serving
from tests.sources.test_temporal import scripted

BODY = "The council opened the new bridge. Thousands walked over it before noon."


@pytest.fixture
def news(tmp_path):
    rows = [
        {"date": ("1999-05-03", "2024-05-03")[n % 2], "title": f"Bridge {n} opens", "body": BODY}
        for n in range(6)
    ]
    path = tmp_path / "news.jsonl"
    path.write_text(
        "".join(json.dumps(r) + "\n" for r in [*rows, rows[0], {"date": "soon"}]), encoding="utf-8"
    )
    return path


def test_questions_are_written_kept_and_measured_as_a_benchmark(demur, tmp_path, news):
    out = tmp_path / "temporal.jsonl"
    with serving(scripted()) as (url, stub):
        flags = (news, "--cutoff", "2024-03-31", "--url", url, "--model", "stub", "--out", out)
        result = demur("temporal", *flags, "--json")
        again = demur("temporal", *flags)
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert told["kept"] == {"unanswerable": 3, "answerable": 3}
    assert told["rejected"] == {"article: a duplicate": 1, "article: no date, title or body": 1}
    assert f"article: no date, title or body: {news}:8" in result.err
    assert (told["calls"], len(stub.bodies)) == (12, 12)  # the second run asked nothing
    assert "kept: unanswerable" in again.out
    found = load_benchmark(parse_selection(f"temporal={out}"), lambda *_: [])
    assert sorted(r.expected for r in found.rows) == ["refuse"] * 3 + ["respond"] * 3
    bench = demur(
        "bench-refusals",
        "always-refuse",
        "--benchmark",
        f"temporal={out}",
        "--out",
        tmp_path / "b",
        "--json",
    )
    assert (
        json.loads(bench.out)["benchmarks"][0]["decision"]["overall"]["false_refusal"]["value"]
        == 1.0
    )


def test_a_cutoff_that_is_no_date_is_the_callers_mistake(demur, news):
    result = demur(
        "temporal", news, "--cutoff", "spring", "--url", "http://127.0.0.1:9/v1", "--model", "m"
    )
    assert result.code == 2
    assert "2024-03-31" in result.err


def test_the_endpoint_takes_its_other_settings_by_set(demur, tmp_path, news):
    more = (
        "--set",
        "endpoint.max_tokens=77",
        "--set",
        "endpoint.in_flight=2",
        "--out",
        tmp_path / "t.jsonl",
    )
    with serving(scripted()) as (url, stub):
        flags = (news, "--cutoff", "2024-03-31", "--url", url, "--model", "stub")
        assert demur("temporal", *flags, *more).code == 0
        assert {body["max_tokens"] for body in stub.bodies} == {77}
        assert stub.most <= 2
        asked = len(stub.bodies)
        for override, message in (
            ("endpoint.tris=3", "did you mean 'tries'"),
            ("tries=3", "endpoint.KEY=VALUE"),
        ):
            wrong = demur("temporal", *flags, *more, "--set", override)
            assert wrong.code == 2
            assert message in wrong.err
    assert len(stub.bodies) == asked


def test_a_set_without_a_question_is_a_failure_that_says_why_and_can_go_on(demur, tmp_path, news):
    out = tmp_path / "t.jsonl"
    with serving(lambda n, b: (500, "down")) as (url, _):
        flags = (news, "--cutoff", "2024-03-31", "--url", url, "--model", "stub", "--out", out)
        result = demur("temporal", *flags, "--set", "endpoint.tries=1")
    assert result.code == 2
    assert "no question was made: 6 x question: no reply from the endpoint" in " ".join(
        result.err.split()
    )
    assert out.read_text() == ""
