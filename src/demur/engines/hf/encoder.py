"""Text embeddings: the mean of a transformers encoder's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from demur.base.arrays import Floats
from demur.engines.fingerprint import checkpoint_digest
from demur.engines.hf.load import checkpoint_folder, load_model, no_progress_bars
from demur.engines.tokenizer import read_tokenizer


@dataclass(kw_only=True)
class HfEncoder:
    """Embeds texts by a checkpoint. Implements demur.core's Encoder.

    Texts are cut to most_tokens, or to the model's own limit: a refusal shows in how a text begins.
    Raises EngineError if the checkpoint cannot be loaded.
    """

    model: str | Path  # a folder, or a Hugging Face name in the local cache
    most_tokens: int = 512
    batch: int = 32  # texts embedded at once
    device: str | None = None  # None: the first GPU if there is one
    _model: Any = field(init=False, repr=False)
    _tokenizer: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with no_progress_bars():
            self._tokenizer = read_tokenizer(self.model)
        self._model = load_model(self.model, "float32", self.device, AutoModel)

    @property
    def name(self) -> str:
        """Last part of the path or name, digest of the checkpoint, most tokens read of a text."""
        return (
            f"{Path(str(self.model)).name} {checkpoint_digest(checkpoint_folder(self.model))} "
            f"{self._room}"
        )

    @property
    def _room(self) -> int:
        """Most tokens of a text that are read."""
        own = getattr(self._model.config, "max_position_embeddings", None) or self.most_tokens
        return min(self.most_tokens, int(own), int(self._tokenizer.model_max_length))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Floats:
        """Embed N texts: (N, D) float32. Special tokens spelt out in a text become letters."""
        rows: list[Floats] = []
        for at in range(0, len(texts), self.batch):
            batch = self._tokenizer(
                list(texts[at : at + self.batch]),
                padding=True,
                truncation=True,
                max_length=self._room,
                split_special_tokens=True,
                return_tensors="pt",
            ).to(self._model.device)
            # Some encoders take no token_type_ids, which their tokenizers still give.
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
            state_NTD = self._model(**inputs).last_hidden_state.float()
            # The mean over a text's own tokens: padding counts for nothing.
            mask_NT1 = batch["attention_mask"][..., None].float()
            mean_ND = (state_NTD * mask_NT1).sum(dim=1) / mask_NT1.sum(dim=1).clamp(min=1.0)
            rows.append(mean_ND.cpu().numpy())
        return (
            np.concatenate(rows)
            if rows
            else np.zeros((0, self._model.config.hidden_size), dtype=np.float32)
        )
