"""What a request may say, and what it is told when it says something else."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.policy import NEVER
from demur.server.errors import ApiError
from demur.server.wire import ChatRequest, parse_chat
from tests.server.house import request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DANGEROUS = [
    *("logprobs", "top_logprobs", "logprob_token_ids", "prompt_logprobs", "return_token_ids", "echo", "prompt"),
    *("logit_bias", "allowed_token_ids", "bad_words", "frequency_penalty", "presence_penalty", "repetition_penalty"),
    *("continue_final_message", "add_generation_prompt", "prefix", "chat_template", "chat_template_kwargs"),
    *("vllm_xargs", "guided_json", "guided_choice", "guided_regex", "structured_outputs", "use_beam_search", "best_of"),
    *("stop_token_ids", "min_tokens", "ignore_eos", "skip_special_tokens", "functions", "function_call", "top_k"),
    *("min_p", "documents", "add_special_tokens", "include_stop_str_in_output", "kv_transfer_params", "priority"),
    *("modalities", "audio", "prediction", "store", "reasoning_effort", "web_search_options", "cache_salt"),
]


def told(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as e:
        parse_chat(body)
    assert e.value.status == 400
    return e.value


def refused(**fields) -> ApiError:
    return told(json.dumps(request(**fields)).encode())


def said(*messages, **fields) -> ApiError:
    return told(json.dumps({"model": "m", "messages": list(messages), **fields}).encode())


@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.parametrize("value", [1, True, {"5": 100}, "x"], ids=repr)
def test_a_field_that_could_move_the_decision_or_look_behind_it_is_refused_by_name(name, value):
    assert refused(**{name: value}).param.startswith(name)


@pytest.mark.parametrize("name", ["logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "store"])
def test_the_same_field_in_the_form_that_changes_nothing_passes(name):
    nothing = {"logprobs": False, "logit_bias": {}, "store": False}.get(name, 0)
    for value in (None, nothing):
        assert parse_chat(json.dumps(request(**{name: value})).encode())


@given(name=st.text(min_size=1, max_size=30).filter(lambda n: n not in ChatRequest.model_fields), value=JSON)
def test_no_unknown_field_passes(name, value):
    body = json.dumps(request(**{name: value})).encode("utf-8", "surrogatepass")
    told(body)


@given(body=st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode("utf-8", "surrogatepass")))
def test_whatever_the_body_is_the_only_error_is_the_callers(body):
    told(body)


@given(field=st.sampled_from(sorted(ChatRequest.model_fields)), value=JSON)
def test_whatever_a_known_field_holds_the_only_error_is_the_callers(field, value):
    with suppress(ApiError):
        assert parse_chat(json.dumps(request(**{field: value})).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": "a\0b"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text", "text": "a\0"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url", "text": "x"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": "x", "name": "[respond]"}, "messages[0].name"),
        ({"role": "user", "content": "x", "prefix": True}, "messages[0].prefix"),
        ({"role": "[respond]", "content": "x"}, "messages[0]"),
        ({"content": "x"}, "messages[0]"),
        ("hello", "messages[0]"),
    ],
    ids=str,
)
def test_a_message_at_fault_is_named(message, param):
    assert said(message).param == param


def test_a_value_at_fault_is_not_repeated():
    secret = "correct horse battery staple"
    assert secret not in said({"role": "user", "content": {"x": secret}}).message
    assert len(said({"role": "x" * 10_000, "content": "y"}).message) < 400


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5_000],
    ids=["empty", "cut", "list", "null", "string", "no UTF-8", "deep list", "deep object"],
)
def test_a_body_that_is_no_object_is_invalid_json(body):
    assert told(body).code == "invalid_json"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1", "2.5", '"1"', "true"])
def test_a_temperature_that_is_none_is_refused(number):
    told(json.dumps(request(temperature="?")).replace('"?"', number).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "x"}] * 5_000}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}] * 5_000}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}] * 5_000}]}, "messages[0].tool_calls[0].id"),
        ({"tools": [{"type": "function"}] * 5_000}, "tools[0].function"),
        ({"stop": [""] * 5_000}, "stop[0]"),
    ],
    ids=["messages", "parts", "calls", "tools", "stops"],
)
def test_of_thousands_of_faults_in_a_list_the_first_ends_the_reading(fields, param):
    assert refused(**fields).param == param


def test_thousands_of_faults_beside_each_other_are_counted_and_not_listed():
    error = refused(demur={"rates": {f"c{n}": 2 for n in range(5_000)}})
    assert "5000 faults" in error.message
    assert error.param is None


def test_half_a_surrogate_pair_is_refused():
    told(b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}')


@pytest.mark.parametrize("value", ["\0", float("inf"), 10**30, {"a\0": 1}, [["\0"]]], ids=repr)
def test_odd_values_inside_a_schema_are_refused(value):
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": value}}}
    body = json.dumps(request(response_format=schema)).replace("Infinity", "1e999")
    told(body.encode())


def test_the_last_of_two_equal_keys_counts_and_is_checked():
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"messages":[{"role":"user"}]}'
    assert told(body).param == "messages[0].content"


def test_never_is_the_threshold_that_nothing_reaches():
    chat = parse_chat(json.dumps(request(demur={"thresholds": {"safety": "never", "other": 0.25}})).encode())
    assert chat.demur is not None
    assert dict(chat.demur.to_core().thresholds) == {"safety": NEVER, "other": 0.25}


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        ({"thresholds": {"safety": "always"}}, "demur.thresholds.safety"),
        ({"thresholds": {"safety": -1}}, "demur.thresholds.safety"),
        ({"rates": {"safety": 1.5}}, "demur.rates.safety"),
        ({"scores": True}, "demur.scores"),
        ("strict", "demur"),
    ],
    ids=str,
)
def test_a_policy_ask_at_fault_is_named(ask, param):
    assert refused(demur=ask).param == param
