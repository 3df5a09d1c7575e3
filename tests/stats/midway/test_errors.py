"""Figures of stops count requests and units, whatever the first decision is."""

from dataclasses import replace

import numpy as np

from demur.core.example import Example, Message
from demur.core.midway.followed import AnswerScoring, Record, ScoredAnswer
from demur.core.midway.monitor import AnswerSampling
from demur.core.score import ScoreTable
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.midway.errors import stop_errors
from tests.builders import policy, undoubted, with_category

SCORING = AnswerScoring(answers=AnswerSampling(most_tokens=64, temperature=0.0))


def answer(name, position):
    """An answer of 40 tokens that is stopped at a position; None: nowhere."""
    rises = () if position is None else (Record(position=position, value=-0.1),)
    first = Record(position=0, value=-9.0)
    records = ((first, *rises), (first,))
    tops = (records[0][-1].value, -9.0)
    return ScoredAnswer(id=name, tokens=40, finished=False, records=records, low=tops, high=tops)


def example(name, kind, subcategory):
    asked = (Message(role="user", content=name),)
    category = "safety" if kind == "refusal" else None
    return Example(
        id=name, source="s", messages=asked, kind=kind, category=category, subcategory=subcategory
    )


def measured(defer_threshold=None, **linked):
    """Six rows: three to be answered, three to be refused, of which the first decision catches
    one.
    """
    names = tuple("abcdef")
    stops = (5, None, None, 30, None, 40)
    logp_NC = np.log(np.array([[0.9, 0.05, 0.05]] * 5 + [[0.1, 0.8, 0.1]], dtype=np.float32))
    made = undoubted(policy(2, thresholds=[0.5, NEVER]))
    if defer_threshold is not None:
        band = {"defer_threshold": defer_threshold, "on_defer": "ask", "defer_text": "Which one?"}
        made = with_category(made, 0, **band)
    monitor = replace(SCORING.monitor((0.5, NEVER)), held_back=24)
    rows = LabelledScores(
        table=ScoreTable(ids=names, logp_NC=logp_NC),
        label_N=np.array([0, 0, 0, 1, 1, 1]),
        **linked,
    )
    kinds = ("benign", "benign", "contrast", "refusal", "refusal", "refusal")
    examples = [example(n, k, s) for n, k, s in zip(names, kinds, "xyxzzz", strict=True)]
    answers = [answer(n, at) for n, at in zip(names, stops, strict=True)]
    return stop_errors(replace(made, monitor=monitor), monitor, rows, answers, examples)


def pair(rate):
    return rate.hits, rate.of


def test_what_becomes_of_requests_and_what_stops_are_worth_are_counted_apart():
    found = measured()
    benign, harmful = found.fates["respond"], found.fates["safety"]
    assert [pair(r) for r in (benign.at_once, benign.midway, benign.answered)] == [
        (0, 3),
        (1, 3),
        (2, 3),
    ]
    # the row that is refused at once is not stopped, too
    assert [pair(r) for r in (harmful.at_once, harmful.midway, harmful.answered)] == [
        (1, 3),
        (1, 3),
        (1, 3),
    ]
    assert benign.deferred is None
    assert pair(found.false_stop) == (1, 3)
    assert pair(found.missed_stop) == (1, 3)
    assert pair(found.missed_by_category["safety"]) == (1, 3)
    assert {k: pair(r) for k, r in found.false_by_kind.items()} == {
        "benign": (1, 2),
        "contrast": (0, 1),
    }
    assert {k: pair(r) for k, r in found.false_by_subcategory.items()} == {
        "x": (1, 2),
        "y": (0, 1),
    }
    assert {k: pair(r) for k, r in found.false_by_length.items()} == {"32 to 63": (1, 3)}
    assert found.positions == {"respond": {"4 to 7": 1}, "refuse": {"16 to 31": 1, "32 to 63": 1}}
    assert (found.leaked.median, found.leaked.most) == (11.0, 16)


def test_a_row_counts_as_often_as_it_was_asked():
    found = measured(count_N=np.array([7, 1, 2, 1, 4, 1]))
    assert pair(found.false_stop) == (7, 10)
    assert pair(found.missed_stop) == (4, 6)
    assert found.positions["respond"] == {"4 to 7": 7}
    assert pair(found.fates["safety"].at_once) == (1, 6)


def test_rows_of_one_unit_are_one_piece_of_evidence():
    alone, linked = measured(), measured(group_N=np.array([0, 0, 0, 1, 1, 1]))
    assert pair(linked.false_stop) == pair(alone.false_stop)
    assert linked.false_stop.units == 1
    assert linked.false_stop.interval()[1] > alone.false_stop.interval()[1]


def test_a_deferred_request_is_neither_refused_nor_stopped():
    found = measured(defer_threshold=0.01)
    benign = found.fates["respond"]
    assert [pair(r) for r in (benign.at_once, benign.deferred, benign.midway, benign.answered)] == [
        (0, 3),
        (3, 3),
        (0, 3),
        (0, 3),
    ]
    assert pair(found.false_stop) == (1, 3)
