"""The tiny base model: a small Llama from nothing, for the demo and for tests.

Byte-level BPE learnt on the training rows, 3 layers of width 192, tied embeddings: about two
million parameters, which train in minutes on a laptop's CPU (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demur.base.errors import EngineError
from demur.core.example import Example

END = "<|end|>"
PAD = "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# A turn is role token, text, end token. An answer's control token follows <|assistant|> directly.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig:
    """Sizes of the tiny model."""

    width: int = 192
    layers: int = 3
    heads: int = 4
    vocabulary: int = 4096
    max_length: int = 2048


def make_tiny(examples: Sequence[Example], config: TinyConfig, folder: Path, *, seed: int) -> None:
    """Write an untrained checkpoint, with a tokenizer learnt on `examples`, to `folder`.

    Raises EngineError if the examples have too little text for a tokenizer.
    """
    tokenizer = _learn_tokenizer(examples, config.vocabulary)
    torch.manual_seed(seed)  # of the initial weights
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=int(config.width * 8 / 3),
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _learn_tokenizer(examples: Sequence[Example], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE tokenizer of `vocabulary` tokens on the texts of examples."""
    texts = [m.content for e in examples for m in e.messages]
    if sum(map(len, texts)) < 1000:
        raise EngineError(
            f"{len(texts)} messages are too little text to learn a tokenizer from",
            "add training rows",
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *ROLES],
        # all bytes, so that no text is unknown, whatever the examples have
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )
