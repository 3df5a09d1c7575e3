"""A control token is trained, scored and served in one place, whatever a template does with
thoughts.
"""

import asyncio

import pytest

from demur.base.errors import EngineError, ScoreDoubt
from demur.core.example import Message
from demur.core.policy import CategoryPolicy, DoubtRule, Policy
from demur.core.taxonomy import coconot, single
from demur.core.threshold import NEVER
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf.engine import HfEngine
from demur.engines.thought_position import EMPTY, require_same_position, with_thought
from demur.engines.tokenizer import add_control_tokens
from tests.engines.checkpoints import TEMPLATES, make_tokenizer, user
from tests.engines.inprocess.test_backend import ask, serving, whole

HEADER = "<|im_start|>assistant\n"
CLOSED = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
# Shapes of reasoning models' templates: what stands in front of an answer in a finished
# conversation, and in a prompt.
SHAPES = {
    "closes it in both": TEMPLATES["qwen3-like"],
    "opens it in a prompt": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% "
        "endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
    "closes it in a prompt only": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim "
        "}}<|im_end|>\n{% endfor %}" + CLOSED
    ),
    "begins with a block on a line of its own": (
        "  {%- set x = 1 %}\n{% for m in messages %}\n<|im_start|>{{ m['role'] }}\n{{ "
        "m['content'] }}<|im_end|>\n"
        "{% endfor %}\n{% if add_generation_prompt %}\n<|im_start|>assistant\n<think>\n{% endif "
        "%}\n"
    ),
    "none": TEMPLATES["chatml-like"],
}


def encoder_of(shape, thought, tmp_path):
    tokenizer = make_tokenizer("qwen3-like")
    tokenizer.chat_template = with_thought(SHAPES[shape], thought)
    tokenizer, _ = add_control_tokens(tokenizer, single(), tmp_path)
    return tokenizer, ChatEncoder(tokenizer, single().tokens)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("thought", ["none", "before"])
def test_the_place_is_one_and_the_asked_for(shape, thought, tmp_path):
    tokenizer, encoder = encoder_of(shape, thought, tmp_path)
    require_same_position(tokenizer, encoder)
    turns = [*user("hi"), Message(role="assistant", content="Good."), *user("<think>go on")]
    for asked in (user("hi"), turns):
        shown = tokenizer.decode(encoder.prompt(asked))
        assert shown.endswith(HEADER + (EMPTY if thought == "none" else ""))
        ids, found = encoder.conversation(
            [*asked, Message(role="assistant", content="Good.")], [0, 1]
        )
        assert encoder.prompt(asked) == ids[: found[-1].control_at]
        written = tokenizer.decode(ids)
        assert written.count(EMPTY) == (thought == "none")
        assert "[refuse]Good." in written or "[respond]Good." in written


def test_a_template_with_two_places_is_refused_with_the_setting_to_use(tmp_path):
    tokenizer, encoder = encoder_of("closes it in a prompt only", "template", tmp_path)
    with pytest.raises(EngineError, match="control token behind") as e:
        require_same_position(tokenizer, encoder)
    assert 'train.thought: "none"' in e.value.hint


@pytest.mark.parametrize(
    "shape", ["opens it in a prompt", "begins with a block on a line of its own"]
)
def test_a_template_that_opens_a_thought_in_a_prompt_encodes_nothing(shape, tmp_path):
    """So whatever loads such a model is refused: trainer, scorer, server, gateway, vLLM."""
    with pytest.raises(EngineError, match="leaves open") as e:
        encoder_of(shape, "template", tmp_path)
    assert 'train.thought: "none"' in e.value.hint


@pytest.mark.parametrize("shape", ["closes it in both", "none"])
def test_a_template_with_one_place_is_left_alone(shape, tmp_path):
    assert with_thought(SHAPES[shape], "template") == SHAPES[shape]
    require_same_position(*encoder_of(shape, "template", tmp_path))


def test_a_thought_that_stays_open_in_both_is_no_place(tmp_path):
    tokenizer = make_tokenizer("qwen3-like")
    opened = SHAPES["opens it in a prompt"].replace(
        "<|im_start|>{{ m['role'] }}\n",
        "<|im_start|>{{ m['role'] }}\n{% if loop.last and m['role'] == 'assistant' %}<think>\n{% "
        "endif %}",
    )
    tokenizer.chat_template = opened
    tokenizer, _ = add_control_tokens(tokenizer, single(), tmp_path)
    with pytest.raises(EngineError, match="leaves open"):
        ChatEncoder(tokenizer, single().tokens)


def test_an_untouched_setting_keeps_fingerprints():
    for template in TEMPLATES.values():
        assert with_thought(template, "template") == template


@pytest.fixture
def reasoning(checkpoints):
    """A model that begins every answer with a thought of its own, which its template says nothing
    of.
    """
    engine = HfEngine(model=checkpoints["llama"], tokens=coconot().tokens)
    thought = engine.tokenizer("<think>", add_special_tokens=False)["input_ids"][0]

    def think(module, inputs, logits):
        logits[..., thought] += 60.0
        return logits

    engine.network.get_output_embeddings().register_forward_hook(think)
    return engine


@pytest.mark.parametrize("rule", ["natural", "heaviest"])
@pytest.mark.parametrize("then", ["refuse", "error"])
def test_a_model_that_opens_a_thought_by_itself_is_in_doubt_and_writes_nothing(
    reasoning, rule, then
):
    categories = tuple(CategoryPolicy(threshold=NEVER, on_refuse="No.") for _ in coconot().names)
    doubt = DoubtRule(then=then)
    policy = Policy(
        name="p",
        taxonomy=coconot(),
        rule=rule,
        categories=categories,
        fingerprint=reasoning.fingerprint,
        doubt=doubt,
    )

    async def scenario():
        async with serving(reasoning) as backend:
            return await whole(backend, ask("How are you?", policy))

    if then == "error":
        with pytest.raises(ScoreDoubt):
            asyncio.run(scenario())
    else:
        reply, text, _ = asyncio.run(scenario())
        assert (reply.decision.doubt, reply.decision.refuses, text) == (True, True, "")
