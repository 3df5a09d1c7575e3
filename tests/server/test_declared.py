"""Text beside the conversation decides too, and schemas beyond their bounds reach no backend."""

import pytest

from demur.base.errors import ConfigError
from demur.core.decision import decide
from demur.core.example import Message
from tests.base.schemas.test_limits import HOSTILE, ORDINARY
from tests.server.live_server import (
    ANSWERED,
    KEY,
    OPERATOR_KEY,
    REFUSED,
    TEMPLATE,
    engine,
    folder_of,
    policy,
    serving,
    tenants_file,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(folder_of(tmp_path_factory.mktemp("policies"), policy())) as running:
        yield running


def schema_format(schema):
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    }


def tools(**function):
    return {"tools": [{"type": "function", "function": {"name": "find", **function}}]}


CARRIERS = {
    "const": lambda text: schema_format({"const": text}),
    "enum": lambda text: schema_format({"enum": [text, "b"]}),
    "pattern": lambda text: schema_format(
        {"type": "string", "pattern": "^" + text.replace(".", "\\.")}
    ),
    "name of a field": lambda text: schema_format(
        {"type": "object", "properties": {text: {"type": "string"}}}
    ),
    "tool": lambda text: tools(description=text),
    "parameter": lambda text: tools(parameters={"properties": {"q": {"description": text}}}),
    "choice of a parameter": lambda text: {
        **tools(parameters={"properties": {"q": {"enum": [text]}}}),
        "tool_choice": "required",
    },
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused_as_a_message_is_refused_in_a_schema_or_a_tool(server, carrier, stream):
    assert decide(policy(), engine().logp([(Message(role="user", content=REFUSED),)])[0]).refuses
    got = server.chat(ANSWERED, stream=stream, **CARRIERS[carrier](REFUSED))
    assert got.status_code == 200
    assert '"decision":"refuse"' in got.text
    assert '"decided_on":"declared"' in got.text
    assert '"category":"safety"' in got.text
    plain = server.chat(
        ANSWERED, stream=stream, **CARRIERS[carrier]("It is the capital of a country.")
    )
    assert '"decision":"respond"' in plain.text
    assert "decided_on" not in plain.text


def test_every_choice_is_refused_with_the_operators_own_text_too(server):
    got = server.chat(ANSWERED, n=2, **CARRIERS["const"](TEMPLATE)).json()
    assert [c["message"]["refusal"] for c in got["choices"]] == [
        "I am a program and have no feelings."
    ] * 2
    own = server.chat(ANSWERED, n=2, **CARRIERS["const"](REFUSED)).json()
    assert all(c["message"]["refusal"] and c["message"]["content"] is None for c in own["choices"])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_schema_beyond_the_bounds_is_a_400_that_names_the_parameter_and_no_content(server, name):
    for fields, param in (
        (schema_format(HOSTILE[name]), "response_format"),
        (tools(parameters=HOSTILE[name]), "tools"),
    ):
        try:
            got = server.chat(ANSWERED, **fields)
        except RecursionError:  # our own client cannot write what is that deep
            continue
        assert got.status_code == 400
        error = got.json()["error"]
        assert error["param"] is None or error["param"].startswith(param)
        assert "(a|b)" not in error["message"]
    assert server.chat(ANSWERED).status_code == 200


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_schemas_are_taken(server, name):
    assert server.chat(ANSWERED, **schema_format(ORDINARY[name])).status_code == 200
    assert server.chat(ANSWERED, **tools(parameters=ORDINARY[name])).status_code == 200


def test_an_operator_may_name_the_categories_that_such_text_is_refused_with(tmp_path):
    folder = folder_of(tmp_path, policy())
    with serving(folder, declared_categories=("humanizing",)) as narrow:
        let_by = narrow.chat(ANSWERED, **CARRIERS["tool"](REFUSED)).json()
        assert let_by["demur"]["decision"] == "respond"
        still = narrow.chat(ANSWERED, **CARRIERS["tool"](TEMPLATE)).json()
        assert (still["demur"]["decision"], still["demur"]["category"]) == ("refuse", "humanizing")
        assert narrow.chat(REFUSED).json()["demur"]["decision"] == "refuse"
    with serving(folder, declared_categories=("safety",)) as server:
        assert (
            server.chat(ANSWERED, **CARRIERS["const"](REFUSED)).json()["demur"]["category"]
            == "safety"
        )


def test_a_category_that_no_policy_has_is_named_at_start(tmp_path):
    with (
        pytest.raises(ConfigError, match="'safty', which no policy has"),
        serving(folder_of(tmp_path, policy()), declared_categories=("safty",)),
    ):
        pass


def read_for(server, **fields):
    return server.chat(ANSWERED, **fields).json()["usage"]["prompt_tokens"]


def test_what_is_read_beside_the_conversation_is_counted_as_read(server):
    text = "one two three four five six seven"  # of its own, too: long enough
    said = len(ANSWERED.split())
    assert read_for(server) == said
    assert read_for(server, **schema_format({"const": "x"})) == said + (said + 1)
    assert read_for(server, **schema_format({"const": text})) == said + (said + 7) + 7
    assert read_for(server, n=2, **schema_format({"const": text})) == said + (said + 7) + 7
    refused = len(REFUSED.split())
    assert read_for(server, **schema_format({"const": REFUSED})) == (said + refused) + refused


def test_the_log_and_the_metrics_count_it_too(tmp_path):
    with serving(folder_of(tmp_path, policy())) as server:
        counted = read_for(server, **tools(description=REFUSED.replace("safety", "rivers")))
        assert counted > 2 * len(ANSWERED.split())
        wait_until(lambda: server.metric('demur_tokens_total{kind="prompt"}') == counted)


def test_each_prompt_beside_the_conversation_is_a_request_of_the_minute(tmp_path):
    folder = folder_of(tmp_path / "policies", policy(), policy("strict"))
    tenants = tenants_file(tmp_path / "tenants.toml", alice="requests_per_minute = 4")
    with serving(folder, tenants) as server:
        declared = schema_format({"const": "one two three four five six seven"})  # two prompts
        assert [server.chat(key=KEY, **fields).status_code for fields in (declared, {}, {})] == [
            200,
            200,
            429,
        ]
        assert server.chat(key=OPERATOR_KEY).status_code == 200
    with serving(folder, tenants) as server:  # more than all that is left: answered, and paid for
        many = schema_format({"enum": [f"{n} and more that is said beside it" for n in range(9)]})
        assert [server.chat(key=KEY, **many).status_code for _ in range(2)] == [200, 429]
        wait_s = int(server.chat(key=KEY).headers["retry-after"])
        assert 1 <= wait_s <= 60
