import json

import pytest

from demur.base.errors import ConfigError, DataError
from demur.stages.ability import Config, run
from demur.stats.paired import most_lost


def results(path, **tasks):
    """tasks: a string per task, + right and - wrong, an item each."""
    rows = [
        {"task": task, "id": str(n), "correct": mark == "+"}
        for task, marks in tasks.items()
        for n, mark in enumerate(marks)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_every_task_is_compared_item_by_item_and_all_bounds_hold_together(tmp_path):
    before = results(tmp_path / "a", arc="+" * 80 + "-" * 20, mmlu="+-" * 50)
    after = results(tmp_path / "b", arc="+" * 70 + "-" * 30, mmlu="+-" * 50)
    arc, mmlu = run(before, after, Config())
    assert (arc.task, arc.paired.lost, arc.paired.gained, mmlu.paired.lost) == ("arc", 10, 0, 0)
    assert arc.p_holm == pytest.approx(2 * arc.paired.p)
    (alone,) = run(
        results(tmp_path / "c", arc="+" * 80 + "-" * 20),
        results(tmp_path / "d", arc="+" * 70 + "-" * 30),
        Config(),
    )
    assert arc.bound > alone.bound > 0.1
    assert 0 < mmlu.bound < 0.06


def test_the_order_of_items_is_no_matter(tmp_path):
    rows = [{"task": "t", "id": str(n), "correct": n % 3 == 0} for n in range(30)]
    for name, ordered in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).write_text(
            "".join(json.dumps(r) + "\n" for r in ordered), encoding="utf-8"
        )
    (found,) = run(tmp_path / "a", tmp_path / "b", Config())
    assert (found.paired.gained, found.paired.lost, found.paired.p) == (0, 0, 1.0)


def test_items_that_share_groups_are_bounded_by_their_groups(tmp_path):
    def grouped(name, wrong):
        rows = [
            {"task": "t", "id": str(n), "correct": n not in wrong, "group": str(n // 2)}
            for n in range(60)
        ]
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return tmp_path / name

    (changed,) = run(grouped("a", {1}), grouped("b", {1, 4, 5, 9}), Config())
    assert changed.bound > most_lost(0, 3, 60, 0.05)  # 30 groups say less than 60 items
    (same,) = run(grouped("a", {1}), grouped("b", {1}), Config())
    assert same.bound > 3 / 30


def test_runs_over_other_items_or_tasks_are_refused(tmp_path):
    long, short = results(tmp_path / "a", arc="+++"), results(tmp_path / "b", arc="++")
    with pytest.raises(DataError, match="1 items are on one side only, first '2'"):
        run(long, short, Config())
    with pytest.raises(DataError, match=r"tasks \['arc'\] before, \['mmlu'\] after"):
        run(long, results(tmp_path / "c", mmlu="+++"), Config())
    with pytest.raises(ConfigError, match="confidence 1"):
        run(long, long, Config(confidence=1.0))
