"""Fitting h-calibration: Adam on the objective of loss.py over a map family of maps.py, without
torch.

Defaults as published (Huang et al.), but pooled and selected by log loss: refusal classes are
unequal, and a policy needs all of its probabilities, not the largest. Deterministic given the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import ConfigError
from demur.stats.calibrators.adam import Adam, Plateau
from demur.stats.calibrators.h.loss import HLoss, h_loss
from demur.stats.calibrators.h.maps import Form, trainable
from demur.stats.calibrators.rows import FitRows, FittedMap

Selector = Literal["log loss", "class-wise", "top-label"]

# The twelve published settings; choose.py compares them by cross-validation, not on the rows they
# were fitted on.
FORMS: tuple[tuple[Form, int], ...] = (
    *(("linear", s) for s in (16, 32, 64, 128)),
    *(("piecewise", s) for s in (1, 10, 100, 500)),
    *(("umnn", s) for s in (2, 10, 20, 50)),
)
_PENALTY = 1e5  # the published factor on the loss; to Adam only its epsilon notices
_BINS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class HSettings:
    """How to fit. Raises ConfigError on a size below 1."""

    form: Form = "linear"
    size: int = 16
    loss: HLoss = field(default_factory=HLoss)
    selector: Selector = "log loss"  # which step is kept: the one with the least of it
    learning_rate: float = 0.005
    steps: int = 2000  # at most
    stop_after: int = 160  # steps without a gain in 15-bin calibration error
    seed: int = 1357

    def __post_init__(self) -> None:
        if self.size < 1 or self.steps < 1:
            raise ConfigError(
                f"h-calibration with size {self.size} and {self.steps} steps", "both are at least 1"
            )


def fit_h(rows: FitRows, settings: HSettings | None = None) -> FittedMap:
    """Fit the map that minimises the h-calibration objective; the best step by `selector` is
    kept.
    """
    s = settings or HSettings()
    family = trainable(s.form, s.size, rows.closed_NC)
    adam = Adam(family.start(s.seed), s.learning_rate)
    plateau = Plateau(patience=40 if s.form == "umnn" else 20)
    # The objective is no log loss, so its last step is not the best by `selector`; the rate is
    # halved, and the descent ended, by the 15-bin top-label error.
    best, best_P, steps = np.inf, adam.theta_P, 0
    while steps < s.steps and plateau.since_best < s.stop_after:
        q_NC, back = family.value(adam.theta_P)
        chosen_by = _selected(s.selector, q_NC, rows.label_N)
        if chosen_by < best:
            best, best_P = chosen_by, adam.theta_P
        top_label_error = _binned_error(q_NC.max(axis=1), q_NC.argmax(axis=1) == rows.label_N)
        plateau.record(top_label_error, adam)
        _, by_q_NC = h_loss(q_NC, rows.label_N, s.loss)
        adam.step(_PENALTY * back(by_q_NC))
        steps += 1
    return FittedMap(
        map=family.map(best_P),
        notes=(f"{steps} steps, {s.selector} {best:.4f} on the rows fitted",),
    )


def _selected(selector: Selector, q_NC: Doubles, label_N: Ints) -> float:
    if selector == "log loss":
        # As published, so that a row of probability 0 costs much, not everything.
        return -float(np.log(q_NC[np.arange(len(label_N)), label_N] + 1e-25).mean())
    if selector == "class-wise":
        columns = range(q_NC.shape[1])
        return float(np.mean([_binned_error(q_NC[:, c], label_N == c) for c in columns]))
    return _debiased_error(q_NC.max(axis=1), q_NC.argmax(axis=1) == label_N)


def _binned_error(p_N: Doubles, hit_N: Bools) -> float:
    """Expected calibration error, 15 equal-width bins."""
    bin_N = np.minimum((p_N * _BINS).astype(np.int64), _BINS - 1)
    return float(np.abs(np.bincount(bin_N, weights=p_N - hit_N)).sum() / len(p_N))


def _debiased_error(p_N: Doubles, hit_N: Bools) -> float:
    """Squared calibration error over 15 equal-mass bins, less what noise alone contributes. Kumar
    et al. 2019.
    """
    # equal mass by rank; the variance of each bin's rate, rate (1 - rate) / (n - 1), is what noise
    # adds to its squared gap on average
    order = np.argsort(p_N, kind="stable")
    total = 0.0
    for part in np.array_split(order, _BINS):
        rate = float(hit_N[part].mean())
        noise = rate * (1.0 - rate) / max(len(part) - 1, 1)
        total += len(part) * ((float(p_N[part].mean()) - rate) ** 2 - noise)
    return total / len(p_N)
