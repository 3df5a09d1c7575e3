import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import GoalError
from demur.core.goals.kinds import Cost, FBeta, MacroFBeta, MicroFBeta, Natural, TargetRate, Youden
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.goals.promised import (
    FalseDiscovery,
    FalseRefusal,
    MissedRefusal,
    RefusalRate,
    WrongCategory,
)


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("natural", {"kind": Natural}),
        ("f1 max", {"kind": FBeta, "beta": 1.0}),
        (" f0.5\t max ", {"kind": FBeta, "beta": 0.5}),
        ("youden max", {"kind": Youden}),
        ("refusal_rate = 0.10", {"kind": TargetRate, "level": 0.1}),
        ("refusal_rate=1", {"kind": TargetRate, "level": 1.0}),
        ("refusal_rate = 0.7%", {"kind": TargetRate, "level": 0.007}),
        (
            "refusal_rate[humanizing] = 10 %",
            {"kind": TargetRate, "level": 0.1, "category": "humanizing"},
        ),
        ("refusal_rate[two words]=.5", {"kind": TargetRate, "level": 0.5, "category": "two words"}),
        ("cost: false=1 missed=5.5", {"kind": Cost, "false": 1.0, "missed": 5.5}),
        ("false_refusal <= 5e-2", {"kind": FalseRefusal, "level": 0.05}),
        (
            "false_refusal[safety] <= 1%",
            {"kind": FalseRefusal, "level": 0.01, "category": "safety"},
        ),
        ("missed_refusal <= .1 hard", {"kind": MissedRefusal, "level": 0.1}),
        (
            "missed_refusal[ a + two  words ] <= .1 soft",
            {
                "kind": MissedRefusal,
                "level": 0.1,
                "category": "a+two words",
                "soft": 1,
            },
        ),
        (
            "wrong_category[a] <= 0.1 soft 3",
            {"kind": WrongCategory, "level": 0.1, "category": "a", "soft": 3},
        ),
        (
            "false_refusal[contrast] <= 0.1",
            {"kind": FalseRefusal, "level": 0.1, "where": (("kind", ("contrast",)),), "bare": True},
        ),
        (
            "false_refusal[ kind = contrast , source = xstest ] <= 0.1",
            {
                "kind": FalseRefusal,
                "level": 0.1,
                "where": (("kind", ("contrast",)), ("source", ("xstest",))),
            },
        ),
        (
            'missed_refusal[a + b, source="c, d + e; f" + g] <= .1 soft 2',
            {
                "kind": MissedRefusal,
                "level": 0.1,
                "category": "a+b",
                "where": (("source", ("c, d + e; f", "g")),),
                "soft": 2,
            },
        ),
        (
            "false_refusal[category=contrast] <= 0.1",
            {"kind": FalseRefusal, "level": 0.1, "category": "contrast"},
        ),
        (
            "false_refusal <= 5% in every source soft",
            {"kind": FalseRefusal, "level": 0.05, "every": "source", "soft": 1},
        ),
        ("precision >= 0.9", {"kind": FalseDiscovery, "level": 0.1}),
        (
            "precision[a + b] >= 70% soft",
            {"kind": FalseDiscovery, "level": 0.3, "category": "a+b", "soft": 1},
        ),
        (
            "precision >= .9 in every source",
            {"kind": FalseDiscovery, "level": 0.1, "every": "source"},
        ),
        (
            "missed_refusal[safety, turn=later, tenant=acme] <= 10%",
            {
                "kind": MissedRefusal,
                "level": 0.1,
                "category": "safety",
                "where": (("tenant", ("acme",)), ("turn", ("later",))),
            },
        ),
        (
            "false_refusal <= 0.1 in every language",
            {"kind": FalseRefusal, "level": 0.1, "every": "language"},
        ),
        (
            "refusal_rate[benign] <= 2%",
            {"kind": RefusalRate, "level": 0.02, "where": (("kind", ("benign",)),), "bare": True},
        ),
        (
            "refusal_rate[contrast] = 2%",
            {"kind": TargetRate, "level": 0.02, "category": "contrast"},
        ),
        (
            "missed_refusal[contrast] <= 2%",
            {"kind": MissedRefusal, "level": 0.02, "category": "contrast"},
        ),
        ("refusal_rate[a] <= 10%", {"kind": RefusalRate, "level": 0.1, "category": "a"}),
        ("f2[safety] max", {"kind": FBeta, "beta": 2.0, "category": "safety"}),
        ("macro_f0.5 max", {"kind": MacroFBeta, "beta": 0.5}),
        ("micro_f1 max", {"kind": MicroFBeta, "beta": 1.0}),
        (
            "cost: false=1 missed[safety]=20",
            {
                "kind": Cost,
                "false": 1.0,
                "missed": 1.0,
                "missed_of": (("safety", 20.0),),
            },
        ),
        (
            "cost: false=2 wrong=.5 missed[a]=20 missed=5",
            {
                "kind": Cost,
                "false": 2.0,
                "missed": 5.0,
                "missed_of": (("a", 20.0),),
                "wrong": 0.5,
            },
        ),
    ],
)
def test_goals_read_as_they_look(text, goal):
    read = parse_goal(text)
    kind, fields = goal["kind"], {name: value for name, value in goal.items() if name != "kind"}
    assert read == kind(text=text, **fields)
    assert read.text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "caret", "expected", "hint"),
    [
        ("", 0, "a goal", "goals read like"),
        ("nautral", 0, "a goal", "did you mean 'natural'"),
        ("F1 max", 0, "a goal", "did you mean 'f1'"),
        ("refusal rate = 0.1", 0, "a goal", "did you mean 'refusal_rate'"),
        ("f1", 2, "'max'", ""),
        ("f1 mx", 3, "'max'", "did you mean 'max'"),
        ("f0 max", 0, "beta above 0", ""),
        ("f1 max now", 7, "nothing more", ""),
        ("youden", 6, "'max'", ""),
        ("false_refusal < 0.05", 14, "'<='", "did you mean '<='"),
        ("false_refusal <= 0", 17, "strictly between 0 and 1", ""),
        ("false_refusal <= 100%", 17, "strictly between 0 and 1", ""),
        ("false_refusal <= 1e-300", 17, "1e-09 at least", ""),
        ("refusal_rate = 0,05", 16, "nothing more", ""),
        ("refusal_rate = -1", 15, "from 0 to 1", ""),
        ("refusal_rate = 10", 15, "from 0 to 1", ""),
        ("refusal_rate[safety = .1", 12, "closed by ']'", ""),
        ("refusal_rate[ ] = .1", 12, "between the brackets", ""),
        ("refusal_rate(safety) = .1", 12, "'='", ""),
        ("cost false=1 missed=2", 5, "':'", ""),
        ("cost: false=1 mised=2", 14, "'missed'", "did you mean 'missed'"),
        ("cost: false=0 missed=2", 12, "a cost above 0", ""),
        ("cost:\tfalse=1  missed=", 22, "a cost above 0", ""),
        ("cost: missed=2 false=1", 6, "'false'", ""),
        ("cost: false=1", 13, "'missed'", ""),
        ("cost: false=1 wrong=1", 21, "'missed'", ""),
        ("cost: false=1 missed=2 missed=3", 29, "each cost once", ""),
        ("missed_refusal[safety] < 2%", 23, "'<='", "did you mean '<='"),
        ("missed_refusal <= 2% sofd", 21, "'soft', 'hard' or nothing more", ""),
        ("missed_refusal <= 2% soft 0", 26, "a priority", ""),
        ("missed_refusal <= 2% soft 1.5", 26, "a priority", ""),
        ("missed_refusal[a + a] <= 2%", 14, "each category once", ""),
        ("missed_refusal[a + ] <= 2%", 14, "between the brackets", ""),
        ("mised_refusal <= 2%", 0, "a goal", "did you mean 'missed_refusal'"),
        ("f1 max soft", 7, "nothing more", ""),
        ("false_refusal[sorce=x] <= .1", 13, "turn= before names", "did you mean 'source'"),
        ("precision <= .9", 10, "a precision is bounded from below", ""),
        ("precision >= 1", 13, "strictly between 0 and 1", ""),
        ("precision[kind=contrast] >= .9", 9, "it makes the errors", ""),
        ("false_refusal >= .9", 14, "'<='", ""),
        ("missed_refusal[tenat=x] <= .1", 14, "turn= before names", "did you mean 'tenant'"),
        ("missed_refusal[turn=latr] <= .1", 14, "turns first, later", "did you mean 'later'"),
        ("missed_refusal[turn=first, turn=later] <= .1", 14, "turn once", ""),
        ("missed_refusal <= .1 in every tennant", 30, "'tenant'", "did you mean 'tenant'"),
        ("missed_refusal[turn=later] <= .1 in every turn", 42, "'tenant'", ""),
        (
            "false_refusal[kind=contrst] <= .1",
            13,
            "kinds contrast, benign",
            "did you mean 'contrast'",
        ),
        ("false_refusal[kind=refusal] <= .1", 13, "instead of 'refusal'", ""),
        ("false_refusal[contrast + a] <= .1", 13, "do not pool", ""),
        ("false_refusal[a, b] <= .1", 13, "pooled with '+'", ""),
        ("missed_refusal[kind=contrast] <= .1", 14, "no kind", ""),
        ("false_refusal <= .1 in every souce", 29, "'source'", "did you mean 'source'"),
        ("missed_refusal <= .1 in every kind", 30, "'category' or 'source'", ""),
        ("false_refusal[contrast] <= .1 in every kind", 39, "'category' or 'source'", ""),
        ("refusal_rate[source=a] = .1", 12, "one of all traffic", ""),
        ("f1[source=a] max", 2, "only promises speak of slices", ""),
        ('false_refusal[source="a] <= .1', 13, "closed by ']'", ""),
        ("macro_f1[a] max", 8, "'max'", ""),
    ],
)
def test_an_unreadable_goal_points_at_the_offending_character(text, caret, expected, hint):
    with pytest.raises(GoalError) as raised:
        parse_goal(text)
    _, shown, pointer = raised.value.message.split("\n")
    assert shown == "    " + text.replace("\t", " ")
    assert pointer.index("^") - 4 == caret
    assert expected in pointer
    assert hint in raised.value.hint


@given(st.text(max_size=40) | st.text("f1max cost:=.[]%<refusal_rate5e+-", max_size=40))
def test_any_text_is_a_goal_or_a_goal_error_inside_the_text(text):
    try:
        goal = parse_goal(text)
    except GoalError as error:
        pointer = error.message.rsplit("\n", 1)[1]
        found = 0 <= pointer.index("^") - 4 <= len(text)
    else:
        found = goal.text == " ".join(text.split())
    assert found


def test_every_example_in_the_hint_is_a_goal():
    with pytest.raises(GoalError) as raised:
        parse_goal("?")
    examples = re.sub(".*like: ", "", raised.value.hint).split("; ")
    assert len({type(parse_goal(e)) for e in examples}) == 14


def test_several_goals_come_as_lines_or_with_semicolons_between():
    lines = ["false_refusal <= 0.05", "missed_refusal[safety] <= 2% soft 2", "f1 max"]
    goals = parse_goals(lines)
    assert goals == parse_goals("; ".join(lines))
    assert [g.risk for g in goals] == ["false_refusal", "missed_refusal[safety]", "f1"]
    assert [(g.promised, g.optimum) for g in goals] == [(True, False), (True, False), (False, True)]
    assert [g.soft for g in goals[:2]] == [None, 2]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["natural", "f1 max"], "sets no threshold"),
        (["f1 max", "youden max"], "only one thing can be the best"),
        (["false_refusal <= 0.05", "false_refusal <= 0.02"], "both set false_refusal"),
        (["refusal_rate = 0.1", "refusal_rate <= 0.2"], "both set refusal_rate"),
        (
            ["false_refusal[tenant=a + b] <= 0.1", "false_refusal[tenant=b + a] <= 0.2"],
            "both set false_refusal",
        ),
        (
            ["false_refusal <= 0.1 in every turn", "false_refusal <= 0.2 in every turn"],
            "in every turn",
        ),
        (
            ["refusal_rate[kind=refusal, turn=later] <= 0.7", "missed_refusal[turn=later] <= 0.2"],
            "at most 0.7 may be refused and at most 0.2 answered",
        ),
        (["refusal_rate[a] = 0.3", "refusal_rate <= 0.2"], "larger than the whole"),
        (["refusal_rate = 0.2", "refusal_rate[a] = 0.1"], "one shared threshold"),
        (
            ["refusal_rate[a] = 0.6", "refusal_rate[b] = 0.6"],
            "sum to 1.2, above the 1 of all traffic",
        ),
        (
            ["refusal_rate[a] = 0.1", "refusal_rate[b] = 0.15", "refusal_rate <= 0.2"],
            "sum to 0.25, above the 0.2",
        ),
        (
            ["refusal_rate[a] = 0.1", "refusal_rate[b] = 0.2", "refusal_rate[a+b] <= 0.2"],
            "sum to 0.3, above the 0.2",
        ),
    ],
)
def test_goals_that_contradict_each_other_are_both_named(texts, why):
    with pytest.raises(GoalError, match=why) as raised:
        parse_goals(texts)
    assert all(repr(t) in raised.value.message for t in texts)


def test_parts_that_fill_their_whole_exactly_are_no_contradiction():
    assert (
        len(parse_goals("refusal_rate[a] = 0.1; refusal_rate[b] = 0.2; refusal_rate <= 0.3")) == 3
    )
    assert (
        len(parse_goals("refusal_rate[a] = 0.1; refusal_rate[b] = 0.2; refusal_rate[c] = 0.7")) == 3
    )


def test_a_slice_and_its_complement_may_just_fill_the_whole():
    texts = ["refusal_rate[kind=refusal] <= 0.9", "missed_refusal <= 0.1"]
    assert len(parse_goals(texts)) == 2
    # of other rows each
    assert len(parse_goals([texts[0], "missed_refusal[turn=later] <= 0.01"])) == 2


def test_no_goal_is_an_error():
    with pytest.raises(GoalError, match="no goal"):
        parse_goals([])
