"""Every form in which endpoints answer, think, refuse and decline, read by the one reader."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.engines.remote.completion import MalformedReply, parse_json, read_chat, top_logprobs
from demur.engines.remote.declines import declined_error, error_words

FILTERED = "The prompt was filtered by the content management policy."


def body(message, finish="stop", **more):
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"model": "big-2026", "choices": [choice], **more}


DECLINES = {
    "finish, empty": body({"content": ""}, "content_filter"),
    "finish, null": body({"content": None}, "content_filter"),
    "finish, cut": body({"content": "First you"}, "content_filter"),
    "finish, no message": {"model": "m", "choices": [{"finish_reason": "content_filter"}]},
    "another word": body({"content": ""}, "SAFETY"),
    "sensitive": body({"content": ""}, "sensitive"),
    "stop reason of the choice": {
        "model": "m",
        "choices": [
            {"message": {"content": None}, "finish_reason": "stop", "stop_reason": "refusal"}
        ],
    },
    "stop reason of the body": body({"content": ""}, None, stop_reason="refusal"),
    "refusal field": body({"content": None, "refusal": "I can't assist with that."}),
    "refusal part": body({"content": [{"type": "refusal", "refusal": "I can't assist."}]}),
    "no choices": {"model": "m", "choices": []},
    "null choices": {"model": "m", "choices": None},
    "choices missing": {"id": "c1", "object": "chat.completion"},
    "blocked": {"model": "m", "choices": [], "prompt_feedback": {"block_reason": "SAFETY"}},
    "blocked, camel case": {"model": "m", "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
    "an error within a 200": {"error": {"code": "content_filter", "message": FILTERED}},
}


@pytest.mark.parametrize("name", DECLINES)
def test_a_decline_is_a_decline(name):
    piece = read_chat(DECLINES[name])
    assert piece.declined
    assert piece.error is None


ERRORS = {
    "code": (400, {"error": {"message": FILTERED, "code": "content_filter"}}),
    "inner code": (
        400,
        {"error": {"message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
    ),
    "another service's": (400, {"error": {"code": "content_policy_violation"}}),
    "type": (403, {"error": {"type": "moderation_error", "code": 403}}),
    "flagged input": (
        403,
        {"error": {"code": 403, "metadata": {"reasons": ["x"], "flagged_input": "y"}}},
    ),
    "code at the top": (400, {"code": "data_inspection_failed", "message": "x"}),
    "a bare text": (400, {"error": "content filter"}),
    "prose": (
        400,
        {"error": {"message": "Your request was rejected by our safety system.", "code": None}},
    ),
    "legal": (451, "gone"),
    "a proxy's 500": (500, {"error": {"code": "content_filter"}}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_a_filter_is_a_decline(name):
    status, error = ERRORS[name]
    assert declined_error(error, status)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"error": {"message": f"too long: {FILTERED}", "code": "context_length_exceeded"}}),
        (
            400,
            {"error": {"message": "max_tokens is not supported", "code": "unsupported_parameter"}},
        ),
        (401, {"error": {"message": "bad key"}}),
        (500, {"error": {"message": "the moderation service is down"}}),
        (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
        (400, "too long"),
        (400, None),
    ],
)
def test_any_other_error_is_none(status, error):
    assert declined_error(error, status) is None


def test_nothing_that_was_said_is_ever_described():
    error = {
        "error": {
            "message": "zq7 said",
            "code": "zq7",
            "param": "zq7",
            "type": "invalid_request_error",
        }
    }
    assert error_words(error) == " (code invalid_request_error)"
    assert "zq7" not in (
        declined_error({"error": {"code": "content_filter", "message": "zq7"}}, 400) or ""
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "Hi"}, ("Hi", "", "")),
        ({"content": None, "reasoning_content": "hm"}, ("", "", "hm")),
        ({"content": "Hi", "reasoning": "hm"}, ("Hi", "", "hm")),
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ("ab", "", ""),
        ),
        ({"content": [{"type": "output_text", "text": "a"}]}, ("a", "", "")),
        ({"content": [{"type": "text", "text": {"value": "a"}}]}, ("a", "", "")),
        ({"content": ["a", {"text": "b"}]}, ("ab", "", "")),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "a"]},
            ("a", "", "hm"),
        ),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, ("", "", "hm")),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, ("", "no", "")),
        ({"content": {"type": "text", "text": "a"}}, ("a", "", "")),
        ({"content": [{"type": "redacted_thinking", "data": "x"}]}, ("", "", "")),
        (
            {"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
            ("a", "", "hm"),
        ),
    ],
)
def test_text_thought_and_refusal_are_told_apart_in_messages_and_in_events(message, expected):
    whole = read_chat(body(message))
    event = read_chat(
        {"model": "m", "choices": [{"delta": message, "finish_reason": None}]}, whole=False
    )
    assert (whole.text, whole.refusal, whole.thought) == expected
    assert (event.text, event.refusal, event.thought) == expected


def test_an_event_without_a_choice_is_no_decline_by_itself():
    piece = read_chat({"model": "", "choices": [], "prompt_filter_results": []}, whole=False)
    assert (piece.chosen, piece.declined) == (False, None)


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], "x", 3, {}, {"choices": 3}, {"choices": [3]}, {"choices": [{"message": 3}]}),
        body({"content": [{"type": "image_url", "image_url": "x"}]}),
        body({"tool_calls": 3}),
        body({"tool_calls": [3]}),
    ],
)
def test_what_is_no_completion_is_named(value):
    with pytest.raises(MalformedReply):
        read_chat(value)


@pytest.mark.parametrize(
    "data", ["", "<html>", "[" * 100_000, b"\xff\xfe", '{"a": NaN}', "9" * 5000, "{"]
)
def test_what_is_no_json_is_named_however_deep_it_is(data):
    with pytest.raises(MalformedReply):
        parse_json(data)


def test_log_probabilities_are_numbers():
    def place(logp):
        return body({"content": "a"}) | {
            "choices": [
                {
                    "message": {"content": "a"},
                    "logprobs": {"content": [{"top_logprobs": [{"token": "a", "logprob": logp}]}]},
                }
            ]
        }

    assert top_logprobs(read_chat(place(-0.5)), 0) == (("a", -0.5),)
    for bad in ("x", None, float("inf"), float("nan")):
        with pytest.raises(MalformedReply):
            top_logprobs(read_chat(place(bad)), 0)


KEYS = (
    *(
        "choices",
        "message",
        "delta",
        "content",
        "type",
        "text",
        "refusal",
        "error",
        "code",
        "finish_reason",
        "model",
    ),
    *("tool_calls", "function", "usage", "thinking", "prompt_feedback", "block_reason", "logprobs"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_odd_json_is_a_piece_or_malformed_and_nothing_else(value, whole):
    try:
        piece = read_chat(value, whole=whole)
    except MalformedReply:
        return
    assert isinstance(piece.text + piece.refusal + piece.thought, str)
    assert declined_error(json.loads(json.dumps(value))) in (None, "content_filter")
