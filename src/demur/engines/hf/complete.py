"""Greedy text completion by a causal language model, for judges that answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from demur.core.judging.judge import NoAnswer, PromptPiece
from demur.core.ports import Progress, no_progress
from demur.engines.fingerprint import checkpoint_digest
from demur.engines.hf.load import checkpoint_folder, load_model
from demur.engines.tokenizer import read_tokenizer


@dataclass(kw_only=True)
class HfCompleter:
    """Completes prompts by a checkpoint. Implements demur.core.judging.judge.Completer.

    Raises EngineError if the checkpoint cannot be loaded.
    """

    model: str | Path  # a folder, or a Hugging Face name in the local cache
    max_new_tokens: int = 128
    batch: int = 8  # prompts completed at once
    dtype: str | None = None  # of the weights; None: as stored
    device: str | None = None  # None: the first GPU if there is one
    _model: Any = field(init=False, repr=False)
    _tokenizer: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._model = load_model(self.model, self.dtype, self.device)
        self._tokenizer = read_tokenizer(self.model)

    @property
    def name(self) -> str:
        """Last part of the path or name, digest of the checkpoint, most tokens of a completion."""
        digest = checkpoint_digest(checkpoint_folder(self.model))
        return f"{Path(str(self.model)).name} {digest} {self.max_new_tokens}"

    def complete(
        self, prompts: Sequence[Sequence[PromptPiece]], progress: Progress = no_progress
    ) -> list[str | NoAnswer]:
        """Complete each prompt greedily; NoAnswer, with the reason, for one too long for the model.

        A prompt is never cut: a judge that has not read all of an answer must not judge it.
        """
        encoded = [self.encode(pieces) for pieces in prompts]
        room = (
            getattr(self._model.config, "max_position_embeddings", None)
            or sum(map(len, encoded)) + 1
        )
        # Indices of the prompts that leave room for a completion; the others stay NoAnswer.
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
        """Token ids of a prompt. Special tokens spelt out in untrusted pieces become letters."""
        # The ids that the tokenizer puts before any text, without an end token behind them.
        ids = list(self._tokenizer("")["input_ids"])
        if ids and ids[-1] == self._tokenizer.eos_token_id != self._tokenizer.bos_token_id:
            ids.pop()
        for piece in pieces:
            ids += self._tokenizer(
                piece.text, add_special_tokens=False, split_special_tokens=not piece.trusted
            )["input_ids"]
        return ids

    @torch.inference_mode()
    def _write(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Completions of a batch of prompts, padded on the left so that all end at one column."""
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
            # Greedy, whatever sampling a checkpoint's generation_config.json asks for.
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=filler,
        )
        # The new ids only. A search for a word of the template would find it in users' text too.
        texts: list[str] = self._tokenizer.batch_decode(
            made_BT[:, longest:], skip_special_tokens=True
        )
        return texts
