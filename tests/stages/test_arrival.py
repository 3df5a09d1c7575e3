"""The order of rows under "anytime" is kept from look to look, and nothing seen may change."""

from dataclasses import replace

import pytest

from demur.base.errors import ConfigError, DataError
from demur.core.example import Example, Message
from demur.core.goals.parse import parse_goals
from demur.core.settings import CalibrateSettings
from demur.stages.arrival import check_anytime, in_arrival_order, in_known_order
from demur.store.run import RunFolder

CONFIG = CalibrateSettings(goal="false_refusal <= 0.1", method="anytime", seed=3)


def row(n, **given):
    kind, category = ("refusal", "safety") if n % 3 == 0 else ("benign", None)
    messages = (Message(role="user", content=f"request {n}"),)
    fields = {"id": str(n), "source": "s", "messages": messages, "kind": kind, "category": category}
    return Example(**{**fields, **given})


def ids(rows):
    return [e.id for e in rows]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_rows_of_earlier_looks_keep_their_places_and_new_ones_come_after_them(folder):
    first, arrived = in_arrival_order(CONFIG, folder, [row(n) for n in range(20)])
    assert (arrived.first, arrived.learn) == (20, 8)
    assert ids(first) != ids(sorted(first, key=lambda e: int(e.id)))  # drawn by the seed
    grown = [row(n) for n in (25, *range(20), 24)]  # wherever the file has the new ones
    again, same = in_arrival_order(CONFIG, folder, grown)
    assert ids(again[:20]) == ids(first)
    assert set(ids(again[20:])) == {"24", "25"}
    assert same == arrived
    assert in_arrival_order(CONFIG, folder, grown[::-1])[0] == again
    assert in_known_order(folder, {"seed": 3, "sources": []}, grown) == (again, arrived)


def test_rows_of_one_unit_stay_together_and_learn_as_one(folder):
    rows = [row(n, group=f"g{n // 4}") for n in range(20)]
    ordered, arrived = in_arrival_order(CONFIG, folder, rows)
    groups = [e.group for e in ordered]
    assert len(list(dict.fromkeys(groups))) == sum(
        a != b for a, b in zip(groups, [None, *groups], strict=False)
    )
    assert arrived.learn == 8
    assert not set(groups[: arrived.learn]) & set(groups[arrived.learn :])


def test_the_file_does_not_choose_the_row_that_speaks_for_a_unit(folder):
    # families whose first row in the file is an original that never errs
    rows = [row(n, group=f"g{n // 5}", count=4 if n % 5 == 4 else 1) for n in range(2000)]
    ordered, _ = in_arrival_order(CONFIG, folder, rows)
    firsts = list({e.group: int(e.id) % 5 for e in reversed(ordered)}.values())
    # each first with its part of the eight requests of its unit
    expected = [50, 50, 50, 50, 200]
    assert [firsts.count(k) for k in range(5)] == pytest.approx(expected, abs=35)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: [
            replace(rows[1], id="9", kind="refusal", category="safety"),
            *rows[2:],
            rows[0],
        ],
        lambda rows: [replace(rows[1], messages=(Message(role="user", content="x"),)), *rows[2:]],
    ],
    ids=["gone", "labelled otherwise", "another prompt"],
)
def test_rows_that_leave_or_change_are_refused(folder, change):
    rows = [row(n) for n in range(10)]
    in_arrival_order(CONFIG, folder, rows)
    with pytest.raises(DataError, match="rows of earlier looks are gone") as e:
        in_arrival_order(CONFIG, folder, change(rows))
    assert "only add rows" in e.value.hint


def test_other_ids_and_counts_are_the_same_rows(folder):
    rows = [row(n) for n in range(10)]
    first, _ = in_arrival_order(CONFIG, folder, rows)
    renamed = [replace(e, id=f"new {e.id}", count=3) for e in rows]
    again, _ = in_arrival_order(CONFIG, folder, renamed)
    assert ids(again) == [f"new {i}" for i in ids(first)]


def test_an_order_that_the_ledger_does_not_hold_is_named(folder):
    in_arrival_order(CONFIG, folder, [row(n) for n in range(10)])
    with pytest.raises(DataError, match="order of 2 of the 12 rows"):
        in_known_order(folder, {"seed": 3}, [row(n) for n in range(12)])


@pytest.mark.parametrize(
    "beside",
    [
        {"calibrator": "temperature"},
        {"spend": 6},
        {"mix": {"kind": {"benign": 1.0}}},
        {"goal": "false_refusal <= 0.1 in every source"},
    ],
)
def test_what_would_change_from_look_to_look_is_refused_beside_it(beside):
    config = replace(CONFIG, **beside)
    with pytest.raises(ConfigError, match="as it was at the first look"):
        check_anytime(config, parse_goals(config.goal), 0)
    with pytest.raises(ConfigError, match="2 prompts without an outcome"):
        check_anytime(CONFIG, parse_goals(CONFIG.goal), 2)
