"""Any transformers encoder as text vectors: the mean of its last hidden states. Implements core's
Encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from demur.base.arrays import Floats
from demur.base.errors import EngineError
from demur.engines.fingerprint import checkpoint_digest
from demur.engines.hf.load import checkpoint_folder, load_model, no_progress_bars


@dataclass(kw_only=True)
class HfEncoder:
    """A checkpoint from a folder, or by name from the local cache. Raises EngineError if it cannot
    be loaded.

    Texts are cut to most_tokens, or to the model's own limit: refusals are told by how they begin.
    """

    model: str | Path
    most_tokens: int = 512
    batch: int = 32
    device: str | None = None
    _model: Any = field(init=False, repr=False)
    _tokenizer: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            with no_progress_bars():
                here = Path(self.model).is_dir()
                self._tokenizer = AutoTokenizer.from_pretrained(
                    str(self.model), local_files_only=here, trust_remote_code=False
                )
        except (OSError, ValueError) as e:
            reason = str(e).splitlines()[0]
            raise EngineError(
                f"cannot load {str(self.model)!r}: {reason}", "check the path or name"
            ) from None
        self._model = load_model(self.model, "float32", self.device, AutoModel)

    @property
    def name(self) -> str:
        """The last part of the path or name, the digests of weights and settings, and how much of a
        text is read.
        """
        return (
            f"{Path(str(self.model)).name} {checkpoint_digest(checkpoint_folder(self.model))} "
            f"{self._room}"
        )

    @property
    def _room(self) -> int:
        """Tokens of a text that are read."""
        own = getattr(self._model.config, "max_position_embeddings", None) or self.most_tokens
        return min(self.most_tokens, int(own), int(self._tokenizer.model_max_length))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Floats:
        """See core.encoded_classifier.Encoder. Special tokens that a text spells out are read
        letter by letter.
        """
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
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
            state_NTD = self._model(**inputs).last_hidden_state.float()
            mask_NT1 = batch["attention_mask"][..., None].float()
            mean_ND = (state_NTD * mask_NT1).sum(dim=1) / mask_NT1.sum(dim=1).clamp(min=1.0)
            rows.append(mean_ND.cpu().numpy())
        return (
            np.concatenate(rows)
            if rows
            else np.zeros((0, self._model.config.hidden_size), dtype=np.float32)
        )
