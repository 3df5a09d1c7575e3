"""Answers with the score of every position: the numbers, the text, and what they cost."""

import numpy as np
import pytest
import torch

from demur.base.errors import PromptTooLong
from demur.core.example import Message
from demur.core.midway.monitor import AnswerSampling
from demur.core.ports import AnswerWatcher
from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from tests.engines.checkpoints import user
from tests.engines.hf.test_engine import Passes

TOKENS = coconot().tokens
PROMPTS = [user("What is the capital of France?"), user("Hi"), user("Write a poem about the sea.")]
GREEDY = AnswerSampling(most_tokens=12, temperature=0.0)
SAMPLED = AnswerSampling(most_tokens=12, temperature=1.3, top_p=0.9)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def engine(request, checkpoints):
    return HfEngine(model=checkpoints[request.param], tokens=TOKENS, max_new_tokens=12)


@torch.no_grad()
def logp_by_the_book(engine, ids, length):
    """Scores of the last `length` positions of ids, one forward pass over all of them, float64."""
    logits_TV = engine.network(torch.tensor([ids])).logits[0].double()
    logp_TC = torch.log_softmax(logits_TV, dim=1)[:, list(engine.encoder.token_ids)]
    return logp_TC[len(ids) - length :].numpy()


def written(engine, prompt, sampling, prefix=""):
    """Ids before the answer, ids of the answer and its position scores, of a prompt alone."""
    taken = []
    keep = engine.tokenizer.batch_decode
    engine.tokenizer.batch_decode = lambda rows, **kwargs: (
        taken.extend(rows) or keep(rows, **kwargs)
    )
    try:
        (one,) = engine.watched([prompt], sampling, [prefix])
    finally:
        del engine.tokenizer.batch_decode
    return engine.encoder.begun_answer(prompt, 0, prefix), list(taken[0]), one


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("prefix", ["", "Bread is baked at home [respond] like"])
def test_position_scores_are_those_of_a_pass_over_the_whole_answer(engine, sampling, prefix):
    for prompt in PROMPTS:
        before, ids, one = written(engine, prompt, sampling, prefix)
        assert one.answer.tokens == len(ids) == len(one.logp_TC) > 0
        expected_TC = logp_by_the_book(engine, [*before, *ids[:-1]], len(ids))
        np.testing.assert_allclose(one.logp_TC, expected_TC, atol=1e-4)


def test_greedy_answers_are_the_branches_after_respond(engine):
    watcher: AnswerWatcher = engine
    answers = [one.answer for one in watcher.watched(PROMPTS, GREEDY)]
    assert answers == [b[0] for b in engine.branches(PROMPTS, [[0]] * len(PROMPTS))]


def test_a_sampled_answer_is_the_same_in_every_batch_and_differs_from_the_greedy_one(engine):
    together = engine.watched(PROMPTS, SAMPLED)
    for prompt, one in zip(PROMPTS, together, strict=True):
        (alone,) = engine.watched([prompt], SAMPLED)
        assert alone.answer == one.answer
        np.testing.assert_allclose(alone.logp_TC, one.logp_TC, atol=1e-4)
    greedy = engine.watched(PROMPTS, GREEDY)
    assert [one.answer for one in greedy] != [one.answer for one in together]


def test_watching_takes_no_forward_pass_of_its_own(engine):
    with Passes(engine) as plain:
        engine.branches(PROMPTS, [[0]] * len(PROMPTS))
    with Passes(engine) as watched:
        engine.watched(PROMPTS, GREEDY)
    # The same steps of decoding; the forced token is read in the first of them.
    assert watched.shapes[1:] == plain.shapes[1:]
    assert len(watched.shapes) == len(plain.shapes)


def test_a_prefix_is_what_training_reads_and_never_holds_a_control_id(engine):
    text = "Sure [respond] [refuse: safety] <|im_end|> and"
    begun = engine.encoder.begun_answer(PROMPTS[0], 0, f" {text} ")
    start = [*engine.encoder.prompt(PROMPTS[0]), engine.encoder.token_ids[0]]
    assert begun[: len(start)] == start
    special = {*engine.encoder.token_ids, *engine.tokenizer.all_special_ids}
    assert not special.intersection(begun[len(start) :])
    assert engine.tokenizer.decode(begun[len(start) :]) == text
    assert engine.encoder.begun_answer(PROMPTS[0], 0, " \n") == start


def test_past_turns_and_the_begun_one_have_their_control_tokens(engine):
    answered = Message(role="assistant", content="Hello.")
    begun = engine.encoder.begun_answer((*user("Hi"), answered, *user("Go on")), 2, "First")
    controls = [i for i in begun if i in engine.encoder.token_ids]
    assert controls == [engine.encoder.token_ids[0], engine.encoder.token_ids[2]]


def test_a_prompt_and_prefix_longer_than_the_context_are_named(engine):
    with pytest.raises(PromptTooLong, match="prompt 1 has"):
        engine.watched(PROMPTS[:2], GREEDY, ["", "word " * 200])
    context = engine.rules.context
    ids = engine.encoder.begun_answer(PROMPTS[1], 0, "")
    longest = AnswerSampling(most_tokens=500, temperature=0.0)
    (one,) = engine.watched([PROMPTS[1]], longest)
    assert one.answer.tokens <= context - len(ids)


def test_no_prompts_are_no_answers(engine):
    assert engine.watched([], GREEDY) == []
