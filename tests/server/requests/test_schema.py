"""What a request may say, and what it is told when it says something else."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.threshold import NEVER
from demur.server.errors import ApiError
from demur.server.requests.ignored import DEFAULTS, IGNORED
from demur.server.requests.schema import TEXT_ONLY, ChatRequest, parse_chat
from tests.server.live_server import request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
DANGEROUS = [
    *(
        "logprobs",
        "top_logprobs",
        "logprob_token_ids",
        "prompt_logprobs",
        "return_token_ids",
        "echo",
        "prompt",
    ),
    *(
        "logit_bias",
        "allowed_token_ids",
        "bad_words",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
    ),
    *(
        "continue_final_message",
        "add_generation_prompt",
        "prefix",
        "chat_template",
        "chat_template_kwargs",
    ),
    *(
        "vllm_xargs",
        "guided_json",
        "guided_choice",
        "guided_regex",
        "structured_outputs",
        "use_beam_search",
        "best_of",
    ),
    *(
        "stop_token_ids",
        "min_tokens",
        "ignore_eos",
        "skip_special_tokens",
        "functions",
        "function_call",
        "top_k",
    ),
    *(
        "min_p",
        "documents",
        "add_special_tokens",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "priority",
    ),
    *("modalities", "audio", "prediction", "reasoning_effort", "web_search_options", "cache_salt"),
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
@pytest.mark.parametrize("value", [7, True, {"5": 100}, "x"], ids=repr)
def test_a_field_that_could_move_the_decision_or_look_behind_it_is_refused_by_name(name, value):
    assert refused(**{name: value}).param.startswith(name)


def passes(**fields) -> ChatRequest:
    return parse_chat(json.dumps(request(**fields)).encode())


@pytest.mark.parametrize(("name", "same"), DEFAULTS["request"].items())
def test_the_same_field_in_the_form_that_changes_nothing_passes(name, same):
    for value in (None, *same):
        assert passes(**{name: value})
    for value in ("no such word", 7, True, {"a": 1}):
        if value not in same:
            assert refused(**{name: value}).code == "unsupported_value"
    assert all(passes(**{name: float(value)}) for value in same if type(value) is int)


@pytest.mark.parametrize(
    ("name", "value"), [("logprobs", 0), ("min_p", False), ("top_k", False), ("echo", 0)]
)
def test_a_number_is_no_truth_value_and_the_other_way_round(name, value):
    assert refused(**{name: value}).code == "unsupported_value"


@pytest.mark.parametrize("name", IGNORED["request"])
@given(value=JSON)
def test_a_note_for_somebodys_books_passes_whatever_it_says(name, value):
    body = json.dumps(request(**{name: value}), allow_nan=False) if _is_plain(value) else None
    assert body is None or parse_chat(body.encode("utf-8", "surrogatepass"))


def _is_plain(value) -> bool:
    """Whether JSON can say it: no NaN, no half of a surrogate pair."""
    try:
        return bool(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, UnicodeEncodeError):
        return False


UNLISTED = st.text(min_size=1, max_size=30).filter(
    lambda n: (
        n not in ChatRequest.model_fields
        and n not in IGNORED["request"]
        and n not in DEFAULTS["request"]
    )
)


@given(name=UNLISTED, value=JSON.filter(lambda v: v is not None))
def test_no_unknown_field_passes(name, value):
    told(json.dumps(request(**{name: value})).encode("utf-8", "surrogatepass"))


@given(name=UNLISTED)
def test_null_stands_for_left_out_whatever_its_name(name):
    body = json.dumps(request(**{name: None}))
    with suppress(UnicodeEncodeError):
        name.encode()
        assert parse_chat(body.encode())


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
PLACES = {
    "user": lambda f: {"messages": [{"role": "user", "content": "x", **f}]},
    "system": lambda f: {"messages": [{"role": "system", "content": "x", **f}, USER]},
    "assistant": lambda f: {"messages": [{"role": "assistant", "content": "x", **f}, USER]},
    "tool result": lambda f: {
        "messages": [
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "x", **f},
        ]
    },
    "part": lambda f: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", **f}]}]
    },
    "call": lambda f: {"messages": [{"role": "assistant", "tool_calls": [{**CALL, **f}]}, USER]},
    "called": lambda f: {
        "messages": [
            {"role": "assistant", "tool_calls": [{**CALL, "function": {**CALL["function"], **f}}]},
            USER,
        ]
    },
    "tool": lambda f: {"tools": [{**TOOL, **f}]},
    "function": lambda f: {"tools": [{"type": "function", "function": {"name": "f", **f}}]},
    "tool_choice": lambda f: {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}, **f},
    },
    "stream_options": lambda f: {"stream": True, "stream_options": f},
    "format": lambda f: {"response_format": {"type": "text", **f}},
    "schema": lambda f: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, **f}}
    },
    "demur": lambda f: {"demur": f},
}
USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["prefix", "nonsense", "logit_bias", "partial"])
def test_everywhere_null_passes_and_another_unknown_value_is_refused_by_its_place(place, name):
    assert passes(**PLACES[place]({name: None}))
    error = refused(**PLACES[place]({name: True}))
    assert (error.code, error.param.rpartition(".")[2]) == ("unsupported_parameter", name)


def test_null_inside_a_schema_is_a_value():
    schema = {"type": "object", "properties": {"a": {"const": None, "default": None}}}
    chat = passes(
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    )
    assert chat.response_format.json_schema.schema_ == schema


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        (
            "user",
            {
                "name": "reader_7",
                "cache_control": {"type": "ephemeral"},
                "id": "m1",
                "created_at": 5,
            },
        ),
        ("system", {"name": "app", "cache_control": {"type": "ephemeral", "ttl": "1h"}}),
        (
            "part",
            {
                "cache_control": {"type": "ephemeral"},
                "annotations": [],
                "citations": None,
                "index": 0,
            },
        ),
        ("part", {"prompt_cache_breakpoint": {"mode": "explicit"}}),
        ("tool result", {"name": "find_floor", "status": "success", "tool_calls": []}),
        (
            "assistant",
            {
                "name": "bot",
                "refusal": None,
                "tool_calls": [],
                "audio": None,
                "function_call": None,
            },
        ),
        (
            "assistant",
            {
                "reasoning_content": "they greet",
                "reasoning": "x",
                "reasoning_details": [{"type": "x"}],
            },
        ),
        (
            "assistant",
            {
                "thinking_blocks": [{"type": "thinking"}],
                "provider_specific_fields": {"citations": None},
            },
        ),
        (
            "assistant",
            {
                "annotations": [{"type": "url_citation"}],
                "refusal": "",
                "content": [],
                "id": "msg_1",
            },
        ),
        ("assistant", {"content": None}),
        ("assistant", {"content": [{"type": "thinking", "thinking": "x", "signature": "y"}]}),
        ("call", {"index": 0, "extra_content": {"google": {}}, "type": None}),
        ("called", {"arguments": None}),
        ("tool", {"cache_control": {"type": "ephemeral"}, "defer_loading": False}),
        ("function", {"strict": None, "parameters": None, "cache_control": {"type": "ephemeral"}}),
        ("stream_options", {"include_usage": True, "include_obfuscation": True}),
        ("demur", {"thresholds": None, "rates": None}),
    ],
    ids=str,
)
def test_what_clients_send_besides_is_ignored(place, fields):
    assert passes(**PLACES[place](fields))


@pytest.mark.parametrize(
    "kind", ["image_url", "input_audio", "file", "video_url", "image", "audio_url", "input_image"]
)
@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_images_sound_and_files_are_told_that_messages_are_text_only(kind, role):
    part = {"type": kind, kind: {"url": "data:image/png;base64,AAAA"}}
    error = said({"role": role, "content": [{"type": "text", "text": "What is this?"}, part]})
    assert error.message == TEXT_ONLY
    assert (error.code, error.param) == ("unsupported_value", "messages[0].content[1].type")


def test_an_earlier_spoken_answer_is_told_the_same():
    error = said({"role": "assistant", "audio": {"id": "audio_1"}}, USER)
    assert (error.message, error.param) == (TEXT_ONLY, "messages[0].audio")


@given(
    body=st.binary(max_size=200)
    | JSON.map(lambda v: json.dumps(v).encode("utf-8", "surrogatepass"))
)
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
        (
            {"role": "user", "content": [{"type": "text", "text": "a\0"}]},
            "messages[0].content[0].text",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "text": "x"}]},
            "messages[0].content[0].type",
        ),
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
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}] * 5_000}]},
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}] * 5_000}]},
            "messages[0].tool_calls[0].id",
        ),
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
    chat = parse_chat(
        json.dumps(request(demur={"thresholds": {"safety": "never", "other": 0.25}})).encode()
    )
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


def test_the_ignored_fields_in_the_docs_are_those_that_are_ignored():
    page = (Path(__file__).parents[3] / "docs" / "serve.md").read_text(encoding="utf-8")
    tables = (
        page.partition("### What is ignored")[2]
        .partition("## What an answer says")[0]
        .split("| in | ")
    )
    ignored, accepted = tables[1:]
    names = {
        name
        for row in ignored.splitlines()
        if row.startswith("| ")
        for name in re.findall(r"`(\w+)`", row)
    }
    assert {name for listed in IGNORED.values() for name in listed} <= names
    values = {
        (name, json.dumps(value))
        for row in accepted.splitlines()
        for name, said in re.findall(r"`(\w+): ([^`]*)`", row)
        for value in (json.loads(v) for v in said.split(" or "))
    }
    assert values == {
        (n, json.dumps(v)) for table in DEFAULTS.values() for n, vs in table.items() for v in vs
    }
