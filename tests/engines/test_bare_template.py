"""A template without its default system prompt renders everything else as before."""

import pytest

from demur.core.example import Message
from demur.core.taxonomy import coconot
from demur.engines.bare_template import bare
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from tests.engines.checkpoints import SPECIALS, TEMPLATES, make_tokenizer

BEFORE = "{% if messages[0]['role'] != 'system' %}"
DEFAULT = {
    "chatml-like": BEFORE
    + "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "llama3-like": BEFORE
    + "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>{% endif %}",
    "qwen3-like": BEFORE + "<|im_start|>system\n{{ 'It\\'s' }} \"you\".<|im_end|>\n{% endif %}",
}
USER, ANSWER = {"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."}
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def rendered(tokenizer, template, turns, generation=True):
    return tokenizer.apply_chat_template(
        turns,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=generation,
        enable_thinking=False,
    )


@pytest.mark.parametrize("family", DEFAULT)
@pytest.mark.parametrize(
    "turns", [[USER], [USER, ANSWER, USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER]]
)
def test_the_default_prompt_goes_and_nothing_else_does(family, turns):
    tokenizer = make_tokenizer(family)
    tokenizer.chat_template = DEFAULT[family] + TEMPLATES[family]
    assert rendered(tokenizer, bare(tokenizer), turns) == rendered(
        tokenizer, TEMPLATES[family], turns
    )


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_template_without_a_default_prompt_is_left_alone(family):
    tokenizer = make_tokenizer(family)
    assert bare(tokenizer) == tokenizer.chat_template


@pytest.mark.parametrize(
    "own",
    [
        BEFORE + "<|im_start|>system\nToday: {{ strftime_now('%d') }}<|im_end|>\n{% endif %}",
        BEFORE + "You are kind.\n{% endif %}",  # no turn of its own
    ],
)
def test_a_prompt_that_changes_or_cannot_be_told_apart_stays(own):
    tokenizer = make_tokenizer("chatml-like")
    tokenizer.chat_template = own + TEMPLATES["chatml-like"]
    assert bare(tokenizer) == tokenizer.chat_template


def test_text_of_users_that_repeats_the_prompt_stays():
    tokenizer = make_tokenizer("chatml-like")
    tokenizer.chat_template = DEFAULT["chatml-like"] + TEMPLATES["chatml-like"]
    turn = {
        "role": "user",
        "content": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    }
    assert rendered(tokenizer, bare(tokenizer), [turn]).count("helpful") == 1


def test_the_encoder_reads_it_and_the_template_is_saved(tmp_path):
    tokenizer = make_tokenizer("chatml-like")
    tokenizer.chat_template = DEFAULT["chatml-like"] + TEMPLATES["chatml-like"]
    tokenizer.save_pretrained(tmp_path / "base")
    own, short = (load_tokenizer(tmp_path / "base", name) for name in ("own", "bare"))
    assert own.chat_template == tokenizer.chat_template
    installed, _ = add_control_tokens(short, coconot(), tmp_path / "scratch")
    prompt = [Message(role="user", content="Tea?")]
    encoder = ChatEncoder(installed, coconot().tokens)
    assert (
        installed.decode(encoder.prompt(prompt))
        == "<|im_start|>user\nTea?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert set(SPECIALS["chatml-like"]) <= set(installed.get_vocab())


def test_a_first_token_that_opens_every_turn_is_no_hindrance():
    tokenizer = make_tokenizer("chatml-like")
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = DEFAULT["chatml-like"] + TEMPLATES["chatml-like"]
    assert rendered(tokenizer, bare(tokenizer), [USER]) == rendered(
        tokenizer, TEMPLATES["chatml-like"], [USER]
    )
