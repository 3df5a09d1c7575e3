"""demur attack on a run of the tiny model."""

import json
import shutil

import pytest


@pytest.fixture
def run(tiny, tmp_path):
    return shutil.copytree(tiny[1].root, tmp_path / "run")


def test_a_run_is_attacked_in_several_ways_and_says_what_became_of_it(run, demur):
    told = demur("attack", run, "--attack", "plain", "--attack", "prefill-2", "--limit", 6)
    assert told.code == 0, told.err
    assert "prefill-2" in told.out
    assert "judge phrases" in told.out
    found = json.loads((run / "attack" / "attack.json").read_text())
    assert [row["requests"] + sum(row["left_out"].values()) for row in found["attacks"]] == [6, 6]
    assert "It has no monitor" in (run / "attack" / "attack.md").read_text()
    items = (run / "attack" / "attack.jsonl").read_text().splitlines()
    assert len(items) == sum(row["requests"] for row in found["attacks"])


def test_what_is_wrong_with_the_flags_is_said_before_anything_is_asked(run, demur):
    unknown = demur("attack", run, "--attack", "rolle")
    assert (unknown.code, "did you mean 'role'" in unknown.err) == (2, True)
    alone = demur("attack", run, "--attack", "attacker-2")
    assert (alone.code, "[attacker] with url and model" in alone.err) == (2, True)
    assert not (run / "attack").exists()
