from dataclasses import replace

import pytest

from demur.base.errors import ConfigError
from demur.core.training.settings import TrainSettings, cpu, defaults, learnt, tiny


def test_settings_that_came_later_are_left_out_at_their_default_so_that_older_receipts_hold():
    later = {
        "thought": "none",
        "frozen_share": 0.5,
        "reply_share": 0.5,
        "balance": "category",
        "control_smoothing": 0.1,
        "validation_share": 0.1,
        "evaluate_every": 7,
        "patience": 9,
    }
    assert not set(later) & set(learnt(tiny()))
    assert {name: learnt(replace(tiny(), **later))[name] for name in later} == later
    assert learnt(replace(tiny(), processes=2, save_every=7)) == learnt(tiny())


def test_a_recipe_is_its_numbers_and_not_its_name():
    assert learnt(replace(cpu(), recipe="none")) == learnt(cpu())


@pytest.mark.parametrize(
    ("base", "recipe", "expected"),
    [
        (None, None, tiny()),
        (None, "none", tiny()),
        ("tiny", None, tiny()),
        ("some/model", None, TrainSettings(base="some/model")),
        ("some/model", "none", TrainSettings(base="some/model")),
        ("some/model", "cpu", cpu()),
        (None, "cpu", cpu()),
    ],
)
def test_one_rule_says_what_settings_are_that_nobody_gives(base, recipe, expected):
    assert defaults(base, recipe) == expected


def test_a_model_from_nothing_takes_no_other_recipe():
    with pytest.raises(ConfigError, match="starts from nothing"):
        replace(defaults("tiny", "cpu"), base="tiny", recipe="cpu")


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_reply_share_is_a_share(share):
    with pytest.raises(ConfigError, match="reply_share"):
        TrainSettings(reply_share=share)
