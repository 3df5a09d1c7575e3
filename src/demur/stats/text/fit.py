"""Fitting the text classifiers of demur.core.classifiers.text: TF-IDF and logistic regression, in
seconds.

Shapes: N texts, V n-grams of a view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from demur.base.arrays import Bools
from demur.base.errors import DataError
from demur.core.classifiers.text import (
    FEW_WORDS,
    FittedView,
    NgramView,
    TextClassifier,
    all_words,
    known_share,
)

_FOLDS = 5
_EDGE = 0.005  # share of the training texts beyond either end of the range


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A text classifier's recipe: its views and the penalty. Raises DataError on no view, or c <=
    0.
    """

    views: tuple[NgramView, ...]
    c: float  # inverse strength of the L2 penalty

    def __post_init__(self) -> None:
        if not self.views or self.c <= 0:
            raise DataError(
                f"a recipe with {len(self.views)} views and c = {self.c}",
                "at least one view, and c above 0",
            )


# maxwellreuter/chatgpt-refusals (arXiv 2306.03423): word 1-3-grams, C = 10, liblinear, seed 0.
PUBLISHED = Recipe(views=(NgramView(),), c=10.0)
# Ours: n-grams know whether they stand in the first, the second or a later sentence.
PLACED = Recipe(views=(NgramView(words="placed", damped=True),), c=30.0)


def fit_text_classifier(
    texts: Sequence[str], yes_N: Bools, recipe: Recipe = PLACED
) -> TextClassifier:
    """Fit by logistic regression (scikit-learn's liblinear, seed 0). Raises DataError unless both
    labels occur.
    """
    if len(texts) != len(yes_N) or not yes_N.any() or yes_N.all():
        raise DataError(
            f"{len(texts)} texts, {len(yes_N)} labels, {int(yes_N.sum())} of them yes",
            "a label each, both kinds",
        )
    learnt = [LearntView(view, texts) for view in recipe.views]
    x_NF = sparse.hstack([part.x_NV for part in learnt]).tocsr()
    fitted = regression(recipe.c).fit(x_NF, yes_N)
    # the views' columns stand side by side in one matrix: cut the coefficients apart again
    weight_F, at, views = fitted.coef_[0], 0, []
    for part in learnt:
        end = at + len(part.place)
        weight_V = weight_F[at:end].astype(np.float32)
        views.append(
            FittedView(view=part.view, place=part.place, idf_V=part.idf_V, weight_V=weight_V)
        )
        at = end
    lengths, vocabulary, known = _range(texts)
    return TextClassifier(
        views=tuple(views),
        intercept=float(fitted.intercept_[0]),
        fewest_words=lengths[0],
        most_words=lengths[1],
        least_known=known,
        words=vocabulary,
    )


def regression(c: float) -> LogisticRegression:
    """The logistic regression of every recipe: liblinear, L2, seed 0."""
    return LogisticRegression(C=c, solver="liblinear", random_state=0)


class LearntView:
    """A view's vocabulary, inverse document frequencies and training matrix, as TfidfVectorizer has
    them.
    """

    def __init__(self, view: NgramView, texts: Sequence[str]) -> None:
        self.view = view
        counts = [Counter(view.terms(t)) for t in texts]
        frequency = Counter(term for count in counts for term in count)
        kept = sorted(frequency)
        self.place = {term: n for n, term in enumerate(kept)}
        df_V = np.array([frequency[term] for term in kept], dtype=np.float64)
        # scikit-learn's smoothed idf: as if one more document held every n-gram once
        self._idf_V = np.log((1 + len(texts)) / (1 + df_V)) + 1.0
        self.idf_V = self._idf_V.astype(np.float32)
        self.x_NV = self._matrix(counts)

    def matrix(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """The matrix of other texts, a row each; n-grams that were not learnt are left out."""
        return self._matrix([Counter(self.view.terms(t)) for t in texts])

    def _matrix(self, counts: Sequence[Counter[str]]) -> sparse.csr_matrix:
        place, indices, values, starts = self.place, [], [], [0]
        for count in counts:
            at = [(place[term], n) for term, n in count.items() if term in place]
            at_V = np.array([p for p, _ in at], dtype=np.int64)
            tf_V = np.array([n for _, n in at], dtype=np.float64)
            value_V = (1.0 + np.log(tf_V) if self.view.damped else tf_V) * self._idf_V[at_V]
            length = float(np.sqrt(value_V @ value_V)) or 1.0
            indices.append(at_V)
            values.append(value_V / length)
            starts.append(starts[-1] + len(at))
        shape = (len(counts), len(place))
        return sparse.csr_matrix(
            (np.concatenate(values), np.concatenate(indices), starts), shape=shape
        )


def _range(texts: Sequence[str]) -> tuple[tuple[int, int], frozenset[str], float]:
    """(fewest, most) words, the vocabulary, and the share of words known: measured on texts held
    out in turn.
    """
    words = [all_words(t) for t in texts]
    lengths = np.quantile([len(w) for w in words], [_EDGE, 1 - _EDGE])
    shares = []
    for fold in range(_FOLDS):
        others = frozenset(w for n, ws in enumerate(words) if n % _FOLDS != fold for w in ws)
        shares += [
            known_share(ws, others)
            for n, ws in enumerate(words)
            if n % _FOLDS == fold and len(ws) >= FEW_WORDS
        ]
    least = float(np.quantile(shares, _EDGE)) if shares else 0.0
    return (
        (int(lengths[0]), int(np.ceil(lengths[1]))),
        frozenset(w for ws in words for w in ws),
        least,
    )
