"""Loading checkpoints from a folder or by name; their context length and stop ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging
from transformers.utils.hub import cached_file

from demur.base.errors import EngineError
from demur.base.suggest import suggest
from demur.core.taxonomy import coconot, single
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.fingerprint import check_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Control tokens of a published checkpoint and their ids in its vocabulary, respond first."""

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    source: str  # the checkpoint, for error messages


_SOURCE = "Llama-3-8B checkpoints published with arXiv 2412.06748"
PRESETS = {
    "released": Preset(
        tokens=coconot().tokens,
        ids=(128261, 128256, 128257, 128258, 128259, 128260),
        source=f"{_SOURCE}, categories",
    ),
    "released-single": Preset(
        tokens=single().tokens, ids=(128256, 128257), source=f"{_SOURCE}, one refusal token"
    ),
}


def find_preset(name: str) -> Preset:
    """Find a preset by name. Raises EngineError, with a suggestion, on an unknown name."""
    if name in PRESETS:
        return PRESETS[name]
    raise EngineError(f"unknown preset {name!r}", suggest(name, PRESETS))


def preset_encoder(
    tokenizer: PreTrainedTokenizerFast, preset: Preset, *, keep_history: bool
) -> ChatEncoder:
    """An encoder with the preset's control ids, however the tokenizer spells them.

    The published tokens may be ordinary added tokens. They become special in `tokenizer`, which
    must be the engine's own copy, so that people's text cannot spell them. Raises EngineError if an
    id is not an added token.
    """
    added = tokenizer.added_tokens_decoder
    # A tokenizer of another model would decode these ids to ordinary text.
    missing = [i for i in preset.ids if i not in added]
    if missing:
        raise EngineError(
            f"ids {missing} are not added tokens of this tokenizer ({len(tokenizer)} tokens)",
            f"the preset is for: {preset.source}; give the control tokens instead",
        )
    literals = [added[i].content for i in preset.ids]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": literals}, replace_extra_special_tokens=False
    )
    return ChatEncoder(tokenizer, preset.tokens, keep_history=keep_history, ids=preset.ids)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within the block transformers draws no progress bars: the terminal belongs to the caller."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def load_model(
    name: str | Path, dtype: str | None, device: str | None, loader: Any = AutoModelForCausalLM
) -> Any:
    """Load a model in evaluation mode; a folder is read without any network access.

    dtype: of the weights; None: as stored. device: None: the first GPU if there is one. loader:
    transformers' class for this kind of model. No code that comes with a checkpoint is run. Raises
    EngineError when the checkpoint cannot be read, lacks weights (they would be random), or holds
    weights that its configuration has no place for.
    """
    model = _loaded(name, dtype, loader)
    model.to(device or ("cuda" if on_gpu() else "cpu"))
    return model.eval()


def load_base(name: str, dtype: str) -> Any:
    """Load a causal language model to train, on the CPU: the trainer moves it to its device.

    Raises EngineError as load_model does.
    """
    return _loaded(name, dtype, AutoModelForCausalLM)


def _loaded(name: str | Path, dtype: str | None, loader: Any) -> Any:
    """Load and check a model on the CPU; see load_model."""
    if dtype is not None and dtype not in DTYPES:
        raise EngineError(f"unknown dtype {dtype!r}", f"known: {', '.join(DTYPES)}")
    what = _KINDS.get(loader, "model")
    # Checked here: transformers itself skips surplus weight files and applies an adapter silently.
    if Path(name).is_dir():
        check_files(Path(name))
    try:
        with no_progress_bars():
            model, found = loader.from_pretrained(
                str(name),
                dtype=DTYPES[dtype] if dtype else "auto",
                local_files_only=Path(name).is_dir(),
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        reason = str(e).strip().partition("\n")[0]
        raise EngineError(
            f"cannot load {str(name)!r}: {reason}", f"expected a {what}'s folder"
        ) from None
    check_keys(model, found, str(name), what)
    return model


_KINDS = {
    AutoModelForSequenceClassification: "sequence classifier",
    AutoModelForCausalLM: "causal language model",
}


def check_keys(model: Any, found: Mapping[str, Any], name: str, what: str) -> None:
    """Raise EngineError on weights that are missing or that the model has no place for.

    found: transformers' loading info. what: the kind of model. A bare encoder ("model") may lack
    its pooler, which demur does not use, and leave a head of another task out.
    """
    lacking, left = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if what == "model":
        parts = {part for part, _ in model.named_children()}
        bare = model.base_model_prefix
        # Weights left over count only if they belong to a module of the encoder itself: then config
        # and weights are of different shapes. Those of another task's head do not matter.
        lacking = [key for key in lacking if "pooler" not in key.split(".")]
        left = [
            key for key in left if key.removeprefix(f"{bare}.").split(".")[0] in parts - {"pooler"}
        ]
    if lacking:
        raise EngineError(
            f"{name!r} lacks {len(lacking)} weights, first {lacking[0]!r}",
            f"they would be random: use a checkpoint that was saved as a {what}",
        )
    if left:
        raise EngineError(
            f"{name!r} holds {len(left)} weights that its config.json has no place for, first "
            f"{left[0]!r}",
            "config and weights are not of one model: restore the checkpoint",
        )


def checkpoint_folder(name: str | Path) -> Path:
    """Folder of a checkpoint's files: the folder itself, or a name's snapshot in the local cache.

    Raises EngineError if a named model is not in the cache.
    """
    if Path(name).is_dir():
        return Path(name)
    config = cached_file(str(name), "config.json", local_files_only=True)
    if config is None:
        raise EngineError(
            f"no files of {str(name)!r} in the local cache", "load it once with a network"
        )
    return Path(config).parent


def context_of(model: Any) -> int | None:
    """Most positions that the model can read; None without a limit."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(limit) if limit else None


def stop_ids(
    model: Any, tokenizer: PreTrainedTokenizerFast, encoder: ChatEncoder
) -> frozenset[int]:
    """Ids that end an answer: those of the checkpoint, and the token its template puts after one.

    The latter matters for base models trained with a chat template, whose configuration still names
    another token. Control ids never end an answer.
    """
    stops: set[int | None] = {encoder.end_of_turn}
    # Each of these names one id, a list of ids, or none.
    listed: tuple[Any, ...] = (
        getattr(model.generation_config, "eos_token_id", None),
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    )
    for one in listed:
        stops.update(one if isinstance(one, Iterable) else [one])
    return frozenset(int(i) for i in stops if i is not None) - frozenset(encoder.token_ids)


def on_gpu() -> bool:
    """Whether torch finds a CUDA device."""
    return torch.cuda.is_available()
