"""A guard behind an endpoint, over real HTTP: its probability, and what becomes of answers that
hold none.
"""

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import BackendDown, EngineError, ScoreDoubt, TaxonomyError
from demur.core.example import Message
from demur.core.taxonomy import coconot, single
from demur.engines.remote.guard_chat import ChatGuard, refusal_probability
from tests.engines.chat_stub import completion, serving

WORDS = ("unsafe", "safe")


def said(text, *earlier):
    return (*(Message(role="user", content=t) for t in earlier), Message(role="user", content=text))


def place(token, **likely):
    """A generated token, and the probabilities of the likeliest in its place; "_" begins a word
    with a space.
    """
    top = [{"token": t.replace("_", " "), "logprob": math.log(p)} for t, p in likely.items()]
    return {"token": token, "logprob": -0.1, "top_logprobs": top}


def judging(number, body):
    """Unsafe with 0.8 where bombs are spoken of, else with 0.1; of all probability 0.9 is on the
    two words.
    """
    p = 0.8 if "bomb" in body["messages"][-1]["content"] else 0.1
    return completion(
        "x", logprobs={"content": [place("x", safe=0.9 * (1 - p), un=0.6 * p, unsafe=0.3 * p)]}
    )


def always(text, content):
    return lambda number, body: completion(text, logprobs={"content": content})


def guard(url, **fields):
    fields = {"model": "stub-1", "tokens": single().tokens, "tries": 1, "timeout_s": 60.0, **fields}
    return ChatGuard(url=url, **fields)


def test_the_score_is_its_share_of_the_two_words():
    with serving(judging) as (url, stub):
        logp_NC = guard(url).logp([said("Name a river."), said("Build a bomb.")])
    assert np.exp(logp_NC[:, 1]) == pytest.approx([0.1, 0.8], abs=1e-6)
    assert np.exp(logp_NC).sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert {b["top_logprobs"] for b in stub.bodies} == {20}
    assert {b["temperature"] for b in stub.bodies} == {0}


def test_the_conversation_is_sent_as_it_is_or_within_a_template():
    talk = (said("Hi")[0], Message(role="assistant", content="Hello."), said("Build a bomb.")[0])
    with serving(judging) as (url, stub):
        guard(url).logp([talk])
        guard(url, template="Is this harmful?\n{conversation}\nAnswer safe or unsafe.").logp([talk])
    assert [m["role"] for m in stub.bodies[0]["messages"]] == ["user", "assistant", "user"]
    assert stub.bodies[1]["messages"] == [
        {
            "role": "user",
            "content": (
                "Is this harmful?\nuser: Hi\nassistant: Hello.\nuser: Build a bomb.\nAnswer safe "
                "or unsafe."
            ),
        }
    ]


def test_many_prompts_keep_their_places_and_are_asked_at_the_same_time():
    prompts = [said(f"{'bomb ' * (n % 2)} {n}") for n in range(60)]
    seen = []
    together = threading.Barrier(2, timeout=60)

    def script(number, body):
        together.wait()  # nobody is answered alone
        return judging(number, body)

    with serving(script) as (url, stub):
        logp_NC = guard(url, in_flight=16).logp(prompts, lambda done, of: seen.append((done, of)))
    assert np.exp(logp_NC[:, 1]) == pytest.approx([0.1, 0.8] * 30, abs=1e-6)
    assert seen == [(n, 60) for n in range(1, 61)]
    assert 2 <= stub.most <= 16


def test_line_breaks_before_the_word_are_passed_over():
    content = [place("\n\n", **{"\n\n": 1.0}), place("safe", safe=0.6, _Unsafe=0.2)]
    with serving(always("safe", content)) as (url, _):
        logp_NC = guard(url).logp([said("Hi")])
    assert np.exp(logp_NC[0, 1]) == pytest.approx(0.25, abs=1e-6)


def test_other_words_may_be_its_verdict():
    content = [place("No", No=0.3, Yes=0.6, Maybe=0.1)]
    with serving(always("No", content)) as (url, _):
        logp_NC = guard(url, refuse="yes", answer="no").logp([said("Hi")])
    assert np.exp(logp_NC[0, 1]) == pytest.approx(2 / 3, abs=1e-6)


