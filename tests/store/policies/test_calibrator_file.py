import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import PolicyError
from demur.core.calibrator import Fitted
from demur.core.decision import decide_many
from demur.core.maps.correctness import CorrectnessAware
from demur.core.maps.multiclass import Temperature
from demur.store.policies.calibrator_file import read_correctness_aware, write_correctness_aware
from demur.store.policies.policy_file import policy_digest, policy_from_json, policy_to_json
from tests.builders import logp, policies, policy, taxonomy
from tests.core.calibrators import any_map

RULES = ("natural", "heaviest", "released", "sum", "any", "bias")


@settings(max_examples=150)
@given(st.data(), st.integers(1, 3))
def test_a_calibrator_in_a_policy_decides_bit_for_bit_alike_after_writing_and_reading(data, k):
    calibrator = Fitted(tokens=taxonomy(k).tokens, map=data.draw(any_map(k + 1)))
    written = replace(data.draw(policies(k, RULES)), calibrator=calibrator)
    read = policy_from_json(json.loads(json.dumps(policy_to_json(written))), "here")
    assert read == written
    assert policy_digest(read) == policy_digest(written)
    logp_NC = data.draw(logp(k))
    assert np.array_equal(read.calibrator.apply(logp_NC), written.calibrator.apply(logp_NC))
    before, after = decide_many(written, logp_NC), decide_many(read, logp_NC)
    assert np.array_equal(before.choice_N, after.choice_N)
    assert np.array_equal(before.margin_N, after.margin_N)


def changed(**fields):
    calibrator = Fitted(tokens=taxonomy(2).tokens, map=Temperature(temperature=1.5))
    value = policy_to_json(replace(policy(2), calibrator=calibrator))
    return value | {"calibrator": value["calibrator"] | fields}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            changed(map={"kind": "temperature", "temperature": 0.0}),
            "temperature 0.0 is not above 0",
        ),
        (changed(map={"kind": "temperature", "temperature": float("nan")}), "finite"),
        (
            changed(map={"kind": "temperature", "temperature": 1.0, "beta": 2.0}),
            "beta: unknown key",
        ),
        (changed(map={"kind": "spline"}), "'spline'"),
        (
            changed(map={"kind": "vector", "weights": [1.0], "offsets": [0.0]}),
            "a calibrator for 1 control tokens",
        ),
        (changed(tokens=["[a]", "[b]", "[c]"]), "the calibrator was fitted on"),
    ],
)
def test_a_damaged_calibrator_is_named(value, says):
    with pytest.raises(PolicyError) as e:
        policy_from_json(value, "here")
    assert e.value.message.startswith("here: ")
    assert says in e.value.message
    assert e.value.hint


def test_a_misspelt_key_of_a_map_is_met_with_the_right_one():
    with pytest.raises(PolicyError) as e:
        policy_from_json(
            changed(map={"kind": "temperature", "temprature": 2.0, "temperature": 1.0}), "here"
        )
    assert "'temperature'" in e.value.hint


def test_a_map_of_ones_own_making_cannot_be_written():
    class Own:
        columns = None

        def logq(self, closed_NC):
            return closed_NC

    with pytest.raises(PolicyError, match="a Own cannot be written"):
        policy_to_json(replace(policy(1), calibrator=Fitted(tokens=taxonomy(1).tokens, map=Own())))


def test_a_correctness_aware_calibrator_reads_back_as_it_was(tmp_path):
    calibrator = CorrectnessAware(
        tokens=taxonomy(1).tokens,
        rewrites=("case", "tense"),
        own=False,
        top=1,
        hidden_weights=((0.1, 1 / 3), (-2.0, 1e-17)),
        hidden_offsets=(0.0, 0.7),
        output_weights=(1.0, -1.0),
        output_offset=1.25,
    )
    write_correctness_aware(tmp_path / "c.json", calibrator)
    assert read_correctness_aware(tmp_path / "c.json") == calibrator
    (tmp_path / "c.json").write_text('{"format": "demur.correctness-aware/1"}')
    with pytest.raises(PolicyError, match=r"c\.json: tokens"):
        read_correctness_aware(tmp_path / "c.json")
