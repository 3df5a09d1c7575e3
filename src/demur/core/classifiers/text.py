"""A linear classifier over word n-grams of a text, as plain numbers: applied here, fitted in
demur.stats.text.fit.

A view turns a text into n-grams; their TF-IDF weights, of length 1 per view, meet the view's
coefficients. Same numbers as scikit-learn's TfidfVectorizer and LogisticRegression. Shapes: V
n-grams of a view.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from demur.base.arrays import Floats
from demur.core.classifiers.plain_text import normalise

FEW_WORDS = 5  # of fewer, the share that is known says nothing
_WORD = re.compile(r"\w+")
_LONG_WORD = re.compile(r"\b\w\w+\b")  # scikit-learn's default
_SENTENCE_END = re.compile(r"[.!?](?:\s+|$)")
_LAST_PLACE = 2  # first sentence, second sentence, all later ones


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramView:
    """A view: one way to read a text as n-grams."""

    # of 2 letters or more; all; all, marked by their sentence
    words: Literal["long", "all", "placed"] = "long"
    most_words: int = 3  # in an n-gram
    damped: bool = False  # 1 + log(count) instead of the count

    def terms(self, text: str) -> list[str]:
        """The n-grams of a text, with repetitions."""
        if self.words == "long":
            return _ngrams(_LONG_WORD.findall(text.lower()), self.most_words)
        if self.words == "all":
            return _ngrams(_WORD.findall(normalise(text)), self.most_words)
        sentences = [s for s in _SENTENCE_END.split(normalise(text)) if s.strip()]
        return [
            f"{min(place, _LAST_PLACE)} {term}"
            for place, sentence in enumerate(sentences)
            for term in _ngrams(_WORD.findall(sentence), self.most_words)
        ]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedView:
    """A view with its learnt vocabulary, inverse document frequencies and coefficients."""

    view: NgramView
    place: dict[str, int]  # n-gram -> index
    idf_V: Floats
    weight_V: Floats

    def score(self, text: str) -> float:
        """This view's part of the log-odds."""
        counts = Counter(
            at for term in self.view.terms(text) if (at := self.place.get(term)) is not None
        )
        if not counts:
            return 0.0
        # the n-grams that were learnt, by index: their TF-IDF vector of length 1, times the
        # coefficients
        at_V = np.fromiter(counts, dtype=np.int64, count=len(counts))
        tf_V = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
        value_V = (1.0 + np.log(tf_V) if self.view.damped else tf_V) * self.idf_V[at_V]
        return float(value_V @ self.weight_V[at_V] / np.sqrt(value_V @ value_V))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextClassifier:
    """P(yes | text) = 1 / (1 + exp(-log_odds)), with the range of the texts that it was fitted
    on.
    """

    views: tuple[FittedView, ...]
    intercept: float
    fewest_words: int
    most_words: int
    # share of a text's words that the training texts hold; lower: another language, or no language
    least_known: float
    words: frozenset[str]  # those of the training texts

    def log_odds(self, text: str) -> float:
        """Natural-log odds of yes."""
        return self.intercept + sum(view.score(text) for view in self.views)

    def probability(self, text: str) -> float:
        """P(yes | text), in (0, 1)."""
        z = min(max(self.log_odds(text), -700.0), 700.0)
        return 1.0 / (1.0 + math.exp(-z))

    def out_of_range(self, text: str) -> str | None:
        """The reason why a text is unlike the training texts; None if it is not."""
        words = all_words(text)
        if not self.fewest_words <= len(words) <= self.most_words:
            return f"{len(words)} words, trained on {self.fewest_words} to {self.most_words}"
        known = known_share(words, self.words)
        if len(words) >= FEW_WORDS and known < self.least_known:
            return f"{known:.0%} of its words are known, trained on {self.least_known:.0%} or more"
        return None


def all_words(text: str) -> list[str]:
    """The words of a text, in one form."""
    return _WORD.findall(normalise(text))


def known_share(words: Sequence[str], known: frozenset[str]) -> float:
    """Share of words that are among the known ones; 0 of no word."""
    return sum(word in known for word in words) / len(words) if words else 0.0


def _ngrams(words: Sequence[str], most: int) -> list[str]:
    """All n-grams of 1 to `most` words."""
    return [
        " ".join(words[at : at + n]) for n in range(1, most + 1) for at in range(len(words) - n + 1)
    ]
