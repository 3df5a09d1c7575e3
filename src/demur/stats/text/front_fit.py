"""Fitting a cascade's front model to the real model's scores on unlabelled traffic.

1. About 30 % of the traffic is held out, by whole groups; the front is fitted on the others.
2. It learns the whole distribution (control tokens and leftover mass) by multinomial logistic
   regression on soft targets: each row counts once per column, with that column's probability as
   its weight.
3. Held-out rows alone choose the range within which it speaks, and the edges beyond which it is
   sure.
Shapes: N prompts, C control tokens, F n-grams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from demur.base.arrays import Doubles, Floats
from demur.base.errors import DataError
from demur.core.cascade.front import Linear, TrafficRange, most_unknown, system_digest
from demur.core.cascade.ngrams import NgramCounts, counts_of, tfidf_features, word_key, words_of
from demur.core.ports import Prompt
from demur.core.score import leftover_of

FEWEST = 200  # texts to fit on; fewer teach no front
MOST_GRAMS = 100_000  # the commonest are kept: 3 MB with six columns
# texts that hold an n-gram, a word or a character: of one text alone it is not traffic
_SEVERAL = 2
_LEAST_WEIGHT = 1e-3  # of a column in a row's target; what is less teaches nothing and costs a row
# inverse of the L2 penalty; the best on a tenth of the rows is taken
_STRENGTHS = (1.0, 10.0, 100.0)
_STEPS = 200
_TAIL = 0.01  # share of traffic beyond each bound of the range


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontFit:
    """A fitted linear model, and how its strength was chosen."""

    linear: Linear
    strength: float
    # mean cross entropy in nats with the model's distribution, of each strength
    losses: tuple[float, ...]


def fit_linear(texts: Sequence[str], logp_NC: Floats) -> FrontFit:
    """Fit the front's linear model to the model's scores of these texts. Raises DataError on fewer
    than FEWEST.
    """
    if len(texts) < FEWEST:
        raise DataError(
            f"{len(texts)} rows of traffic to fit on, expected {FEWEST} or more",
            "give more traffic",
        )
    counts = [counts_of(words_of(text)) for text in texts]
    place, idf_F = _vocabulary(counts)
    x_NF = _matrix(counts, place, idf_F)
    target_NC = np.concatenate(
        [np.exp(logp_NC.astype(np.float64)), leftover_of(logp_NC)[:, None]], axis=1
    )
    tried = slice(0, None, 10)  # every tenth row measures the strengths
    others_N = np.ones(len(texts), dtype=bool)
    others_N[tried] = False
    losses = []
    for strength in _STRENGTHS:
        weight_FC, intercept_C = _regress(x_NF[others_N], target_NC[others_N], strength)
        logit_NC = x_NF[tried] @ weight_FC + intercept_C
        logq_NC = logit_NC - np.logaddexp.reduce(logit_NC, axis=1)[:, None]
        losses.append(float(-(target_NC[tried] * logq_NC).sum(axis=1).mean()))
    strength = _STRENGTHS[int(np.argmin(losses))]
    weight_FC, intercept_C = _regress(x_NF, target_NC, strength)
    linear = Linear(
        place=place,
        idf_F=idf_F,
        weight_FC=weight_FC.astype(np.float32),
        intercept_C=intercept_C,
    )
    return FrontFit(linear=linear, strength=strength, losses=tuple(losses))


def fit_range(fitted: Sequence[Prompt], held: Sequence[Prompt]) -> TrafficRange:
    """Measure the range of traffic: words and characters of the fitted prompts, bounds from
    held-out ones.

    Bounds that the fitted prompts set themselves would be too tight: they hold no word that they do
    not hold.
    """
    texts = [prompt[-1].content for prompt in fitted]
    words = Counter(word_key(w) for text in texts for w in set(words_of(text)))
    letters = Counter(letter for text in texts for letter in set(text))
    several = frozenset(key for key, n in words.items() if n >= _SEVERAL)
    lengths, sizes, unknown, known = [], [], [], []
    for prompt in held:
        own = words_of(prompt[-1].content)
        marks = [word_key(word) in several for word in own]
        lengths.append(len(own))
        sizes.append(len(prompt[-1].content))
        unknown.append(most_unknown(marks))
        known.append(sum(marks) / len(marks) if marks else 0.0)
    return TrafficRange(
        letters=frozenset(letter for letter, n in letters.items() if n >= _SEVERAL),
        words=several,
        systems=frozenset(f for p in fitted if (f := system_digest(p)) is not None),
        most_letters=_upper(sizes),
        most_words=_upper(lengths),
        most_unknown=_upper(unknown),
        least_known=float(np.quantile(known, _TAIL, method="lower")),
    )


def _upper(values: Sequence[int]) -> int:
    return int(np.quantile(values, 1.0 - _TAIL, method="lower"))


def _vocabulary(counts: Sequence[NgramCounts]) -> tuple[dict[int, int], Doubles]:
    """The n-grams of several texts, the commonest first, and their inverse document frequencies."""
    frequency = Counter(key for kinds in counts for count in kinds for key in count)
    kept = sorted((-n, key) for key, n in frequency.items() if n >= _SEVERAL)[:MOST_GRAMS]
    idf_F = np.log((1.0 + len(counts)) / (1.0 + np.array([-n for n, _ in kept], dtype=float))) + 1.0
    return {key: at for at, (_, key) in enumerate(kept)}, idf_F


def _matrix(
    counts: Sequence[NgramCounts], place: dict[int, int], idf_F: Doubles
) -> sparse.csr_matrix:
    """The features of all texts, exactly as the front computes them for one."""
    rows = [tfidf_features(count, place, idf_F) for count in counts]
    start_N = np.cumsum([0, *(len(at_K) for at_K, _ in rows)])
    at = np.concatenate([at_K for at_K, _ in rows])
    value = np.concatenate([value_K for _, value_K in rows])
    return sparse.csr_matrix((value, at, start_N), shape=(len(rows), len(place)))


def _regress(
    x_NF: sparse.csr_matrix, target_NC: Doubles, strength: float
) -> tuple[Doubles, Doubles]:
    """Weights (F, C) and intercepts (C) of softmax regression on soft targets: scikit-learn's, with
    lbfgs.

    Each column keeps its heaviest row, so that none is absent; an absent one would have no logit.
    """
    kept_NC = target_NC >= _LEAST_WEIGHT
    kept_NC[target_NC.argmax(axis=0), np.arange(target_NC.shape[1])] = True
    row_R, column_R = np.nonzero(kept_NC)
    weight_R = np.maximum(target_NC[row_R, column_R], 1e-9)
    model = LogisticRegression(C=strength, solver="lbfgs", max_iter=_STEPS, tol=1e-3)
    model.fit(x_NF[row_R], column_R, sample_weight=weight_R)
    return model.coef_.T, np.asarray(model.intercept_, dtype=np.float64)