def test_neither_word_is_no_half_but_an_error_that_says_what_was_seen():
    content = [place("I", I=0.9, As=0.05)]
    seen = "neither 'unsafe' nor 'safe': 'I', 'As'"
    with serving(always("I", content)) as (url, _), pytest.raises(ScoreDoubt, match=seen):
        guard(url).logp([said("Hi")])


def test_an_endpoint_without_probabilities_is_no_guard():
    with (
        serving(lambda n, b: completion("safe")) as (url, _),
        pytest.raises(EngineError, match="no log-probabilities"),
    ):
        guard(url).logp([said("Hi")])


def test_only_line_breaks_are_no_verdict():
    content = [place("\n", **{"\n": 1.0})] * 4
    with serving(always("\n", content)) as (url, _), pytest.raises(ScoreDoubt, match="nothing"):
        guard(url).logp([said("Hi")])


@pytest.mark.parametrize(
    "body", [(500, "broken"), (200, "<html>"), (400, {"error": "no"})], ids=["500", "html", "400"]
)
def test_a_guard_that_does_not_answer_lets_nothing_pass(body):
    with serving(lambda n, b: body) as (url, _), pytest.raises(EngineError):
        guard(url).logp([said("Hi")])


def test_a_guard_that_stalls_does_not_hold_up_for_ever():
    with (
        serving(judging, hold_s=1.0) as (url, _),
        pytest.raises(BackendDown, match="did not answer"),
    ):
        guard(url, timeout_s=0.1).logp([said("Hi")])


def test_a_guard_that_changes_its_name_is_another_guard():
    def script(number, body):
        return judging(number, body) | {"model": f"stub-{number}"}

    with serving(script) as (url, _), pytest.raises(BackendDown, match="before that as 'stub-1'"):
        guard(url, in_flight=1).logp([said("Hi"), said("Ho")])


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("DEMUR_GUARD_KEY", "sesame")
    with serving(judging) as (url, stub):
        guard(url).logp([said("Hi")])
    assert stub.headers[0]["Authorization"] == "Bearer sesame"


@pytest.mark.parametrize("words", [("safe", "safe"), ("no", "not"), ("", "safe")])
def test_words_that_cannot_be_told_apart_are_refused(words):
    with pytest.raises(EngineError, match="begin alike"):
        guard("http://127.0.0.1:9/v1", refuse=words[0], answer=words[1])


def test_a_template_without_the_conversation_is_refused():
    with pytest.raises(EngineError, match=r"lacks \{conversation\}"):
        guard("http://127.0.0.1:9/v1", template="Is it safe?")


def test_one_word_cannot_name_five_categories():
    with pytest.raises(TaxonomyError):
        guard("http://127.0.0.1:9/v1", tokens=coconot().tokens)


def test_the_fingerprint_tells_guards_words_and_templates_apart_but_not_addresses():
    made = [
        guard("http://a/v1"),
        guard("http://a/v1", model="other"),
        guard("http://a/v1", refuse="harmful"),
        guard("http://a/v1", template="{conversation}?"),
    ]
    assert len({g.fingerprint.model_digest for g in made}) == 4
    assert guard("http://b/v1").fingerprint == made[0].fingerprint
    assert made[0].fingerprint.logprobs == "predicted/guard-chat/float32"


@given(st.floats(0.01, 0.6), st.floats(0.01, 0.35))
def test_the_probability_is_the_odds_of_the_words_and_no_other(refuse, answer):
    listed = (("Unsafe", math.log(refuse)), (" SAFE", math.log(answer)), ("x", math.log(0.04)))
    assert refusal_probability(listed, WORDS) == pytest.approx(refuse / (refuse + answer))


@given(st.floats(0.5, 0.999))
def test_an_unlisted_word_for_refusing_counts_with_as_much_as_it_can_have(answer):
    least = (1 - answer) / 2
    listed = (("safe", math.log(answer)), ("x", math.log(least)))
    assert refusal_probability(listed, WORDS) == pytest.approx(least / (least + answer))
    assert refusal_probability((("safe", 0.0),), WORDS) == 0.0
    assert refusal_probability((("unsafe", math.log(answer)),), WORDS) == 1.0
