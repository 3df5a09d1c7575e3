"""Weights of training rows in the loss of their control token, so that the many do not drown the
few. Pure.

The weights have mean 1 over the rows, so the step size stays what it was. Every group gets the same
total weight as far as no weight exceeds MOST: a category of three rows is not learnt from three
rows alone.

What it shifts: a model learns the proportions that it is shown. `category` changes how likely one
category is against another and leaves "refuse or answer" as the rows have it. `class` shows as many
refusals as answers: the log-odds of refusing move by the log of how much more a refusal counts than
an answer. `source` moves whatever differs by source. Calibration takes such shifts out again; the
natural decision keeps them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from demur.core.example import Example
from demur.core.training.settings import Balance

Weights = npt.NDArray[np.float64]
MOST = 4.0  # times the mean, of one weight


def row_weights(examples: Sequence[Example], balance: Balance) -> Weights:
    """The weight of each row's control token, (N,), mean 1. See the module for what `balance` may
    be.
    """
    weights = np.ones(len(examples))
    if balance == "source":
        return even([e.source for e in examples])
    if balance == "class":
        weights = even([e.expected for e in examples])
    refusals = np.array([e.label is not None for e in examples])
    if balance in ("category", "class") and refusals.any():
        weights[refusals] *= even([e.label for e in examples if e.label is not None])
    return weights


def even(keys: Sequence[Hashable]) -> Weights:
    """Weights, (N,), mean 1 and at most MOST, that give every key the same total as far as that
    allows.
    """
    counts = Counter(keys)
    left, groups = float(len(keys)), len(counts)
    weight: dict[Hashable, float] = {}
    # The rarest first: what the cap keeps from it goes to the others in equal parts.
    for key, count in sorted(counts.items(), key=lambda pair: pair[1]):
        weight[key] = min(MOST, left / groups / count)
        left -= weight[key] * count
        groups -= 1
    return np.array([weight[key] for key in keys])
