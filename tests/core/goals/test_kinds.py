import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import GoalError, Undefined
from demur.core.decision import decide_many
from demur.core.goals.counts import Counts, Rows, two_way
from demur.core.goals.kinds import Named
from demur.core.goals.parse import parse_goal, stated_goal
from demur.core.goals.promised import PROMISED
from demur.core.rates import Rate
from tests.builders import policy

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "promises.json").read_text())
NAMES = ("a", "b", "c")
COUNTS = Counts(
    rows_LC=np.array([[80, 3, 2, 1], [4, 10, 5, 0], [6, 1, 20, 2], [0, 0, 7, 9]]),
    names=NAMES,
    active=NAMES,
)


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("natural", Rate(hits=60, of=150)),
        ("refusal_rate = 0.1", Rate(hits=60, of=150)),
        ("refusal_rate[b] = 0.1", Rate(hits=34, of=150)),
        ("refusal_rate[a + c] <= 0.1", Rate(hits=26, of=150)),
        ("false_refusal <= 0.1", Rate(hits=6, of=86)),
        ("false_refusal[a + b] <= 0.1", Rate(hits=5, of=86)),
        ("missed_refusal <= 0.1", Rate(hits=10, of=64)),
        ("missed_refusal[b] <= 0.1", Rate(hits=6, of=29)),
        ("wrong_category <= 0.1", Rate(hits=15, of=64)),
        ("wrong_category[a + c] <= 0.1", Rate(hits=12, of=35)),
        ("f1 max", 2 * 54 / (2 * 54 + 10 + 6)),
        ("f2 max", 5 * 54 / (5 * 54 + 4 * 10 + 6)),
        ("f1[b] max", 2 * 20 / (29 + 34)),
        ("micro_f1 max", 2 * 39 / (64 + 60)),
        ("macro_f1 max", (20 / 33 + 40 / 63 + 18 / 28) / 3),
        ("youden max", 54 / 64 - 6 / 86),
        ("cost: false=2 missed=5 missed[a]=20 wrong=.5", (2 * 6 + 5 * 6 + 20 * 4 + 0.5 * 15) / 150),
        ("false_refusal[contrast] <= 0.1", None),
        ("missed_refusal[d] <= 0.1", None),
        ("f1[d] max", None),
    ],
)
def test_a_figure_is_what_its_goal_says_it_counts(text, figure):
    found = parse_goal(text).figure(COUNTS)
    assert found == (
        figure if figure is None or isinstance(figure, Rate) else pytest.approx(figure)
    )


def test_counts_without_categories_tell_what_is_about_none():
    both = two_way(answered=80, false=6, missed=10, caught=54)
    whole = (
        "false_refusal <= 0.1",
        "missed_refusal <= 0.1",
        "refusal_rate <= 0.1",
        "f1 max",
        "youden max",
    )
    assert [parse_goal(t).figure(both) for t in whole] == [
        parse_goal(t).figure(COUNTS) for t in whole
    ]
    for text in ("false_refusal[a] <= 0.1", "micro_f1 max", "cost: false=1 missed=2"):
        assert parse_goal(text).figure(both) is None
    with pytest.raises(Undefined):
        parse_goal("f1 max").figure(two_way(answered=1, false=0, missed=0, caught=0))
    assert (
        not parse_goal("missed_refusal <= 0.1")
        .figure(two_way(answered=1, false=0, missed=0, caught=0))
        .defined
    )


@pytest.mark.parametrize("kind", PROMISED)
def test_every_promised_kind_reads_as_its_example_and_says_what_it_counts(kind):
    goal = parse_goal(kind.example)
    assert type(goal) is kind
    assert goal.labels
    assert goal.rows_words
    assert set(goal.deciders(NAMES)) <= set(NAMES)
    rows = Rows(label_N=np.array([0, 1, 2]), heaviest_N=np.array([1, 1, 1]), names=("safety", "b"))
    assert goal.could_err(rows).shape == (3,)


