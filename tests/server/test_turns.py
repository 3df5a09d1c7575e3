"""Which turns decide: the whole conversation, or what was said since the last answer."""

import pytest

from demur.core.conversation.folding import latest_turn
from demur.core.example import Message
from tests.server.live_server import ANSWERED, REFUSED, folder_of, policy, request, serving

S, U, A = (
    lambda text, role=role: Message(role=role, content=text)
    for role in ("system", "user", "assistant")
)


@pytest.mark.parametrize(
    ("said", "latest"),
    [
        ([U("a")], [U("a")]),
        ([S("s"), U("a")], [S("s"), U("a")]),
        ([U("a"), U("b")], [U("a"), U("b")]),
        ([S("s"), U("a"), A("x"), U("b")], [S("s"), U("b")]),
        ([U("a"), A("x"), U("b"), A("y"), U("c"), U("d")], [U("c"), U("d")]),
        ([A("x"), S("late"), U("b")], [S("late"), U("b")]),
    ],
)
def test_the_latest_turn_is_what_was_said_since_the_last_answer(said, latest):
    assert list(latest_turn(said)) == latest


def turns(*texts):
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


class Reads:
    """A fake engine that refuses what any user's turn asks for, as a model that reads the whole
    conversation may.
    """

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def logp(self, prompts):
        last = [
            next((m for m in p if m.content == REFUSED and m.role == "user"), p[-1])
            for p in prompts
        ]
        return self._engine.logp([(m,) for m in last])


@pytest.fixture(scope="module", params=["conversation", "latest turn"])
def server(request, tmp_path_factory):
    with serving(
        folder_of(tmp_path_factory.mktemp("turns"), policy()), decides_on=request.param
    ) as made:
        made.backend.engine = Reads(made.backend.engine)
        yield made


def asked(server, messages, **fields):
    with server.client() as client:
        got = client.post(
            "/v1/chat/completions", json={**request(), "messages": messages, **fields}
        )
    assert got.status_code == 200, got.text
    return got.json()


def test_a_harmless_turn_after_a_refused_one_is_decided_as_the_operator_says(server):
    body = asked(server, turns(REFUSED, "No.", ANSWERED), n=2, seed=1)
    sticky = server.service.state.settings.decides_on == "conversation"
    assert body["demur"]["decision"] == ("refuse" if sticky else "respond")
    assert body["demur"].get("decided_on") == (None if sticky else "latest turn")
    assert all(bool(c["message"]["content"]) is not sticky for c in body["choices"])
    if not sticky:
        alone = asked(server, turns(ANSWERED))
        assert body["demur"]["scores"] == alone["demur"]["scores"]


@pytest.mark.parametrize("past", [(), (ANSWERED, "Here it is."), (REFUSED, "No.")])
def test_a_refused_latest_turn_is_refused_either_way(server, past):
    body = asked(server, turns(*past, REFUSED), n=2)
    assert (body["demur"]["decision"], body["demur"]["category"]) == ("refuse", "safety")
    assert all("hurt someone" in c["message"]["refusal"] for c in body["choices"])


def test_what_was_not_answered_yet_belongs_to_the_latest_turn(server):
    messages = [*turns(ANSWERED, "Po."), *turns(REFUSED), *turns(ANSWERED)]
    assert asked(server, messages)["demur"]["decision"] == "refuse"
