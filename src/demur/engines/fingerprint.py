"""Digests of a checkpoint's weights and settings files, and the fingerprint made of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from demur.base.errors import EngineError
from demur.core.fingerprint import Fingerprint
from demur.core.training.checkpoint import NOISE, config_digest
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.tokenizer import tokenizer_digest

# file names of weights in one file, in the order in which transformers looks for them
WHOLE = ("model.safetensors", "pytorch_model.bin")
ADAPTER = "adapter_config.json"


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def model_digest(folder: Path) -> str:
    """sha256 over the weight files of a checkpoint folder, in name order.

    Raises EngineError without weight files.
    """
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise EngineError(
            f"{folder} holds no weights", "expected *.safetensors; is it a checkpoint folder?"
        )
    # The digest of names and of each file's digest: a file renamed or cut in two changes it.
    state = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            state.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return f"sha256:{state.hexdigest()}"


def settings_digest(folder: Path, tokenizer_folder: Path | None = None) -> str | None:
    """sha256 of the settings that change a score; see demur.core.training.checkpoint.

    None without a config.json. tokenizer_folder: folder of the tokenizer's files, if another one.
    Raises EngineError on a file that is not JSON.
    """
    files: dict[str, Any] = {}
    for name in NOISE:
        of_tokenizer = name.startswith(("tokenizer", "special"))
        path = (tokenizer_folder or folder if of_tokenizer else folder) / name
        if path.exists():
            try:
                files[name] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as e:
                raise EngineError(f"cannot read {path}: {e}", "restore the checkpoint") from None
    return config_digest(files)


def checkpoint_digest(folder: Path) -> str:
    """12 hex digits of weights and settings files, for a model that is part of a judge."""
    both = f"{model_digest(folder)} {settings_digest(folder)}"
    return hashlib.sha256(both.encode()).hexdigest()[:12]


def check_files(folder: Path) -> None:
    """Raise EngineError unless a folder holds one complete set of weights and no adapter.

    transformers skips weights that its index does not name, and applies an adapter silently:
    either way it would compute something else than the files suggest.
    """
    if (folder / ADAPTER).exists():
        raise EngineError(
            f"{folder} holds an adapter ({ADAPTER}): its base may change under it",
            "merge it into its base, and use the merged checkpoint",
        )
    there = {p.name for p in folder.glob("*.safetensors")} or {
        p.name for p in folder.glob("pytorch_model*.bin")
    }
    wanted = _named(folder, there)
    if missing := sorted(wanted - there):
        raise EngineError(f"{folder} lacks weights: {', '.join(missing)}", "restore the checkpoint")
    if extra := sorted(there - wanted):
        raise EngineError(
            f"{folder} holds weights that nothing would load: {', '.join(extra)}",
            "take them away, or restore the checkpoint",
        )


def _named(folder: Path, there: set[str]) -> set[str]:
    """Names of the weight files that transformers would read: one file, or those of the index."""
    for whole in WHOLE:
        if whole in there:
            return {whole}
        index = folder / f"{whole}.index.json"
        if index.exists():
            try:
                return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
                raise EngineError(f"cannot read {index}: {e}", "restore the checkpoint") from None
    return there  # file names of another kind: the loader reports them


def fingerprint(folder: Path, tokenizer: Any, encoder: ChatEncoder, dtype: str) -> Fingerprint:
    """Fingerprint of a checkpoint as it will be scored, for policies to name.

    Raises EngineError if weights are missing or a settings file is not JSON.
    """
    return Fingerprint(
        model_digest=model_digest(folder),
        tokenizer_digest=tokenizer_digest(tokenizer),
        template_digest=encoder.template_digest,
        tokens=encoder.tokens,
        token_ids=encoder.token_ids,
        dtype=dtype,
        config_digest=settings_digest(folder),
    )
