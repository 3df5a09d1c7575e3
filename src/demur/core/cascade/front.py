"""The front model of a cascade: a linear softmax over n-grams, fitted to the real model's scores,
and the rule for when it is sure.

It gives the score of a prompt, or hands the prompt over to the real model:
1. Outside its traffic it hands over: any conversation that is not one user message (after a system
   message that its traffic had, or none), unknown characters, control tokens spelled out, more
   words, letters or unknown words than nearly all of its traffic has.
2. Within, it is sure that the model answers where even the riskiest stretch of the text looks
   harmless, and sure that the model refuses where the text as a whole looks so. Both edges were
   chosen on traffic that it was not fitted on.
Shapes: N prompts, C control tokens, F n-grams, K n-grams of one text; C + 1 columns where the last
is the leftover mass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles, Floats, Ints
from demur.core.cascade.ngrams import (
    counts_of,
    overlapping_stretches,
    tfidf_features,
    word_key,
    words_of,
)
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficRange:
    """The range of a front's traffic: bounds that nearly all of its prompts keep."""

    letters: frozenset[str]  # characters that several of its texts hold
    words: frozenset[int]  # digests of words that several of its texts hold
    systems: frozenset[str]  # digests of system messages; "" where there was none
    most_letters: int  # of a text
    most_words: int
    most_unknown: int  # unknown words in a stretch
    least_known: float  # share of a text's words that are known

    def unlike(self, text: str) -> str | None:
        """The reason why a text is out of range; None if it is within."""
        if len(text) > self.most_letters:  # first: reading a text takes as long as it is
            return f"{len(text)} characters, its traffic has up to {self.most_letters}"
        if not self.letters.issuperset(text):
            return "characters that its traffic does not hold"
        words = words_of(text)
        if not 1 <= len(words) <= self.most_words:
            return f"{len(words)} words, its traffic has 1 to {self.most_words}"
        known = [word_key(word) in self.words for word in words]
        unknown = most_unknown(known)
        if unknown > self.most_unknown:
            return (
                f"{unknown} unknown words in a stretch, its traffic has up to {self.most_unknown}"
            )
        if sum(known) < self.least_known * len(known):
            return (
                f"{sum(known)} of {len(known)} words known, its traffic has {self.least_known:.0%}"
            )
        return None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Linear:
    """Log-probabilities of the control tokens and of the leftover mass from TF-IDF features."""

    place: dict[int, int]  # digest of an n-gram -> column
    idf_F: Doubles
    weight_FC: Floats  # (F, C + 1)
    intercept_C: Doubles  # (C + 1)

    def logp(self, words: Sequence[str]) -> Doubles:
        """(C + 1,) natural-log probabilities, the leftover mass last."""
        at_K, value_K = tfidf_features(counts_of(words), self.place, self.idf_F)
        logit_C = value_K @ self.weight_FC[at_K].astype(np.float64) + self.intercept_C
        return np.asarray(logit_C - np.logaddexp.reduce(logit_C), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrontReading:
    """The front's reading of a text: its score, and its log-odds on the whole text and the riskiest
    stretch.
    """

    logp_C: Floats  # (C,)
    odds: float  # log-odds that the model does anything but respond
    risk: float  # the same of the riskiest stretch, at least `odds`


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontEdges:
    """The edges beyond which a front is sure, in log-odds. None: it is never sure on that side."""

    answer: float | None  # a risk up to this: the model answers
    refuse: float | None  # odds from this on: the model refuses


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Front:
    """A fitted front model."""

    taught_by: Fingerprint  # the model whose scores it learnt
    linear: Linear
    range: TrafficRange
    edges: FrontEdges

    def given(self, prompt: Prompt) -> Floats | None:
        """The front's score of a prompt, (C,); None where the front is not sure: score it with the
        model.
        """
        if self.outside(prompt) is not None:
            return None
        reading = self.read(prompt[-1].content)
        answer, refuse = self.edges.answer, self.edges.refuse
        if answer is not None and reading.risk <= answer:
            return reading.logp_C
        if refuse is not None and reading.odds >= refuse:
            return reading.logp_C
        return None

    def read(self, text: str) -> FrontReading:
        """Read a text, whether or not the front is sure of it."""
        words = words_of(text)
        whole_C = self.linear.logp(words)
        odds = _odds(whole_C)
        # harmless words around a harmful stretch dilute the whole text's odds, not the stretch's
        risk = max(
            [odds, *(_odds(self.linear.logp(some)) for some in overlapping_stretches(words))]
        )
        return FrontReading(logp_C=np.asarray(whole_C[:-1], dtype=np.float32), odds=odds, risk=risk)

    def outside(self, prompt: Prompt) -> str | None:
        """The reason why a prompt is outside the front's traffic, whatever its score; None if it is
        within.
        """
        if system_digest(prompt) not in self.range.systems:
            return "another kind of conversation, or another system message"
        text = prompt[-1].content
        if any(token in text for token in self.taught_by.tokens):
            return "a control token spelled out"
        return self.range.unlike(text)


def system_digest(prompt: Prompt) -> str | None:
    """The digest of the system message of a prompt that is otherwise one user message; "" if there
    is none.

    None for every other conversation.
    """
    roles = [m.role for m in prompt]
    if roles == ["user"]:
        return ""
    if roles == ["system", "user"]:
        return hashlib.sha256(prompt[0].content.encode("utf-8", "surrogatepass")).hexdigest()
    return None


def most_unknown(known: Sequence[bool]) -> int:
    """The most unknown words in one stretch of a text, given which of its words are known."""
    marks = [str(int(k)) for k in known]
    return max(some.count("0") for some in (overlapping_stretches(marks) or [marks]))


def cascade_scores(
    front: Front, prompts: Sequence[Prompt], model: Callable[[Ints], Floats]
) -> tuple[Floats, Bools]:
    """Scores of a cascade, (N, C), and which of them the front gave, (N,).

    model: scores of the other prompts, by their places among all; not called where there is none.
    """
    given = [front.given(prompt) for prompt in prompts]
    front_N = np.array([logp_C is not None for logp_C in given], dtype=bool)
    logp_NC = np.empty((len(prompts), len(front.taught_by.tokens)), dtype=np.float32)
    for n, logp_C in enumerate(given):
        if logp_C is not None:
            logp_NC[n] = logp_C
    if not front_N.all():
        logp_NC[~front_N] = model(np.flatnonzero(~front_N))
    return logp_NC, front_N


def _odds(logp_C: Doubles) -> float:
    """Log-odds of anything but respond."""
    return float(np.logaddexp.reduce(logp_C[1:]) - logp_C[0])
