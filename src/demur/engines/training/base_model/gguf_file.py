"""A GGUF file, checked and unpacked into a plain checkpoint in bfloat16.

1. The file must be whole, hold no weight matrix below four bits a weight, and be of an architecture
   that transformers knows.
2. transformers reads tokenizer and weights; a weight that the file lacks would be random, and is an
   error.
3. The result is saved as a checkpoint without any trace of GGUF, so that it can be trained and
   saved again.

GGUF weights are mostly quantised; unpacked they are a starting point for training, not the
published model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from demur.base.errors import EngineError, MissingDependency
from demur.core.ports import NOT_STATED
from demur.engines.hf.load import check_keys, no_progress_bars

LEAST_BITS = 4.0  # bits a weight; with fewer a model has lost too much to be trained
UNSCALED = ("none", "1.0", "1")  # values of rope.scaling keys that mean no scaling
GGUF_PACKAGE = "pip install --no-deps gguf"


def checked_reader(file: Path) -> Any:
    """Open a GGUF file with gguf's reader and check that its weights can be trained.

    Raises MissingDependency without the package gguf, EngineError on a file that is not GGUF, is
    cut short, has a weight matrix below four bits a weight, or scales its positions.
    """
    reader = _reader(file)
    _check_bits(file, reader)
    _check_positions(file, reader)
    return reader


def text_of(reader: Any, field: str) -> str:
    """Text of a field in the file's header; NOT_STATED without the field."""
    found = reader.get_field(field)
    return str(found.contents()) if found is not None else NOT_STATED


def unpack(file: Path, folder: Path) -> None:
    """Write the file's model and tokenizer to `folder` as a plain checkpoint.

    Raises EngineError if transformers cannot read the file.
    """
    from transformers import GgufConfig

    of_models: Any = AutoModelForCausalLM
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, trust_remote_code=False
            )
            read, found = of_models.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.bfloat16,
                trust_remote_code=False,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError) as e:
        reason = str(e).strip().partition("\n")[0]
        raise EngineError(
            f"transformers cannot read {file.name}: {reason}",
            "use a Llama-, Qwen-, Gemma- or Mistral-shaped model",
        ) from None
    check_keys(read, found, file.name, "causal language model")
    # A new model of the same configuration: the one that was read would be saved as quantised, and
    # under the name of the file.
    settings = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        settings.pop(key, None)
    config = read.config.__class__.from_dict(settings)
    plain = of_models.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    with no_progress_bars():
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _reader(file: Path) -> Any:
    """Open a file with gguf's reader; see checked_reader."""
    try:
        from gguf import GGUFReader  # only GGUF files need it
    except ModuleNotFoundError as e:
        if e.name != "gguf":
            raise
        raise MissingDependency(f"{file.name} needs the package gguf", GGUF_PACKAGE) from None
    try:
        return GGUFReader(file)
    except (ValueError, KeyError, IndexError, OSError) as e:
        raise EngineError(
            f"{file} is no GGUF file that can be read: {e}", "download it again"
        ) from None


def _check_bits(file: Path, reader: Any) -> None:
    """Raise EngineError if a weight matrix is quantised below four bits a weight."""
    from gguf.constants import GGML_QUANT_SIZES

    for tensor in reader.tensors:
        weights, octets = GGML_QUANT_SIZES[tensor.tensor_type]
        if len(tensor.shape) > 1 and 8 * octets / weights < LEAST_BITS:
            raise EngineError(
                f"{file.name}: {tensor.name} is quantised to {tensor.tensor_type.name}, "
                f"{8 * octets / weights:.2g} bits a weight",
                f"take a file with {LEAST_BITS:g} bits a weight or more, such as Q4_K_M or Q8_0",
            )


def _check_positions(file: Path, reader: Any) -> None:
    """Raise EngineError if rotary positions are scaled, which transformers' reader ignores."""
    scaled = [
        name
        for name in reader.fields
        if ".rope.scaling." in name and text_of(reader, name) not in UNSCALED
    ]
    scaled += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_freqs")]
    if scaled:
        raise EngineError(
            f"{file.name} scales its positions ({', '.join(sorted(scaled))}), which transformers' "
            "GGUF reader leaves out",
            "take the model's own checkpoint folder or Hub name: read from this file it would "
            "compute something else",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block no progress bars are drawn, neither transformers' nor its GGUF loader's."""
    # The loader has imported tqdm by name, so the name is replaced in its module.
    loader: Any = modeling_gguf_pytorch_utils
    tqdm = loader.tqdm
    silent = type("Silent", (tqdm,), {"__init__": partialmethod(tqdm.__init__, disable=True)})
    loader.tqdm = silent
    try:
        with no_progress_bars():
            yield
    finally:
        loader.tqdm = tqdm
