"""A causal language model that continues text greedily, for classifiers that answer in words.

Implements demur.core.judging.judge.Completer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from demur.base.errors import EngineError
from demur.core.judging.judge import NoAnswer, PromptPiece
from demur.core.ports import Progress, no_progress
from demur.engines.fingerprint import checkpoint_digest
from demur.engines.hf.load import checkpoint_folder, load_model


@dataclass(kw_only=True)
class HfCompleter:
    """A checkpoint from a folder, or by name from the local cache. Raises EngineError if it cannot
    be loaded.
    """

    model: str | Path
    max_new_tokens: int = 128
    batch: int = 8
    dtype: str | None = None
    device: str | None = None
    _model: Any = field(init=False, repr=False)
    _tokenizer: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._model = load_model(self.model, self.dtype, self.device)
        self._tokenizer = _tokenizer(self.model)

    @property
    def name(self) -> str:
        """The last part of the path or name, the digests of weights and settings, the length of
        what it writes.
        """
        digest = checkpoint_digest(checkpoint_folder(self.model))
        return f"{Path(str(self.model)).name} {digest} {self.max_new_tokens}"

    def complete(
        self, prompts: Sequence[Sequence[PromptPiece]], progress: Progress = no_progress
    ) -> list[str | NoAnswer]:
        """See core.judging.Completer. A prompt longer than the model's context is not cut: it gets
        no answer.
        """
        encoded = [self.encode(pieces) for pieces in prompts]
        room = (
            getattr(self._model.config, "max_position_embeddings", None)
            or sum(map(len, encoded)) + 1
        )
        fits = [n for n, ids in enumerate(encoded) if len(ids) + self.max_new_tokens <= room]
        written: list[str | NoAnswer] = [
            NoAnswer(reason=f"{len(ids)} tokens do not fit a context of {room}") for ids in encoded
        ]
        for at in range(0, len(fits), self.batch):
            part = fits[at : at + self.batch]
            for n, text in zip(part, self._write([encoded[n] for n in part]), strict=True):
                written[n] = text
            progress(at + len(part), len(fits))
        return written

    def encode(self, pieces: Sequence[PromptPiece]) -> list[int]:
        """Token ids. Special tokens spelt out in pieces that are not trusted are read letter by
        letter.
        """
        ids = list(self._tokenizer("")["input_ids"])  # what the tokenizer puts before any text
        if ids and ids[-1] == self._tokenizer.eos_token_id != self._tokenizer.bos_token_id:
            ids.pop()
        for piece in pieces:
            ids += self._tokenizer(
                piece.text, add_special_tokens=False, split_special_tokens=not piece.trusted
            )["input_ids"]
        return ids

    @torch.inference_mode()
    def _write(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        longest = max(map(len, prompts))
        filler = self._tokenizer.pad_token_id
        filler = self._tokenizer.eos_token_id if filler is None else filler
        device = self._model.device
        ids_BT = torch.tensor(
            [[filler] * (longest - len(p)) + list(p) for p in prompts], device=device
        )
        mask_BT = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device
        )
        made_BT = self._model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=filler,
        )
        # Only what is new: never cut at a word of the template, which a user's text could hold as
        # well.
        texts: list[str] = self._tokenizer.batch_decode(
            made_BT[:, longest:], skip_special_tokens=True
        )
        return texts


def _tokenizer(model: str | Path) -> Any:
    from_folder = Path(model).is_dir()
    try:
        return AutoTokenizer.from_pretrained(
            str(model), local_files_only=from_folder, trust_remote_code=False
        )
    except (OSError, ValueError) as e:
        raise EngineError(
            f"no tokenizer at {str(model)!r}: {str(e).splitlines()[0]}", "check the path or name"
        ) from None
