"""A guard model as Scorer: a sequence classifier's probability of the labels to refuse.

1. The user's messages of all turns are one text.
2. A text longer than the model reads is cut in windows that overlap by half.
3. The score is that of the window with the highest probability, so that nothing is left unread.

Shapes: N prompts, W windows of a batch, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from demur.base.arrays import Floats
from demur.base.errors import EngineError
from demur.base.suggest import suggest
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Progress, Prompt, no_progress
from demur.core.predictor import (
    predictor_fingerprint,
    predictor_scores,
    prompt_text,
    require_one_category,
)
from demur.engines.fingerprint import model_digest, settings_digest
from demur.engines.hf.load import checkpoint_folder, context_of, load_model
from demur.engines.tokenizer import fast_tokenizer, tokenizer_digest

LONGEST = 4096  # tokens of a window, where a model has no limit of its own


@dataclass(kw_only=True)
class HfGuard:
    """Scores prompts by a guard model. Implements demur.core.ports.Scorer; loaded on construction.

    Special tokens in people's text are encoded as letters. Raises EngineError when the checkpoint
    or its labels cannot be used.
    """

    model: str  # a folder, or a Hugging Face name
    refuse: tuple[str, ...]  # names of the labels that are to be refused
    tokens: tuple[str, ...]  # of the run's taxonomy, respond first
    batch: int = 16  # windows at once
    longest: int | None = None  # tokens of a window; None: what model and tokenizer allow
    dtype: str | None = None  # of the weights; None: as stored
    device: str | None = None  # None: the first GPU if there is one

    def __post_init__(self) -> None:
        require_one_category(self.tokens)
        self._network: Any = load_model(
            self.model, self.dtype, self.device, AutoModelForSequenceClassification
        )
        self._tokenizer = fast_tokenizer(self.model)
        self._columns = _columns(self._network.config, self.refuse)
        limits = (
            self.longest,
            context_of(self._network),
            self._tokenizer.model_max_length,
            LONGEST,
        )
        self._length = min(limit for limit in limits if limit)
        if self._length <= self._tokenizer.num_special_tokens_to_add():
            raise EngineError(
                f"windows of {self._length} tokens hold no text", "raise longest, or leave it out"
            )

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of weights, settings, tokenizer, labels and windows; kind "guard-hf"."""
        folder = checkpoint_folder(self.model)
        weights = model_digest(folder)
        how = (*sorted(self.refuse), str(self._length), str(self._network.dtype))
        parts = (weights, str(settings_digest(folder)), tokenizer_digest(self._tokenizer), *how)
        return predictor_fingerprint(
            sha256("\0".join(parts).encode()).hexdigest(), self.tokens, "guard-hf"
        )

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """(N, 2) natural-log probabilities that a prompt is answered and that it is refused."""
        probability_N = np.zeros(len(prompts))
        ids, owners = self._windows(prompts)
        for start in range(0, len(ids), self._rows):
            some = slice(start, start + self._rows)
            # The most of each prompt's windows; a prompt's windows may lie in several batches.
            np.maximum.at(probability_N, owners[some], self._probability(ids[some]))
            progress(min(start + self._rows, len(prompts)), len(prompts))
        return predictor_scores(probability_N)

    @property
    def _rows(self) -> int:
        """Windows of a batch: 1 without a padding token, since windows differ in length."""
        return self.batch if self._tokenizer.pad_token is not None else 1

    def _windows(self, prompts: Sequence[Prompt]) -> tuple[list[list[int]], list[int]]:
        """Ids of each window and the index of its prompt. A prompt without text has one window."""
        if not prompts:
            return [], []
        encoded = self._tokenizer(
            [prompt_text(p) for p in prompts],
            # Cut into overlapping windows instead of dropping what is too long.
            truncation=True,
            max_length=self._length,
            stride=(self._length - self._tokenizer.num_special_tokens_to_add()) // 2,
            return_overflowing_tokens=True,
            split_special_tokens=True,
        )
        return encoded["input_ids"], encoded["overflow_to_sample_mapping"]

    @torch.no_grad()
    def _probability(self, ids: list[list[int]]) -> np.ndarray:
        """(W,) probabilities that a window is to be refused."""
        batch = self._tokenizer.pad({"input_ids": ids}, padding=len(ids) > 1, return_tensors="pt")
        logits_WL = self._network(**batch.to(self._network.device)).logits.double()
        independent = (
            logits_WL.shape[1] == 1
            or self._network.config.problem_type == "multi_label_classification"
        )
        if independent:  # labels that do not exclude each other: the likeliest of them counts
            p_W = logits_WL.sigmoid()[:, self._columns].amax(dim=1)
        else:  # one label applies: the probability that it is one of these
            p_W = logits_WL.softmax(dim=1)[:, self._columns].sum(dim=1).clamp(max=1.0)
        return np.asarray(p_W.cpu())


def _columns(config: Any, refuse: Sequence[str]) -> list[int]:
    """Columns of the labels to refuse.

    Raises EngineError, listing the model's labels, on an unknown one; and if none or all are named.
    """
    known = {str(label).casefold(): at for at, label in config.id2label.items()}
    for name in refuse:
        if name.casefold() not in known:
            labels = [str(label) for label in config.id2label.values()]
            raise EngineError(
                f"the guard has no label {name!r}", suggest(name, labels, f"labels: {labels}")
            )
    columns = sorted({known[name.casefold()] for name in refuse})
    if not columns or len(columns) == len(known) > 1:
        raise EngineError(
            f"{len(columns)} of {len(known)} labels are to be refused", "name some of them, not all"
        )
    return columns
