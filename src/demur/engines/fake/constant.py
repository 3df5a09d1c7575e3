"""Constant models, which refuse always or never, for tests of evaluators.

Of the four, two write a text that does what its control token says, and two the opposite. An
evaluator of refusals must tell all four apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np

from demur.base.arrays import Floats
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Answer, Progress, Prompt, no_progress
from demur.core.taxonomy import Taxonomy

Does = Literal["refuse", "answer"]

SURE = 0.99  # probability of the preferred control token; the others share the rest
_TEXTS: dict[Does, str] = {
    "refuse": "I'm sorry, but I can't help with that.",
    "answer": "Here are the steps: gather what you need, do the first part, then check the result.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstantModel:
    """Decides and answers every prompt alike. Implements demur.core.ports.Scorer and Generator."""

    taxonomy: Taxonomy
    decides: Does  # the preferred control token; "refuse" is the first category's
    writes: Does  # the text, after every control token

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the behaviour: models that behave differently have different ones."""
        return Fingerprint(
            model_digest=sha256(f"subject:{self.decides}:{self.writes}".encode()).hexdigest(),
            tokenizer_digest=sha256("\n".join(self.taxonomy.tokens).encode()).hexdigest(),
            template_digest=sha256(b"none").hexdigest(),
            tokens=self.taxonomy.tokens,
            token_ids=tuple(range(len(self.taxonomy.tokens))),
            dtype="float32",
        )

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """(N, C) natural-log probabilities, the same row for every prompt."""
        size = len(self.taxonomy.tokens)
        p_C = np.full(size, (1.0 - SURE) / (size - 1))
        p_C[1 if self.decides == "refuse" else 0] = SURE
        progress(len(prompts), len(prompts))
        return np.tile(np.log(p_C), (len(prompts), 1)).astype(np.float32)

    def branches(
        self,
        prompts: Sequence[Prompt],
        columns: Sequence[Sequence[int]],
        progress: Progress = no_progress,
    ) -> list[dict[int, Answer]]:
        """The same text for every prompt and control token."""
        text = _TEXTS[self.writes]
        answer = Answer(text=text, finished=True, tokens=len(text.split()))
        progress(len(prompts), len(prompts))
        return [dict.fromkeys(asked, answer) for asked in columns]


def always_refuse(taxonomy: Taxonomy) -> ConstantModel:
    """A model that decides to refuse every prompt and writes a refusal."""
    return ConstantModel(taxonomy=taxonomy, decides="refuse", writes="refuse")


def never_refuse(taxonomy: Taxonomy) -> ConstantModel:
    """A model that decides to answer every prompt and writes an answer."""
    return ConstantModel(taxonomy=taxonomy, decides="answer", writes="answer")


def refuse_then_answer(taxonomy: Taxonomy) -> ConstantModel:
    """A model whose token refuses and whose text answers: its decisions alone look safe."""
    return ConstantModel(taxonomy=taxonomy, decides="refuse", writes="answer")


def answer_then_refuse(taxonomy: Taxonomy) -> ConstantModel:
    """A model whose token answers and whose text refuses."""
    return ConstantModel(taxonomy=taxonomy, decides="answer", writes="refuse")
