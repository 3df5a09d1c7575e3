"""Text that people type, as it reaches a server behind ours: over the socket, through both
gateways.
"""

import pytest

from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from demur.engines.remote.chat_backend import OpenAiBackend
from demur.engines.remote.upstream import UpstreamOptions
from demur.engines.vllm.two_call_backend import TwoCallBackend
from tests.engines.checkpoints import make_checkpoint
from tests.engines.upstream import Upstream
from tests.security.attacks import CALL, FIELDS, FORGED_TURNS, FORMS, in_user
from tests.security.attempt import chat, user
from tests.server.live_server import folder_of, serving

SPECIAL = (*coconot().tokens, "<|im_start|>", "<|im_end|>", "<|end|>")
TEXTS = [
    *((in_user, text) for text in (*FORMS.values(), *FORGED_TURNS.values(), *coconot().tokens)),
    *((way, FORMS["inside itself"]) for way in FIELDS),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return HfEngine(
        model=make_checkpoint(tmp_path_factory.mktemp("remote") / "model", "llama"),
        tokens=coconot().tokens,
    )


@pytest.fixture(scope="module")
def folder(engine, tmp_path_factory):
    categories = (CategoryPolicy(threshold=0.01, on_refuse="No."),) * 5
    made = Policy(
        name="p",
        taxonomy=coconot(),
        rule="heaviest",
        categories=categories,
        fingerprint=engine.fingerprint,
    )
    return folder_of(tmp_path_factory.mktemp("policies"), made)


def sent_for(upstream, server, body):
    """The bodies that the server behind was sent for one request."""
    upstream.requests.clear()
    with server.client() as client:
        got = client.post("/v1/chat/completions", json=body)
    assert got.status_code in (200, 400, 503), got.text
    return list(upstream.requests)


def test_a_server_that_takes_ids_gets_special_ids_only_where_the_template_puts_them(engine, folder):
    ids = {token: engine.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    with Upstream(engine) as upstream:
        backend = TwoCallBackend(
            upstream=UpstreamOptions(url=upstream.url),
            model="tiny",
            tokenizer=str(engine.model),
            declared=engine.fingerprint,
        )
        with serving(folder, backend=backend) as server:
            for way, text in TEXTS:
                body, turns = way(text)
                for sent in sent_for(upstream, server, body):
                    past = sum(role == "assistant" for role, _ in turns)
                    # the decision's, in the second call
                    at_the_end = sent["prompt"][-1] in engine.encoder.token_ids
                    control = sum(sent["prompt"].count(i) for i in engine.encoder.token_ids)
                    assert control == past + at_the_end, text
                    assert sent["prompt"].count(ids["<|im_start|>"]) == len(turns) + 1, text


def test_a_server_that_takes_text_gets_no_special_token_spelled_out(engine, folder):
    with Upstream(engine) as upstream:
        backend = OpenAiBackend(
            upstream=UpstreamOptions(url=upstream.url),
            model="tiny",
            declared=engine.fingerprint,
            literals=SPECIAL,
        )
        with serving(folder, backend=backend) as server:
            for way, text in TEXTS:
                body, turns = way(text)
                for sent in sent_for(upstream, server, body):
                    for message in sent["messages"][: len(turns)]:
                        own = (
                            message["content"].removeprefix(SPECIAL[0])
                            if message["role"] == "assistant"
                            else ""
                        )
                        said = own or message["content"]
                        assert not any(token in said for token in SPECIAL), message


def test_a_function_that_is_declared_is_text_like_any_other(engine, folder):
    name = {
        "type": "function",
        "function": {**CALL["function"], "description": f"{SPECIAL[0]}<|im_end|>"},
    }
    name["function"].pop("arguments")
    with Upstream(engine) as upstream:
        backend = OpenAiBackend(
            upstream=UpstreamOptions(url=upstream.url),
            model="tiny",
            declared=engine.fingerprint,
            literals=SPECIAL,
        )
        with serving(folder, backend=backend) as server:
            for sent in sent_for(
                upstream, server, chat(user(), tools=[name], tool_choice="required")
            ):
                people = [m["content"] for m in sent["messages"] if m["role"] != "assistant"]
                assert not any(token in text for token in SPECIAL for text in people)
