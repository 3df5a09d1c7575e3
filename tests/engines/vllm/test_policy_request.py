"""What a vLLM request may say, without vLLM."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import AccessError
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.core.policy import natural
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.vllm.policy_request import (
    EFFECTIVE,
    PolicyRequest,
    check_answers,
    check_sampling,
    is_beam_search,
    read_request,
)

PLAIN = {
    "structured_outputs": None,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": [],
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "thinking_token_budget": None,
    "trace_decode_token_ids": None,
}


def test_a_request_is_read_whole() -> None:
    args = {
        "demur_policy": "p",
        "demur_digest": "sha256:1",
        "demur_threshold_safety": 1,
        "demur_threshold_x": "never",
    }
    assert read_request(args) == PolicyRequest(
        policy="p", digest="sha256:1", thresholds={"safety": 1.0, "x": NEVER}
    )


def test_arguments_of_others_are_let_by() -> None:
    assert read_request({"kv_transfer": 3}) == read_request(None) == PolicyRequest()


def test_what_a_client_writes_in_our_own_place_is_not_read() -> None:
    assert read_request({EFFECTIVE: "{}"}) == PolicyRequest()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"demur_polcy": "p"}, "did you mean 'demur_policy'"),
        ({"demur_": "p"}, "unknown parameter"),
        ({"demur_policy": 3}, "demur_policy = 3 is no text"),
        ({"demur_policy": ["p"]}, "is no text"),
        ({"demur_digest": 1}, "is no text"),
        ({"demur_threshold_safety": "0.5"}, "is no threshold"),
        ({"demur_threshold_safety": [0.5]}, "is no threshold"),
        ({"demur_threshold_safety": None}, "is no threshold"),
        ({"demur_threshold_safety": True}, "is no threshold"),
    ],
)
def test_a_malformed_parameter_is_refused(args, message) -> None:
    with pytest.raises(AccessError, match=message):
        read_request(args)


@given(
    key=st.text(max_size=12),
    value=st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers()),
)
def test_no_key_of_ours_is_ignored(key, value) -> None:
    try:
        request = read_request({f"demur_{key}": value})
    except AccessError:
        return
    assert request != PolicyRequest() or (key == "effective") or value is None


def test_plain_sampling_goes_with_a_policy() -> None:
    check_sampling(
        SimpleNamespace(
            **PLAIN, temperature=0.7, top_p=0.9, presence_penalty=1.0, stop_token_ids=[3]
        )
    )


def asked_of(calibrated, **fields):
    """A policy whose monitor knows 64 tokens at this temperature and top_p .9, and parameters of
    vLLM's.
    """
    answers = AnswerSampling(most_tokens=64, temperature=calibrated, top_p=0.9)
    monitor = Monitor(thresholds=(0.5,) * 5, answers=answers)
    neutral = {"top_k": 0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    usual = {"max_tokens": 65, "temperature": calibrated, "top_p": 0.9}
    params = SimpleNamespace(**{**neutral, **usual, **fields})
    return replace(natural(coconot()), monitor=monitor), params


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 66}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 0.6}, "temperature"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.0}, "temperature"),
        ({"top_k": 5}, "temperature"),
        ({"min_p": 0.1}, "temperature"),
        # V2 adds these to the logits that the monitor reads
        ({"presence_penalty": 1.0}, "temperature"),
        ({"frequency_penalty": -1.0}, "temperature"),
    ],
)
def test_answers_that_a_monitor_was_not_calibrated_on_are_refused(fields, param) -> None:
    policy, params = asked_of(0.5, **fields)
    with pytest.raises(AccessError, match="answers of at most 64 tokens, temp") as caught:
        check_answers(policy, params)
    assert caught.value.param == param
    check_answers(replace(policy, monitor=None), params)


def test_answers_like_a_monitors_own_are_taken() -> None:
    check_answers(*asked_of(0.5))
    check_answers(*asked_of(0.5, max_tokens=1, top_k=-1))
    check_answers(*asked_of(0.0, top_p=1.0))  # greedy: there is no nucleus


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("structured_outputs", {"json_object": True}),
        ("logit_bias", {5: 100.0}),
        ("allowed_token_ids", [5]),
        ("bad_words", ["no"]),
        ("min_tokens", 1),
        ("repetition_penalty", 1.1),
        ("thinking_token_budget", 5),
        ("trace_decode_token_ids", [5]),
    ],
)
def test_what_shifts_or_hides_a_score_is_refused_beside_a_policy(name, value) -> None:
    with pytest.raises(AccessError, match=f"{name} cannot be combined with a policy"):
        check_sampling(SimpleNamespace(**{**PLAIN, name: value}))


def test_a_step_of_beam_search_is_known_by_its_settings() -> None:
    step = {"detokenize": False, "max_tokens": 1, "logprobs": 4, "extra_args": None}
    assert is_beam_search(SimpleNamespace(**step))
    for change in (
        {"detokenize": True},
        {"max_tokens": 2},
        {"logprobs": None},
        {"extra_args": {"demur_policy": "p"}},
    ):
        assert not is_beam_search(SimpleNamespace(**{**step, **change}))
