"""Digests that tell one checkpoint from another: of its weights, and of the settings files beside
them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from demur.base.errors import EngineError
from demur.core.policy import Fingerprint
from demur.core.training.checkpoint import NOISE, config_digest
from demur.engines.tokens import ChatEncoder, tokenizer_digest

# weights in one file, in the order in which they are looked for
WHOLE = ("model.safetensors", "pytorch_model.bin")
ADAPTER = "adapter_config.json"


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def model_digest(folder: Path) -> str:
    """sha256 over the weight files of a checkpoint folder, in name order. Raises EngineError if
    there are none.
    """
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise EngineError(
            f"{folder} holds no weights", "expected *.safetensors; is it a checkpoint folder?"
        )
    state = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            state.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return f"sha256:{state.hexdigest()}"


def settings_digest(folder: Path, tokenizer_folder: Path | None = None) -> str | None:
    """sha256 of what the settings files say that moves a score; see core.checkpoint. None without a
    config.json.

    tokenizer_folder: where the tokenizer's files lie, if elsewhere. Raises EngineError on a file
    that is no JSON.
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
    """A short name for weights and settings files together, for models that stand in somebody's
    version.
    """
    both = f"{model_digest(folder)} {settings_digest(folder)}"
    return hashlib.sha256(both.encode()).hexdigest()[:12]


def check_files(folder: Path) -> None:
    """Raise EngineError unless a checkpoint folder holds one set of weights, all of it, and no
    adapter beside it.

    A loader would pass over weights that its index does not name, and put an adapter on without a
    word: neither is what a policy was made for.
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
    """The weight files that a loader would read: the one file, or all that the index names."""
    for whole in WHOLE:
        if whole in there:
            return {whole}
        index = folder / f"{whole}.index.json"
        if index.exists():
            try:
                return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
                raise EngineError(f"cannot read {index}: {e}", "restore the checkpoint") from None
    return there  # names of its own: what is wrong with them the loader says


def fingerprint(folder: Path, tokenizer: Any, encoder: ChatEncoder, dtype: str) -> Fingerprint:
    """The fingerprint of a checkpoint as it will be scored. Raises EngineError if its files are not
    as they should.
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
