"""Turning back: its settings, and the draws of its rows."""

from dataclasses import replace
from pathlib import Path

import pytest

from demur.base.errors import ConfigError, DataError
from demur.core.example import Example, Message
from demur.core.training.settings import TrainSettings, cpu, learnt, tiny
from demur.core.training.turn_back import (
    TurnBack,
    cut_at_sentence,
    cut_at_token,
    is_drawn,
    kept_positions,
    may_turn_back,
    rows_to_harvest,
)


def row(name: str, kind: str = "refusal", **more: object) -> Example:
    asked = (Message(role="user", content=f"ask {name}"),)
    category = None if kind == "benign" else "safety"
    return Example(id=name, source="t", messages=asked, kind=kind, category=category, **more)


@pytest.mark.parametrize("length", [1, 2, 9, 10, 64, 300])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_an_exact_share_of_the_positions_is_kept_and_never_none(length, share):
    kept = kept_positions("a", length, share, seed=3)
    assert len(kept) == max(1, round(share * length))
    assert list(kept) == sorted(set(kept))
    assert set(kept) <= set(range(length))
    assert kept == kept_positions("a", length, share, seed=3)


def test_every_position_is_kept_alike_the_first_one_too_and_a_seed_draws_others():
    counts = [0] * 20
    for n in range(4000):
        for at in kept_positions(f"row {n}", 20, 0.1, seed=0):
            counts[at] += 1
    assert sum(counts) == 8000
    # 400 expected at each of 20 positions, standard deviation 19
    assert min(counts) > 310
    assert max(counts) < 490
    assert kept_positions("a", 300, 0.1, 0) != kept_positions("a", 300, 0.1, 1)


def test_a_smaller_share_of_rows_is_a_part_of_a_larger_one():
    rows = [row(str(n)) for n in range(2000)]
    some, more = ({e.id for e in rows if is_drawn(e, share, 5)} for share in (0.2, 0.5))
    assert some < more
    assert len(some) == pytest.approx(400, abs=80)
    assert not any(is_drawn(e, 0.0, 5) for e in rows)
    assert all(is_drawn(e, 1.0, 5) for e in rows)


def test_a_prefix_is_cut_at_sentence_ends_for_half_of_the_rows_and_anywhere_for_the_others():
    text = 'First one. He said "now!" Then: a list\n1. two and the rest'
    cut = [cut_at_sentence(str(n), text, seed=0) for n in range(1000)]
    assert sum(one is None for one in cut) == pytest.approx(500, abs=60)
    assert set(cut) == {
        None,
        "First one.",
        'First one. He said "now!"',
        'First one. He said "now!" Then: a list',
    }
    assert cut_at_sentence("a", "no end at all", seed=0) is None
    tokens = [cut_at_token(str(n), 7, seed=0) for n in range(1000)]
    assert set(tokens) == set(range(1, 8))


def test_only_refusals_that_are_not_rewritten_turn_back():
    assert may_turn_back(row("a"))
    assert not may_turn_back(row("b", "contrast"))
    assert not may_turn_back(row("c", traits=(("rewrite", "padding"),)))
    rows = [row("a"), row("b", "benign"), row("c", prefix="It has one")]
    assert [e.id for e in rows_to_harvest(rows, TurnBack(turn_back_share=1.0), 0)] == ["a"]


@pytest.mark.parametrize(
    ("kind", "prefix"), [("benign", "Well"), ("contrast", "Well"), ("refusal", " ")]
)
def test_a_prefix_belongs_to_a_refusal(kind, prefix):
    with pytest.raises(DataError, match="has the prefix"):
        row("a", kind, prefix=prefix)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"turn_back_share": 1.5}, "turn_back_share = 1.5"),
        ({"turn_back_share": 0.0, "transition_share": 0.0}, "both 0"),
        ({"kept_share": 0.0}, "kept_share = 0.0"),
        ({"weight": 0.0}, "weight 0.0"),
        ({"most_tokens": 0}, "most_tokens 0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TurnBack(**wrong)


def test_what_turning_back_cannot_be_learnt_with_is_refused():
    with pytest.raises(ConfigError, match=r"packing and train\.turn_back"):
        TrainSettings(packing=True, turn_back=TurnBack())
    with pytest.raises(ConfigError, match="most_tokens = 600 is not below"):
        replace(cpu(), turn_back=TurnBack(most_tokens=600))
    with pytest.raises(ConfigError, match="starts from nothing"):
        replace(tiny(), turn_back=TurnBack(prefixes="harvest"))


def test_receipts_of_before_hold_and_do_not_hold_where_a_file_lies():
    assert "turn_back" not in learnt(cpu())
    there = replace(cpu(), turn_back=TurnBack(prefixes=Path("/a/b.jsonl"), keep_text=True))
    here = replace(cpu(), turn_back=TurnBack(prefixes=Path("/c/d.jsonl")))
    assert learnt(there) == learnt(here)
    assert learnt(here)["turn_back"]["prefixes"] == "file"
    assert learnt(here) != learnt(replace(cpu(), turn_back=TurnBack()))
