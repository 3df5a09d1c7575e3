from dataclasses import replace

from demur.core.training import learnt, tiny


def test_settings_that_came_later_are_left_out_at_their_default_so_that_older_receipts_hold():
    later = {"thought": "none", "frozen_share": 0.5}
    assert not set(later) & set(learnt(tiny()))
    assert {name: learnt(replace(tiny(), **later))[name] for name in later} == later
    assert learnt(replace(tiny(), processes=2, save_every=7)) == learnt(tiny())
