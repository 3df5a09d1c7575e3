"""Fitting the classifier of demur.core.classifiers.encoded: logistic regression on an encoder's
vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from demur.base.errors import DataError
from demur.core.classifiers.encoded import EncodedClassifier, Encoder
from demur.core.classifiers.text import all_words

C = 1.0  # inverse strength of the L2 penalty, on vectors of unit variance


def fit_encoded(
    encoder: Encoder, texts: Sequence[str], yes_N: npt.NDArray[np.bool_]
) -> EncodedClassifier:
    """Fit logistic regression on vectors of unit variance; the stored weights undo the scaling.
    Raises DataError unless both labels occur.
    """
    if len(texts) != len(yes_N) or not yes_N.any() or yes_N.all():
        raise DataError(
            f"{len(texts)} texts, {len(yes_N)} labels, {int(yes_N.sum())} of them yes",
            "a label each, both kinds",
        )
    x_ND = encoder.encode(texts).astype(np.float64)
    mean_D, spread_D = x_ND.mean(axis=0), x_ND.std(axis=0)
    spread_D = np.where(spread_D > 0, spread_D, 1.0)
    fitted = LogisticRegression(C=C, max_iter=1000).fit((x_ND - mean_D) / spread_D, yes_N)
    weight_D = fitted.coef_[0] / spread_D
    words = [len(all_words(text)) for text in texts]
    return EncodedClassifier(
        encoder=encoder,
        weight_D=weight_D.astype(np.float32),
        intercept=float(fitted.intercept_[0] - weight_D @ mean_D),
        fewest_words=min(words),
        most_words=max(words),
    )
