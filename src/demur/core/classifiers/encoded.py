"""A linear classifier over a text's vector from an encoder: applied here, fitted in
demur.stats.text.encoded_fit.

Encoder is implemented by demur.engines.hf.encoder. Shapes: N texts, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from demur.base.arrays import Floats
from demur.core.classifiers.text import all_words


class Encoder(Protocol):
    """A model that turns texts into vectors."""

    @property
    def name(self) -> str:
        """The model's name, with a digest of its weights."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """One vector a text, shape (N, D)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedClassifier:
    """P(yes | text) by a linear layer on the encoder's vector, with the range of the texts that it
    was fitted on.
    """

    encoder: Encoder
    weight_D: Floats
    intercept: float
    fewest_words: int
    most_words: int

    def log_odds(self, text: str) -> float:
        """Natural-log odds of yes."""
        return float(self.encoder.encode([text])[0] @ self.weight_D) + self.intercept

    def out_of_range(self, text: str) -> str | None:
        """The reason why a text is unlike the training texts; None if it is not. Vectors cannot
        tell foreign words.
        """
        words = len(all_words(text))
        if self.fewest_words <= words <= self.most_words:
            return None
        return f"{words} words, trained on {self.fewest_words} to {self.most_words}"
