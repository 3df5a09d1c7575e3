"""A model whose template knows no system role and wants turns to alternate serves what clients
send.
"""

import pytest

from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess.backend import HfBackend
from tests.engines.checkpoints import make_checkpoint
from tests.engines.test_chat_encoder import STRICT
from tests.server.live_server import folder_of, serving

CALLS = [
    {"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for i in ("c1", "c2")
]
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
ASKED = {"role": "user", "content": "Name a river."}
BRIEF = {"content": "Be brief."}
RESULTS = [{"role": "tool", "tool_call_id": c["id"], "content": "second"} for c in CALLS]
BODIES = {
    "user": {"messages": [ASKED]},
    "system": {"messages": [{"role": "system", **BRIEF}, ASKED]},
    "system, streamed": {"messages": [{"role": "system", **BRIEF}, ASKED], "stream": True},
    "two users": {"messages": [ASKED, ASKED]},
    "developer": {"messages": [{"role": "developer", **BRIEF}, ASKED]},
    "tool": {"messages": [ASKED, {"role": "assistant", "tool_calls": CALLS[:1]}, RESULTS[0]]},
    "two tools": {"messages": [ASKED, {"role": "assistant", "tool_calls": CALLS}, *RESULTS]},
    "tools declared": {"messages": [ASKED], "tools": [TOOL]},
    "tools declared and instructions": {
        "messages": [{"role": "system", **BRIEF}, ASKED],
        "tools": [TOOL],
    },
    "late instructions": {
        "messages": [
            ASKED,
            {"role": "assistant", "content": "Po."},
            {"role": "system", **BRIEF},
            ASKED,
        ]
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("strict")
    checkpoint = make_checkpoint(root / "model", "llama")
    (checkpoint / "chat_template.jinja").write_text(STRICT, encoding="utf-8")
    engine = HfEngine(model=checkpoint, tokens=coconot().tokens)
    assert engine.tokenizer.chat_template == STRICT
    never = tuple(CategoryPolicy() for _ in coconot().names)
    policy = Policy(
        name="p",
        taxonomy=coconot(),
        rule="heaviest",
        categories=never,
        fingerprint=engine.fingerprint,
    )
    with serving(folder_of(root / "policies", policy), backend=HfBackend(engine)) as made:
        yield made


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_every_order_of_roles_is_served(server, body):
    with server.client() as client:
        got = client.post("/v1/chat/completions", json={"model": "demur", "max_tokens": 3, **body})
    assert got.status_code == 200, got.text
    assert "error" not in got.text


def test_instructions_reach_the_model_and_the_decision(server):
    """What is merged is read: the prompt is as long as with the same words in the user's turn."""
    with server.client() as client:
        counts = [
            client.post(
                "/v1/chat/completions",
                json={"model": "demur", "max_tokens": 1, "messages": messages},
            ).json()["usage"]["prompt_tokens"]
            for messages in (
                [{"role": "system", **BRIEF}, ASKED],
                [{"role": "user", "content": f"Be brief.\n\n{ASKED['content']}"}],
                [ASKED],
            )
        ]
    assert counts[0] == counts[1] > counts[2]
