"""Digests that tell one checkpoint from another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from demur.core.errors import EngineError
from demur.core.policy import Fingerprint
from demur.engines.tokens import ChatEncoder, tokenizer_digest


def model_digest(folder: Path) -> str:
    """sha256 over the weight files of a checkpoint folder, in name order. Raises EngineError if there are none."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise EngineError(f"{folder} holds no weights", "expected *.safetensors; is it a checkpoint folder?")
    state = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            state.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{state.hexdigest()}"


def fingerprint(folder: Path, tokenizer: Any, encoder: ChatEncoder, dtype: str) -> Fingerprint:
    """The fingerprint of a checkpoint as it will be scored."""
    return Fingerprint(
        model_digest=model_digest(folder),
        tokenizer_digest=tokenizer_digest(tokenizer),
        template_digest=encoder.template_digest,
        tokens=encoder.tokens,
        token_ids=encoder.token_ids,
        dtype=dtype,
    )
