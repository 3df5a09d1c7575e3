import json
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ConfigError, DataError
from demur.sources.news import SENTENCES, Cutoff, read_news

CUTOFF = Cutoff(day=date(2024, 3, 31), margin_days=90)
BODY = "The council opened the new bridge. Thousands walked over it before noon."


def line(day, title="Bridge opens", body=BODY, **more):
    return json.dumps({"date": day, "title": title, "body": body, **more})


def read(tmp_path, *lines):
    path = tmp_path / "news.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_news(path, CUTOFF)


@given(day=st.dates(date(1990, 1, 1), date(2030, 1, 1)), margin=st.integers(0, 900))
def test_answerable_exactly_before_cutoff_minus_margin_and_unanswerable_only_after_the_cutoff(
    day, margin
):
    side = Cutoff(day=CUTOFF.day, margin_days=margin).side(day)
    assert (side == "answerable") == (day < CUTOFF.day - timedelta(days=margin))
    assert (side == "unanswerable") == (day > CUTOFF.day)


def test_a_negative_margin_is_refused():
    with pytest.raises(ConfigError):
        Cutoff(day=CUTOFF.day, margin_days=-1)


def test_articles_are_sorted_by_their_date_and_both_sides_take_turns(tmp_path):
    old = [line(f"1999-05-{n:02}", f"Old {n}") for n in range(1, 5)]
    new = [line(f"2024-05-{n:02}", f"New {n}") for n in range(1, 3)]
    articles, rejected = read(tmp_path, *old, *new)
    assert [a.title for a in articles] == ["New 1", "Old 1", "New 2", "Old 2", "Old 3", "Old 4"]
    assert [a.side for a in articles[:2]] == ["unanswerable", "answerable"]
    assert not rejected


def test_everything_that_is_not_used_is_named_by_its_place_and_reason(tmp_path):
    articles, rejected = read(
        tmp_path,
        line("2024-05-01"),
        line("2024-05-09", title="BRIDGE opens!"),  # the same again, a week later
        line("2024-03-01"),
        line("soon"),
        line("2024-05-01", body="Too short."),
        json.dumps({"date": "2024-05-01", "title": "No body"}),
        json.dumps(["no", "object"]),
        '{"date": "2024-',
        "",
    )
    assert len(articles) == 1
    found = {
        why: [int(place.removeprefix(f"{tmp_path}/news.jsonl:")) for place in at]
        for why, at in rejected.items()
    }
    assert found == {
        "article: a duplicate": [2],
        "article: too near to the cutoff": [3],
        "article: its date is no YYYY-MM-DD": [4],
        "article: its body has fewer than 40 characters": [5],
        "article: no date, title or body": [6, 7],
        "article: the line is no JSON": [8],
    }


def test_only_the_first_sentences_are_read_and_a_time_of_day_is_no_fault(tmp_path):
    body = " ".join(f"Sentence number {n} is here." for n in range(30))
    ((article,), _) = read(tmp_path, line("2024-05-01T08:30:00Z", body=body))
    assert article.day == date(2024, 5, 1)
    assert article.opening.count(".") == SENTENCES


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(DataError, match="news"):
        read_news(tmp_path / "news.jsonl", CUTOFF)
    with pytest.raises(DataError, match="holds no article"):
        read(tmp_path, "", " ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "news.jsonl"
    path.write_text(line("2024-05-01") + "\r\n", encoding=encoding)
    assert len(read_news(path, CUTOFF)[0]) == 1
