"""Tiny random checkpoints of several architectures and short chat templates of several families."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demur.core.example import Message
from demur.core.taxonomy import coconot
from demur.engines.hf.token_rows import add_token_rows
from demur.engines.tokenizer import add_control_tokens, control_ids

TEXT = (
    "You are a helpful assistant. What is the capital of France? Please write a poem about the "
    "sea. How do I bake bread at home? Tell me how you feel today. I cannot help with that "
    "request. "
) * 3

# The shapes of well-known chat formats, written from their descriptions: where headers stand, what
# is trimmed.
TEMPLATES = {
    "llama3-like": (
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ "
        "m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt "
        "%}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "zephyr-like": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "chatml-like": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% "
        "endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "qwen3-like": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ "
        "m['content'] }}<|im_end|>"
        "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% "
        "endif %}{% endif %}"
    ),
}
SPECIALS = {
    "llama3-like": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "zephyr-like": ["</s>", "<|user|>", "<|assistant|>"],
    "chatml-like": ["<|im_start|>", "<|im_end|>"],
    "qwen3-like": ["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
}

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
CONFIGS = {
    "llama": (
        "LlamaConfig",
        {**_SIZES, "max_position_embeddings": 192, "tie_word_embeddings": True},
    ),
    # Heads of 32: vLLM's attention on the CPU takes no smaller ones.
    "llama-wide": (
        "LlamaConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "max_position_embeddings": 192,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 192}),
    "qwen2": ("Qwen2Config", {**_SIZES, "num_key_value_heads": 2, "max_position_embeddings": 192}),
    "gemma2": (
        "Gemma2Config",
        {
            **_SIZES,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 16,
            "max_position_embeddings": 192,
            "final_logit_softcapping": 3.0,
        },
    ),
    "bert": ("BertConfig", {**_SIZES, "is_decoder": True, "max_position_embeddings": 192}),
    "bert-not-causal": (
        "BertConfig",
        {**_SIZES, "is_decoder": False, "max_position_embeddings": 192},
    ),
}


def user(text: str) -> tuple[Message, ...]:
    """A prompt of one user turn."""
    return (Message(role="user", content=text),)


def make_tokenizer(
    template: str = "chatml-like", specials: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one of TEMPLATES and, after the template's tokens, further
    special ones.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<|end|>", *SPECIALS[template], *specials]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|end|>",
        extra_special_tokens=names[1:],
        chat_template=TEMPLATES[template],
    )


def make_checkpoint(folder: Path, architecture: str, *, spread: float = 0.3) -> Path:
    """A random checkpoint with the five categories installed. spread: of the weights; wide ones
    make answers vary.
    """
    torch.manual_seed(0)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    tokenizer, _ = add_control_tokens(make_tokenizer(), coconot(), scratch)
    kind, sizes = CONFIGS[architecture]
    ids = {
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer), initializer_range=spread, **ids, **sizes
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    add_token_rows(model, tokenizer, coconot(), control_ids(tokenizer, coconot().tokens))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
