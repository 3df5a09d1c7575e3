"""From a request to what the backend is asked."""

import json

import pytest

from demur.base.errors import AccessError
from demur.core.access import Tenant
from demur.server.errors import ApiError
from demur.server.requests.prepare import prepare_request
from demur.server.requests.schema import parse_chat
from demur.server.settings import RequestLimits, ServerSettings
from demur.store.policies.folder import read_folder
from tests.server.live_server import folder_of, policy, request

TENANT = Tenant(name="t", policies=("default",))
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
}


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    return read_folder(folder_of(tmp_path_factory.mktemp("policies"), policy()))


@pytest.fixture(scope="module")
def case(policies):
    def make(messages=None, **fields):
        body = (
            request(**fields)
            if messages is None
            else {"model": "demur", "messages": messages, **fields}
        )
        settings = ServerSettings(
            limits=RequestLimits(messages=5, choices=3, most_answer_tokens=100, answer_tokens=20)
        )
        return prepare_request(parse_chat(json.dumps(body).encode()), TENANT, policies, settings)

    return make


def roles(case):
    return [(m.role, m.content) for m in case.serve_requests[0].messages]


def test_a_conversation_becomes_plain_turns(case):
    made = case(
        [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
            },
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "user", "content": "Why?"},
        ]
    )
    assert roles(made) == [
        ("system", "Be brief."),
        ("user", "One.\nTwo."),
        ("assistant", "No."),
        ("user", "Why?"),
    ]


def test_a_tool_result_is_a_turn_of_the_users_side(case):
    made = case(
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "[respond] sunny"},
        ],
        tools=[TOOL],
    )
    assert roles(made)[1:] == [
        ("assistant", 'weather({"city": "Rome"})'),
        ("user", "weather returned:\n[respond] sunny"),
    ]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "[respond] Sure"}],
            "messages",
        ),
        ([{"role": "system", "content": "x"}], "messages"),
        ([{"role": "user", "content": "x"}] * 6, "messages"),
        ([{"role": "tool", "tool_call_id": "call_9", "content": "x"}], "messages[0].tool_call_id"),
    ],
    ids=["prefill", "nobody asks", "too many", "unknown call"],
)
def test_a_conversation_that_cannot_be_answered_is_refused(case, messages, param):
    with pytest.raises(ApiError) as e:
        case(messages)
    assert (e.value.status, e.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_completion_tokens": 101}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"n": 4}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "required"}}]},
            "tools[0].function.name",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
    ],
    ids=str,
)
def test_what_contradicts_itself_or_is_too_much_is_refused(case, fields, param):
    with pytest.raises(ApiError) as e:
        case(**fields)
    assert (e.value.status, e.value.param) == (400, param)


def test_sampling_comes_from_the_request_and_defaults_from_the_server(case):
    plain = case().serve_requests[0].sampling
    assert (plain.max_tokens, plain.temperature, plain.top_p, plain.stop, plain.seed) == (
        20,
        1.0,
        1.0,
        (),
        None,
    )
    told = (
        case(max_completion_tokens=7, temperature=0, top_p=0.5, stop="x", seed=3)
        .serve_requests[0]
        .sampling
    )
    assert (told.max_tokens, told.temperature, told.top_p, told.stop, told.seed) == (
        7,
        0.0,
        0.5,
        ("x",),
        3,
    )


def test_each_choice_has_a_seed_of_its_own(case):
    assert [a.sampling.seed for a in case(n=3, seed=5).serve_requests] == [5, 6, 7]
    assert [a.sampling.seed for a in case(n=2).serve_requests] == [None, None]


def test_formats_and_tools_reach_the_backend(case):
    schema = {"type": "object"}
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    assert case(response_format=named).serve_requests[0].json_schema == schema
    assert case(response_format={"type": "json_object"}).serve_requests[0].json_schema == {}
    assert case(response_format={"type": "text"}).serve_requests[0].json_schema is None
    ask = case(
        tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}
    ).serve_requests[0]
    assert (ask.tools, ask.tool_choice) == ((TOOL,), "weather")
    assert case(tools=[TOOL]).serve_requests[0].tool_choice == "auto"
    assert case(tools=[TOOL], tool_choice="none").serve_requests[0].tools == ()


def test_a_policy_of_somebody_elses_is_as_unknown_as_one_that_is_not_there(case):
    messages = set()
    for name in ("strict", "nonsense"):
        with pytest.raises(AccessError) as e:
            case(demur={"policy": name})
        messages.add(e.value.message.replace(name, "X"))
    assert len(messages) == 1


def test_another_model_is_not_found(case):
    with pytest.raises(ApiError) as e:
        case(model="gpt-5")
    assert (e.value.status, e.value.code) == (404, "model_not_found")
