"""Calibrators, applied: maps from scores to probabilities that mean what they say. Fitting lives in demur.stats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from demur.core.score import Floats


class Calibrator(Protocol):
    """A fitted map on scores."""

    def apply(self, logp_NC: Floats) -> Floats:
        """Calibrated natural-log probabilities of the control tokens, shape (N, C), always float32.

        Whatever a calibrator computes in, it rounds to float32 once: the number thresholded in service is then bit
        for bit the number calibrated, and a cut between two observed values separates them exactly.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """No calibration: the model's own probabilities; leftover mass counts as neither refusing nor answering."""

    def apply(self, logp_NC: Floats) -> Floats:
        """The scores themselves."""
        return np.asarray(logp_NC, dtype=np.float32)


IDENTITY = Identity()
