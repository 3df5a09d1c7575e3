"""Applying calibrators: maps from scores to probabilities that mean what they say. Fitting lives in
demur.stats.

Shapes: N prompts, C control tokens (column 0 = respond). Natural logs throughout. Fitted
calibrators work on *closed* log-probabilities: each row divided by the mass of its control tokens.
Leftover mass is thereby shared out in proportion, calibrated rows sum to 1 (to float32 rounding),
and the result is about the answers that begin with a control token at all. Report the leftover
beside it: where it is large, this is another event. Only Identity leaves the mass outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Doubles, Floats
from demur.base.errors import PolicyError, ScoreError

# calibrated values stay finite, however extreme the scores
_LOWEST = float(np.finfo(np.float32).min)


class Calibrator(Protocol):
    """A fitted map on scores."""

    def apply(self, logp_NC: Floats) -> Floats:
        """Calibrated natural-log probabilities of the control tokens, shape (N, C), always float32.

        Whatever a calibrator computes in, it rounds to float32 once: the number thresholded in
        service is then bit for bit the number calibrated, and a cut between two observed values
        separates them exactly.
        """
        ...


class Map(Protocol):
    """The arithmetic of a fitted calibrator.

    A row's result depends on that row only, to the last bit: a prompt decided alone and the same
    prompt in a batch must agree. Maps therefore add in a fixed order and leave matrix products,
    whose order varies, alone.
    """

    @property
    def columns(self) -> int | None:
        """The number of control tokens that the map is made for; None: any number."""
        ...

    def logq(self, closed_NC: Doubles) -> Doubles:
        """Calibrated log-probabilities (N, C), rows summing to 1, from closed log-probabilities."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """No calibration: the model's own probabilities; leftover mass counts as neither refusing nor
    answering.
    """

    def apply(self, logp_NC: Floats) -> Floats:
        """The scores themselves."""
        return np.asarray(logp_NC, dtype=np.float32)


IDENTITY = Identity()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A map and the control tokens it was fitted on. Raises PolicyError if the map is made for
    another number.
    """

    tokens: tuple[str, ...]  # respond first, as in the taxonomy
    map: Map

    def __post_init__(self) -> None:
        if self.map.columns not in (None, len(self.tokens)):
            raise PolicyError(
                f"a calibrator for {self.map.columns} control tokens, taxonomy with "
                f"{len(self.tokens)}: {self.tokens}",
                "fit it on this taxonomy",
            )

    def apply(self, logp_NC: Floats) -> Floats:
        """Close, map and round scores: see Calibrator.apply. Raises ScoreError on another number of
        columns.
        """
        check_columns(self.tokens, logp_NC)
        return rounded(self.map.logq(closed(logp_NC)))


def check_fits(calibrator: Calibrator, tokens: tuple[str, ...]) -> None:
    """Raise PolicyError if the calibrator was fitted on other control tokens."""
    if isinstance(calibrator, Fitted) and calibrator.tokens != tokens:
        raise PolicyError(
            f"the calibrator was fitted on {calibrator.tokens}, the taxonomy has {tokens}",
            "a calibrator belongs to one taxonomy: fit it again",
        )


def check_columns(tokens: tuple[str, ...], logp_NC: Floats) -> None:
    """Raise ScoreError unless the scores have one column per control token."""
    if logp_NC.ndim != 2 or logp_NC.shape[1] != len(tokens):
        raise ScoreError(
            f"scores of shape {logp_NC.shape} for {len(tokens)} control tokens",
            f"expected {tokens}",
        )


def closed(logp: npt.ArrayLike) -> Doubles:
    """Divide each row by the mass of its control tokens, in logs: the last axis sums to 1. Adding a
    constant to a row changes nothing.
    """
    return normalised(np.ascontiguousarray(logp, dtype=np.float64))


def normalised(value: Doubles) -> Doubles:
    """Log-softmax over the last axis. logaddexp adds one column after the other, whatever the
    shape.
    """
    # rounding may leave a sum of 1 + 2^-53, and a log-probability above 0
    return np.minimum(value - np.logaddexp.reduce(value, axis=-1, keepdims=True), 0.0)


def rounded(logq_NC: Doubles) -> Floats:
    """Round to float32, the one rounding of a calibrator; the result is finite."""
    return np.asarray(np.clip(logq_NC, _LOWEST, 0.0), dtype=np.float32)
