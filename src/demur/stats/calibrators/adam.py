"""Adam (Kingma and Ba 2015, arXiv 1412.6980), and halving its rate when progress stalls."""

from __future__ import annotations

import numpy as np

from demur.base.arrays import Doubles

_DECAY1, _DECAY2, _EPSILON = 0.9, 0.999, 1e-8  # the paper's


class Adam:
    """Adam's state over one descent: parameters, moments and the number of steps."""

    def __init__(self, theta_P: Doubles, rate: float) -> None:
        self.theta_P = theta_P.copy()
        self.rate = rate
        self._first_P = np.zeros_like(theta_P)
        self._second_P = np.zeros_like(theta_P)
        self._steps = 0

    def step(self, gradient_P: Doubles) -> None:
        """Move theta_P against a gradient."""
        self._steps += 1
        # moving averages of the gradient and of its square
        self._first_P += (1.0 - _DECAY1) * (gradient_P - self._first_P)
        self._second_P += (1.0 - _DECAY2) * (gradient_P**2 - self._second_P)
        # both start at 0: dividing by 1 - decay^t removes that bias (section 3 of the paper)
        first_P = self._first_P / (1.0 - _DECAY1**self._steps)
        second_P = self._second_P / (1.0 - _DECAY2**self._steps)
        self.theta_P = self.theta_P - self.rate * first_P / (np.sqrt(second_P) + _EPSILON)


class Plateau:
    """Halves Adam's rate after `patience` steps in which a number did not fall."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = np.inf
        self._waited = 0
        self.since_best = 0  # steps

    def record(self, value: float, adam: Adam) -> None:
        """Record the latest value. A gain is a fall by more than 1 in 10,000."""
        if value < self._best * (1.0 - 1e-4):
            self._best, self._waited, self.since_best = value, 0, 0
            return
        self._waited += 1
        self.since_best += 1
        if self._waited > self._patience:
            adam.rate /= 2.0
            self._waited = 0
