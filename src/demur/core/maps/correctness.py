"""Applying correctness-aware calibration: a prompt's temperature comes from how its scores move
under rewrites.

Not a calibrator of a policy: it needs one more prefill per rewrite, and a policy decides from one.
Its calibrated values are log-probabilities that sum to 1, so a policy without calibrator can decide
on them; the fingerprint of such a policy says so (`convention`), and raw scores are refused.
Source: arXiv 2404.13016. Shapes: N prompts, C control tokens, M rewrites, F features, H hidden
units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles, Floats
from demur.base.errors import PolicyError, ScoreError
from demur.core.calibrator import (
    check_columns,
    closed,
    normalised,
    rounded,
)

NAME = "correctness-aware"
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.1, 10.0  # the published clamp


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectnessAware:
    """softmax(score / T), T from a small network on the probabilities of the top tokens under M
    rewrites.

    Never reorders a row. Raises PolicyError when the parts of the network do not fit together.
    """

    tokens: tuple[str, ...]  # control tokens it was fitted on
    rewrites: tuple[str, ...]  # names of the M rewrites, in order: see core.rows.rewrites
    own: bool  # whether the unchanged prompt's top probabilities are features too (first)
    top: int  # how many of its heaviest tokens are looked at
    hidden_weights: tuple[tuple[float, ...], ...]  # H x F
    hidden_offsets: tuple[float, ...]  # H
    output_weights: tuple[float, ...]  # H
    output_offset: float

    def __post_init__(self) -> None:
        features = (self.own + len(self.rewrites)) * self.top
        fits = len(self.hidden_weights) == len(self.hidden_offsets) == len(self.output_weights)
        if (
            not fits
            or any(len(row) != features for row in self.hidden_weights)
            or self.top > len(self.tokens)
        ):
            raise PolicyError(
                f"a network that does not take {features} features of {len(self.tokens)} control "
                "tokens",
                "the file was changed by hand or is damaged: fit it again",
            )

    def apply(self, logp_NC: Floats, rewritten_MNC: Floats) -> Floats:
        """Calibrated natural-log probabilities (N, C), float32, given the scores of the M rewrites
        of each prompt.

        Raises ScoreError on another number of columns, prompts or rewrites.
        """
        check_columns(self.tokens, logp_NC)
        if rewritten_MNC.shape != (len(self.rewrites), *logp_NC.shape):
            raise ScoreError(
                f"scores of shape {rewritten_MNC.shape} for {len(self.rewrites)} rewrites of "
                f"scores {logp_NC.shape}",
                f"score every prompt under each of {self.rewrites}",
            )
        closed_NC = closed(logp_NC)
        features_NF = rewrite_features(closed_NC, closed(rewritten_MNC), top=self.top, own=self.own)
        return rounded(normalised(closed_NC / self.temperature(features_NF)[:, None]))

    def temperature(self, features_NF: Doubles) -> Doubles:
        """T of each prompt, within the clamp. Adds one term after the other: see
        core.calibrator.Map.
        """
        # one hidden unit after the other, no matrix product: a row alone and in a batch agree to
        # the bit
        total_N = np.full(len(features_NF), self.output_offset)
        for row, offset, weight in zip(
            self.hidden_weights, self.hidden_offsets, self.output_weights, strict=True
        ):
            unit_N = np.full(len(features_NF), offset)
            for f, w in enumerate(row):
                unit_N += w * features_NF[:, f]
            total_N += weight * np.maximum(unit_N, 0.0)
        temperature_N: Doubles = np.clip(total_N, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
        return temperature_N


def convention(digest: str) -> str:
    """The value of `Fingerprint.logprobs` for scores that went through the calibrator with this
    digest.
    """
    return f"{NAME}/{digest}"


def rewrite_features(closed_NC: Doubles, rewritten_MNC: Doubles, *, top: int, own: bool) -> Doubles:
    """(N, F): for each rewrite the probabilities of the unchanged prompt's `top` heaviest tokens,
    heaviest first.
    """
    # the K heaviest tokens of the unchanged prompt; stable, so that the lowest column wins ties
    at_NK = np.argsort(-closed_NC, axis=1, kind="stable")[:, :top]
    sources = [*([closed_NC] if own else []), *rewritten_MNC]
    logp_NF: Doubles = np.concatenate(
        [np.take_along_axis(s_NC, at_NK, axis=1) for s_NC in sources], axis=1
    )
    return np.exp(logp_NF)
