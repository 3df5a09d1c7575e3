"""The builder against a real HTTP endpoint on this machine, scripted to write and label
questions.
"""

import json
import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.chat_stub import completion, serving

from demur.base.errors import EngineError
from demur.engines.remote.chat_client import ChatClient, Endpoint
from demur.sources.files import FileSource
from demur.sources.news import Article, Cutoff
from demur.sources.temporal import MONTHS, QuestionBuilder, names_day
from demur.store.answers.reply_file import ReplyFile

CUTOFF = Cutoff(day=date(2024, 3, 31), margin_days=90)
OLD, NEW = date(1999, 5, 3), date(2024, 5, 3)
KEPT = {"unanswerable": 3, "answerable": 3}


def article(n, day):
    side = CUTOFF.side(day)
    return Article(
        day=day,
        title=f"Bridge {n} opens",
        opening=f"Bridge number {n} was opened by the council.",
        side=side,
    )


def articles(count):
    return [article(n, (OLD, NEW)[n % 2]) for n in range(count)]


def words_of(body):
    return body["messages"][0]["content"], body["messages"][1]["content"]


def write(number, day, text=None, event=None):
    default = f"Who opened bridge {number} on {day.day} {MONTHS[day.month - 1]} {day.year}?"
    return json.dumps(
        {"question": default if text is None else text, "event_date": (event or day).isoformat()}
    )


def knows(question):
    """What an honest labeller says of a question that names its year."""
    return "answerable" if "1999" in question else "unanswerable"


def scripted(written=None, label=None, model="stub-1"):
    """An endpoint that writes by `written`(n, day) and labels by `label`(question)."""

    def script(number, body):
        system, user = words_of(body)
        if "write one question" in system:
            n = int(re.search(r"Bridge (\d+) opens", user)[1])
            day = date.fromisoformat(re.search(r"article is of (\S+)\.", user)[1])
            text = (written or write)(n, day)
        else:
            text = (label or (lambda q: json.dumps({"label": knows(q)})))(user)
        return text if isinstance(text, tuple) else completion(text, model)

    return script


@pytest.fixture
def replies(tmp_path):
    file = ReplyFile(tmp_path / "replies.sqlite")
    yield file
    file.close()


def build(url, replies, count=6, **more):
    endpoint = Endpoint(
        **{"url": url, "model": "stub", "first_wait_s": 0.01, "tries": 2, "timeout_s": 60.0, **more}
    )
    builder = QuestionBuilder(chat=ChatClient(endpoint=endpoint), replies=replies, cutoff=CUTOFF)
    told = []
    built = builder.build(articles(count), lambda done, total: told.append((done, total)))
    return built, told


def sides(built):
    return {
        side: sum(q.side == side for q in built.questions)
        for side in ("unanswerable", "answerable")
    }


def test_questions_get_their_side_from_dates_and_no_reply_is_made_up(replies):
    with serving(scripted()) as (url, stub):
        built, told = build(url, replies)
    assert (sides(built), built.rejected, built.model) == (KEPT, {}, "stub-1")
    assert (len(stub.bodies), told[-1]) == (12, (12, 12))
    for question in built.questions:
        row = question.example()
        assert row.reply is None
        assert row.expected == ("refuse" if question.event == NEW else "respond")
        assert (row.category, row.kind) == (
            "unsupported",
            "refusal" if question.event == NEW else "contrast",
        )


def test_the_labeller_is_told_the_cutoff_and_neither_the_intent_nor_the_article(replies):
    with serving(scripted()) as (url, stub):
        build(url, replies)
    labelling = [words_of(b) for b in stub.bodies if "write one question" not in words_of(b)[0]]
    assert len({system for system, _ in labelling}) == 1
    assert "2024-03-31" in labelling[0][0]
    assert not any("council" in user or "answerable" in user for _, user in labelling)


def test_a_question_whose_label_does_not_confirm_its_intent_is_rejected(replies):
    with serving(scripted(label=lambda q: '{"label": "answerable"}')) as (url, _):
        built, _ = build(url, replies)
    assert sides(built) == {"unanswerable": 0, "answerable": 3}
    assert built.rejected == {"label: labelled answerable, meant unanswerable": 3}


def test_a_label_in_prose_is_read_with_the_longer_word_first(replies):
    def prose(question):
        return f"It is {knows(question)}, I think."

    with serving(scripted(label=prose)) as (url, _):
        assert sides(build(url, replies)[0]) == KEPT


@pytest.mark.parametrize(
    ("text", "event", "why"),
    [
        ("Who opened it?", None, "question: answerable, without its event's exact date"),
        (
            "Who opened it in May 1999?",
            None,
            "question: answerable, without its event's exact date",
        ),
        (
            "Who opened it on 4 May 1999?",
            None,
            "question: answerable, without its event's exact date",
        ),
        (
            "Who opened it last week, on 3 May 1999?",
            None,
            "question: answerable, with a relative time",
        ),
        (
            "Who opened it on 9 May 1999?",
            date(1999, 5, 9),
            "question: its event is dated after its article",
        ),
        ("", None, "question: the writer found no event with a day"),
    ],
)
def test_answerable_questions_name_their_exact_day_and_no_relative_time(replies, text, event, why):
    def written(n, day):
        return write(
            n,
            day,
            text if day == OLD and n == 0 else None,
            event if day == OLD and n == 0 else None,
        )

    with serving(scripted(written)) as (url, _):
        built, _ = build(url, replies, 2)
    assert built.rejected == {why: 1}
    assert sides(built) == {"unanswerable": 1, "answerable": 0}


