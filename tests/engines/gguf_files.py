"""Tiny GGUF files of several architectures, written from random transformers models as llama.cpp
writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.engines.checkpoints import TEMPLATES, make_tokenizer

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 96,
    "max_position_embeddings": 192,
}
# architecture in the file -> (transformers' config, what it has beside SIZES, kind of tokenizer)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", {"head_dim": 32, "tie_word_embeddings": True}, "gpt2"),
    "mistral": (
        "MistralConfig",
        {"head_dim": 32, "sliding_window": None, "tie_word_embeddings": False},
        "llama",
    ),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}, "gpt2"),
    # 128 is what it is read as
    "qwen3": ("Qwen3Config", {"head_dim": 128, "tie_word_embeddings": True}, "gpt2"),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "sliding_window": 64}, "llama"),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 32, "sliding_window": 64}, "llama"),
}
WRITTEN_AS = {"mistral": "llama"}  # llama.cpp has no architecture of its own for it


def make_gguf(
    path: Path, architecture: str, *, template: str | None = "chatml-like", quantised: str = "F16"
) -> Any:
    """Write a file of this architecture; returns the model that it holds. quantised: a name of
    GGMLQuantizationType.
    """
    import gguf

    torch.manual_seed(0)
    kind, extra, tokens = ARCHITECTURES[architecture]
    tokenizer = make_tokenizer("chatml-like", ("<unk>",))
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
        **{**SIZES, **extra},
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    name = WRITTEN_AS.get(architecture, architecture)
    writer = gguf.GGUFWriter(str(path), name)
    _head(writer, config, architecture)
    _tokens(writer, tokenizer, tokens)
    if template is not None:
        writer.add_chat_template(TEMPLATES[template])
    _tensors(writer, model, name, gguf.GGMLQuantizationType[quantised])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model.eval()


def _head(writer: Any, config: Any, name: str) -> None:
    writer.add_name(f"Tiny {name}")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if name.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    theta = config.rope_parameters
    writer.add_rope_freq_base(
        float(theta.get("rope_theta") or theta["full_attention"]["rope_theta"])
    )


def _tokens(writer: Any, tokenizer: Any, kind: str) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = tokenizer.get_vocab()
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    special = set(tokenizer.all_special_tokens)
    spelled = [t if t in special or kind == "gpt2" else t.replace("Ġ", "▁") for t in texts]
    writer.add_tokenizer_model(kind)
    writer.add_token_list(spelled)
    writer.add_token_types([3 if t in special else 1 for t in texts])
    if kind == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(
            [" ".join(m) if not isinstance(m, str) else m for m in state["merges"]]
        )
    else:
        writer.add_token_scores([-float(n) for n in range(len(texts))])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if kind == "llama":  # pieces of bytes that such a vocabulary lacks
        writer.add_unk_token_id(tokenizer.convert_tokens_to_ids("<unk>"))


def _tensors(writer: Any, model: Any, name: str, quantised: Any) -> None:
    import gguf

    known = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[name], model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    for full, weight in model.state_dict().items():
        if full == "lm_head.weight" and tied:
            continue
        stem, _, suffix = full.rpartition(".")
        array = weight.float().numpy()
        if name == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = (
                model.config.num_attention_heads
                if stem.endswith("q_proj")
                else model.config.num_key_value_heads
            )
            array = _interleaved(array, heads)
        if name.startswith("gemma") and stem.endswith("norm"):
            array = array + 1
        if array.ndim > 1:
            array = gguf.quantize(np.ascontiguousarray(array), quantised)
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", array, raw_dtype=quantised)
        else:
            writer.add_tensor(
                f"{names.get_name(stem)}.{suffix}", np.ascontiguousarray(array, dtype=np.float32)
            )


def _interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs where transformers rotates halves."""
    shape = array.shape
    return array.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