@given(
    kind=st.sampled_from(PROMISED),
    category=st.sampled_from([None, "a", "a+b", "two words", "contrast", "c, d"]),
    where=st.sampled_from(
        [(), (("source", ("x", "y;z")),), (("kind", ("benign",)), ("source", ("x",)))]
    ),
    level=st.floats(1e-9, 1, exclude_max=True),
)
def test_risk_and_level_say_the_whole_of_a_promise(kind, category, where, level):
    slices = tuple(part for part in where if part[0] != "kind" or kind.by_kind())
    goal = kind(text="", level=level, category=category, where=slices, soft=2)
    assert stated_goal(goal.risk, level) == goal.stated


@pytest.mark.parametrize(
    "text", ["natural", "f0.5 max", "f1[safety] max", "macro_f2 max", "youden max"]
)
def test_a_goal_without_a_level_is_known_by_its_risk(text):
    goal = parse_goal(text)
    assert stated_goal(goal.risk, goal.level) == goal


def test_a_promise_about_costs_keeps_the_name_only_as_its_file_does():
    stated = parse_goal("cost: false=1 missed=2 missed[a]=7").stated
    assert stated == stated_goal("cost", None)
    assert stated.risk == "cost"


def test_a_rate_to_be_met_is_told_from_one_to_be_kept_below():
    assert stated_goal("refusal_rate[a]", 0.1, measured=True) == parse_goal("refusal_rate[a] = 0.1")
    assert stated_goal("refusal_rate[a]", 0.1) == parse_goal("refusal_rate[a] <= 0.1")
    assert stated_goal("false_refusal", 0.1, measured=True) == parse_goal("false_refusal <= 0.1")


@pytest.mark.parametrize(
    ("risk", "level"), [("cost", None), ("a risk of tomorrow", 0.1), ("false_refusal", 7.0)]
)
def test_a_risk_that_cannot_be_read_stays_a_name(risk, level):
    goal = stated_goal(risk, level)
    assert goal == Named(text=risk, level=level)
    assert (goal.risk, goal.promised, goal.figure(COUNTS)) == (risk, False, None)


@pytest.mark.parametrize("expected", GOLDEN["bayes_thresholds"])
def test_cost_thresholds_equal_the_golden_ones(expected):
    goal = parse_goal(
        f"cost: false={expected['cost_false_refusal']} missed={expected['cost_missed_refusal']}"
    )
    assert goal.thresholds(("safety",))["safety"] == pytest.approx(expected["threshold"], rel=1e-12)


@given(false=st.sampled_from((0.5, 1, 3)), missed=st.sampled_from((0.4, 2, 7)))
def test_cost_thresholds_decide_as_the_cheaper_of_the_two_costs(false, missed):
    goal = parse_goal(f"cost: false={false} missed={missed}")
    p_N = np.linspace(0.005, 0.995, 98)
    logp_NC = np.log(np.stack([1 - p_N, p_N], axis=1)).astype(np.float32)
    template = policy(1)
    by_threshold = decide_many(
        template.with_thresholds(goal.thresholds(template.taxonomy.names)), logp_NC
    ).choice_N
    assert (by_threshold == (false * (1 - p_N) <= missed * p_N)).all()


def test_refusing_is_worth_what_it_saves():
    goal = parse_goal("cost: false=2 missed=5 missed[a]=20 wrong=.5")
    cells = list(product(range(3), (1, 2)))
    rows = Rows(
        label_N=np.array([c[0] for c in cells]),
        heaviest_N=np.array([c[1] for c in cells]),
        names=("a", "b"),
    )
    assert goal.worth(rows).tolist() == [-2, -2, 20, 19.5, 4.5, 5]
    with pytest.raises(GoalError, match="unknown category 'nope'"):
        parse_goal("cost: false=1 missed[nope]=2").worth(rows)
