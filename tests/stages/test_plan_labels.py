"""Plans of labels, held against what the procedures then do."""

import numpy as np
import pytest
from tests.builders import labelled, log_softmax, policy
from tests.fake_run import engine_for, examples, prepare

from demur.base.errors import ConfigError, GoalError
from demur.core.goals.parse import parse_goals
from demur.core.settings import CalibrateSettings
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.stages.plan_labels import Config, for_rows, for_run, run, sentence
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.results import Uncertified

BOTH = ("false_refusal <= 0.1", "missed_refusal <= 0.2")


def clear_rows(to_answer, to_refuse):
    """Rows whose scores tell the kinds apart without an error."""
    label_N = np.repeat([0, 1, 2], [to_answer, to_refuse // 2, to_refuse - to_refuse // 2])
    logits_NC = np.random.default_rng(0).normal(size=(len(label_N), 3)) * 0.1
    logits_NC[np.arange(len(label_N)), label_N] += 8.0
    return labelled(log_softmax(logits_NC), label_N)


def test_the_planned_numbers_are_those_at_which_certification_begins():
    false, missed = run(Config(goals=BOTH))
    how, goals = CertifyOptions(method="shared"), parse_goals(BOTH)
    assert isinstance(
        certify(goals, policy(2), clear_rows(false.needed, missed.needed), how), Granted
    )
    for fewer in ((false.needed - 1, missed.needed), (false.needed, missed.needed - 1)):
        assert isinstance(certify(goals, policy(2), clear_rows(*fewer), how), Uncertified)


def test_goals_of_both_sides_share_delta_and_learning_takes_rows():
    (alone,) = run(Config(goals=BOTH[:1]))
    both = run(Config(goals=BOTH))
    path = run(Config(goals=BOTH, method="path"))
    assert alone.needed < both[0].needed < path[0].needed
    assert run(Config(goals=BOTH, method="vectors"))[0].needed < path[0].needed


@pytest.mark.parametrize("method", ["budgets", "graphical"])
def test_budgets_need_as_many_as_one_category_needs_for_its_share(method):
    goal = "false_refusal <= 0.1"
    (row,) = run(Config(goals=(goal,), method=method, categories=2))
    how = CertifyOptions(method=method, explained=False)
    assert isinstance(
        certify(parse_goals(goal), policy(2), clear_rows(row.needed, 40), how), Granted
    )
    if method == "budgets":
        assert not isinstance(
            certify(parse_goals(goal), policy(2), clear_rows(row.needed - 1, 40), how), Granted
        )


def test_with_shares_the_smallest_one_decides_how_many_are_needed():
    goal, shares = "false_refusal <= 0.1", {"humanizing": 0.75, "safety": 0.25}
    (row,) = run(Config(goals=(goal,), method="budgets", shares=shares))
    (even,) = run(Config(goals=(goal,), method="budgets", categories=2))
    (alike,) = run(Config(goals=(goal,), method="budgets", shares=dict.fromkeys(shares, 0.5)))
    assert (alike.needed, alike.needed < row.needed) == (even.needed, True)
    how = CertifyOptions(method="budgets", shares=shares, explained=False)
    enough, fewer = (clear_rows(n, 40) for n in (row.needed, row.needed - 1))
    found = [certify(parse_goals(goal), policy(2), rows, how) for rows in (enough, fewer)]
    assert all(isinstance(f, Granted) for f in found)
    # safety, of the small share
    assert found[0].certified.thresholds[0] < NEVER == found[1].certified.thresholds[0]


def test_goals_that_may_be_given_up_cost_labels():
    goals = ("false_refusal <= 0.1", "missed_refusal <= 0.2 soft")
    hard, soft = (
        run(Config(goals=goals, on_failure=choice))[0] for choice in ("stop", "hard_only")
    )
    how = CertifyOptions(method="shared", on_failure="hard_only")
    assert hard.needed < soft.needed
    enough = certify(parse_goals(goals), policy(2), clear_rows(soft.needed, 60), how)
    assert isinstance(enough, Granted)
    assert not isinstance(
        certify(parse_goals(goals), policy(2), clear_rows(soft.needed - 14, 60), how), Granted
    )


def test_what_is_not_told_is_not_counted_as_zero():
    false, missed = run(Config(goals=BOTH, have={"safety": 30}))
    assert (false.have, missed.have) == (None, 30)


@pytest.mark.parametrize(
    ("goals", "more", "message"),
    [
        (("f1 max",), {}, "promises nothing"),
        (("false_refusal <= 0.1",), {"have": {"respond": -3}}, "-3 labels of 'respond'"),
        (("false_refusal <= 0.1",), {"method": "budgets", "categories": 0}, "over 0 categories"),
        (("missed_refusal[safety] <= 0.1",), {"have": {"safty": 30}}, "no label count of 'safety'"),
        (("false_refusal <= 0.1", "false_refusal <= 0.2"), {}, "contradict"),
        (("false_refusal <= 0.1",), {"confidence": 1.5}, "is not in"),
        (("missed_refusal <= 0.1",), {"method": "budgets"}, "cannot be split"),
        (("false_refusal <= 0.1",), {"method": "budgets"}, "divides levels"),
        (("false_refusal <= 0.1",), {"method": "budgets", "shares": {"safety": 0.6}}, "sum to 0.6"),
        (("false_refusal <= 0.1",), {"shares": {"safety": 1.0}}, "divides nothing by shares"),
        (
            ("false_refusal[a] <= 0.1",),
            {"method": "budgets", "shares": {"safety": 1.0}},
            "no share of 'a'",
        ),
    ],
)
def test_plans_that_make_no_sense_are_refused(goals, more, message):
    with pytest.raises(GoalError, match=message):
        run(Config(goals=goals, **more))


def test_a_slice_is_counted_by_what_stands_in_its_brackets():
    have = {"respond": 400, "contrast": 39, "source=mine": 20, "source=theirs": 70, "safety": 30}
    goals = (
        "false_refusal[contrast] <= 0.05",
        "false_refusal <= 0.05 in every source",
        "missed_refusal[safety] <= 0.1",
    )
    one, every, own = run(Config(goals=goals, have=have))
    assert (one.labels, one.have, one.allowed) == ("to be answered, of kind contrast", 39, None)
    assert (every.labels, every.have) == ("to be answered, in each source", 20)
    assert own.have == 30
    (unknown,) = run(Config(goals=("false_refusal[source=else] <= 0.05",), have=have))
    assert unknown.have is None
    (whole,) = run(Config(goals=("false_refusal <= 0.05",), have=have))
    assert whole.have == 400  # the slices are parts of it


def test_a_plan_for_rows_that_are_there_names_each_slice_that_is_too_small():
    rows = [e for e in examples(every=3) if e.kind != "benign" or e.source != "hostile"]
    goals = (
        "false_refusal <= 0.05 in every kind",
        "missed_refusal <= 0.001 in every category",
        "f1 max",
    )
    found = for_rows(Config(goals=goals), rows, coconot())
    assert [row.goal for row in found][:2] == [
        "false_refusal[kind=benign] <= 0.05",
        "false_refusal[kind=contrast] <= 0.05",
    ]
    assert len(found) == 7
    assert all(row.allowed is None and row.needed > row.have for row in found[2:])
    assert for_rows(Config(goals=("f1 max",)), rows, coconot()) == ()


def test_errors_at_hand_are_averaged_over_and_kinds_without_errors_are_assumed():
    goals = ("false_refusal <= 0.1", "missed_refusal[safety] <= 0.1")
    have = {"respond": 400, "safety": 60}
    half, assumed = run(Config(goals=goals, have=have))
    seen, same = run(Config(goals=goals, have=have, errors={"respond": 20}))
    assert (half.rate, same) == (0.05, assumed)
    assert seen.likely > half.likely  # the true rate may be above 20 / 400
    (none,) = run(Config(goals=goals[:1], have=have, errors={"respond": 39}))
    assert none.likely is None
    assert "no number does in 80% of draws" in sentence(none)
    with pytest.raises(GoalError, match="500 errors among the labels of 'respond'"):
        Config(goals=goals, have=have, errors={"respond": 500})


def test_more_success_takes_more_labels_and_all_goals_share_what_may_fail():
    (alone,) = run(Config(goals=BOTH[:1]))
    (surer,) = run(Config(goals=BOTH[:1], success=0.95))
    assert alone.likely < surer.likely
    assert (alone.success, surer.success) == (0.8, 0.95)
    with pytest.raises(GoalError, match="success 1"):
        Config(goals=BOTH, success=1.0)
    with pytest.raises(GoalError, match="'even' learns on rows to be refused"):
        run(Config(goals=BOTH, method="even"))


def test_first_decisions_and_stops_have_half_of_delta_each():
    goals = ("false_refusal <= 0.1", "false_stop <= 0.01")
    refusal, stop = run(Config(goals=goals))
    (alone,) = run(Config(goals=goals[1:]))
    assert alone.needed == 299  # (1 - .01)^299 <= .05
    assert stop.needed == 368  # at half of it
    assert refusal.needed == 36
    assert stop.labels == "to be answered"
    both = run(Config(goals=(*goals, "missed_stop[safety] <= 0.1"), method="path"))
    assert both[2].labels == "to be refused with safety"
    assert both[1].needed > stop.needed  # goals of both sides divide it again


def test_a_run_is_planned_by_its_test_rows_and_nothing_is_written(tmp_path):
    rows = examples(every=3)
    folder = prepare(tmp_path / "run", rows, engine_for(rows))
    before = sorted(p.stat().st_mtime_ns for p in folder.root.rglob("*"))
    goals = ("false_refusal <= 0.3", "missed_refusal <= 0.5", "precision >= 0.4")
    false, missed, precision = for_run(Config(goals=goals), CalibrateSettings(), coconot(), folder)
    assert 0 < false.have < precision.have
    assert false.have + missed.have >= precision.have  # a family may hold both
    assert precision.labels == "any"
    assert all(0.0 < row.rate < 1.0 for row in (false, missed, precision))
    assert sorted(p.stat().st_mtime_ns for p in folder.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("goals", "settings", "error"),
    [
        (("false_stop <= 0.1",), {}, "speaks of answers that are followed"),
        (("false_refusal <= 0.1",), {"cascade": True}, "a front decides, too"),
    ],
)
def test_what_a_plan_by_a_run_cannot_read_is_refused(goals, settings, error, tmp_path):
    rows = examples(every=6)
    folder = prepare(tmp_path / "run", rows, engine_for(rows))
    with pytest.raises((ConfigError, GoalError), match=error):
        for_run(Config(goals=goals), CalibrateSettings(**settings), coconot(), folder)