def test_an_old_event_in_a_new_article_is_not_called_unanswerable(replies):
    with serving(scripted(lambda n, day: write(n, day, f"Who built bridge {n}?", OLD))) as (url, _):
        built, _ = build(url, replies)
    assert built.rejected["question: its event is not on its article's side of the cutoff"] == 3


def test_an_unanswerable_question_may_speak_of_this_week(replies):
    with serving(scripted(lambda n, day: write(n, day, f"Who opened bridge {n} this week?"))) as (
        url,
        _,
    ):
        built, _ = build(url, replies)
    assert sides(built) == {"unanswerable": 3, "answerable": 0}


def test_a_question_that_was_written_twice_is_kept_once(replies):
    with serving(scripted(lambda n, day: write(0, day))) as (url, _):
        built, _ = build(url, replies)
    assert (len(built.questions), built.rejected) == (2, {"question: a duplicate": 4})


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("I'd rather not.", "question: the reply holds no question"),
        ('{"question": "Who?"}', "question: the reply holds no question"),
        ('{"question": 7, "event_date": "1999-05-03"}', "question: the reply holds no question"),
        ('["a list"]', "question: the reply holds no question"),
        (
            '{"question": "Who?", "event_date": "May 1999"}',
            "question: its event's date is no YYYY-MM-DD",
        ),
        ((500, "down"), "question: no reply from the endpoint"),
    ],
)
def test_a_writer_that_errs_costs_its_question_and_is_counted(replies, reply, why):
    with serving(scripted(lambda n, day: reply)) as (url, _):
        built, _ = build(url, replies, 2)
    assert (built.questions, built.rejected) == ((), {why: 2})


def test_a_labeller_that_says_nothing_of_use_costs_the_question(replies):
    with serving(scripted(label=lambda q: "Hard to say.")) as (url, _):
        built, _ = build(url, replies, 2)
    assert built.rejected == {"label: the reply holds no label": 2}


def test_a_budget_stops_it_and_more_budget_goes_on_without_asking_twice(replies):
    with serving(scripted()) as (url, stub):
        first, _ = build(url, replies, most_calls=5, in_flight=1)
        assert first.rejected == {
            "question: not asked: the budget is spent": 1,
            "label: not asked: the budget is spent": 5,
        }
        assert len(stub.bodies) == 5
        second, _ = build(url, replies)
    assert sides(second) == KEPT
    assert len(stub.bodies) == 12
    assert len({json.dumps(b["messages"]) for b in stub.bodies}) == 12


def test_a_kill_loses_no_reply_that_came(replies, tmp_path):
    class Killed(ReplyFile):
        left = 4

        def put(self, key, said):
            super().put(key, said)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    with serving(scripted()) as (url, stub):
        # a task group wraps the interrupt or does not
        with pytest.raises(BaseException):  # noqa: B017, PT011
            build(url, Killed(tmp_path / "replies.sqlite"), in_flight=1)
        assert len(stub.bodies) == 4
        built, _ = build(url, replies)
    assert (sides(built), len(stub.bodies)) == (KEPT, 12)


def test_a_model_that_changes_its_name_stops_the_work(replies):
    with serving(scripted()) as (url, _):
        build(url, replies, 2)
    with serving(scripted(model="stub-2")) as (url, _), pytest.raises(EngineError, match="stub-2"):
        build(url, replies, 4)


def test_an_articles_own_instructions_stand_between_marks_that_it_cannot_know(replies):
    with serving(scripted()) as (url, stub):
        build(url, replies, 1)
    user = words_of(stub.bodies[0])[1]
    (mark,) = set(re.findall(r"<<[0-9a-f]{16}>>", user))
    assert user.count(mark) == 3
    assert user.rstrip().endswith(mark)


@given(
    day=st.dates(date(1900, 1, 1), date(2030, 1, 1)),
    other=st.dates(date(1900, 1, 1), date(2030, 1, 1)),
)
def test_a_day_is_found_in_its_usual_spellings_and_no_other_day_is(day, other):
    month = MONTHS[day.month - 1]
    spellings = (
        f"on {day.day} {month} {day.year}?",
        f"on {month} {day.day}, {day.year}?",
        f"on the {day.day}th of {month} {day.year}",
        f"on {day.isoformat()}",
    )
    for text in spellings:
        assert names_day(text, day)
        assert names_day(text, other) == (day == other)
    assert not names_day(f"in {month} {day.year}", day)


def test_the_rows_are_read_back_as_any_other_source(replies, tmp_path):
    from demur.cli.benches.temporal import _row

    with serving(scripted()) as (url, _):
        built, _ = build(url, replies)
    path = tmp_path / "temporal.jsonl"
    path.write_text(
        "".join(json.dumps(_row(q, CUTOFF)) + "\n" for q in built.questions), encoding="utf-8"
    )
    read = list(FileSource(folder=tmp_path, files=(path.name,)).read())
    assert [(e.id, e.expected) for e in read] == [
        (q.example().id, q.example().expected) for q in built.questions
    ]
