"""Fitting correctness-aware calibration: a temperature per row, from how scores move under
rewrites.

Right answers are pushed to confidence 1 and wrong ones to 0, where log loss would raise the true
class of a wrong answer and may leave it confident. arXiv 2404.13016. Shapes: N rows, C control
tokens, M rewrites, F features, H units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.base.errors import DataError
from demur.core.calibrator import closed, normalised
from demur.core.maps.correctness import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    CorrectnessAware,
    rewrite_features,
)
from demur.core.score import ScoreTable
from demur.core.taxonomy import Taxonomy
from demur.stats.calibrators.adam import Adam
from demur.stats.calibrators.rows import FitRows, fit_rows
from demur.stats.calibrators.temperature import best_temperature
from demur.stats.labelled import LabelledScores

Tokens = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectnessSettings:
    """How to fit. Published: ten epochs of batches of 1,000 at rate 1e-4, a handful of steps on a
    split of ours; here every step sees all rows, at a higher rate.
    """

    # published: right and wrong weigh the same. Ranks them, but is calibrated only at 1/2
    class_balanced: bool = False
    own: bool = True  # the unchanged prompt's probabilities are features too
    top: int = 4
    hidden: int = 5
    learning_rate: float = 0.01
    steps: int = 300
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectnessFit:
    """A fitted calibrator and the share of rows whose temperature the clamp holds: they teach it
    nothing.
    """

    calibrator: CorrectnessAware
    clamped: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Network:
    """The temperature network's loss on fixed rows.

    Parameters, flat: H x F weights, H offsets, H output weights, 1 output offset.
    """

    features_NF: Doubles
    closed_NC: Doubles
    right_N: Bools  # the heaviest control token is the label
    weight_N: Doubles  # of each row, sum 1
    hidden: int

    def loss(self, theta_P: Doubles) -> tuple[float, Doubles]:
        """Weighted squared distance of the top probability from right (1) or wrong (0), and its
        gradient.
        """
        temperature_N, units_NH = self._forward(theta_P)
        clamped_N = np.clip(temperature_N, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
        q_NC = np.exp(normalised(self.closed_NC / clamped_N[:, None]))
        top_N = q_NC.max(axis=1)
        # d log q_top / dT = (E_q[logp] - logp_top) / T^2, logp_top the largest: the softmax's
        # derivative by its temperature
        spread_N = (q_NC * self.closed_NC).sum(axis=1) - self.closed_NC.max(axis=1)
        by_top_N = 2.0 * self.weight_N * (top_N - self.right_N)
        # a clamped row does not move with its temperature: gradient 0
        by_output_N = np.where(
            clamped_N == temperature_N, by_top_N * top_N * spread_N / clamped_N**2, 0.0
        )
        by_units_NH = by_output_N[:, None] * self._parts(theta_P)[2] * (units_NH > 0.0)  # ReLU
        by_hidden = (by_units_NH.T @ self.features_NF).ravel(), by_units_NH.sum(axis=0)
        gradient_P = np.concatenate([*by_hidden, by_output_N @ units_NH, [by_output_N.sum()]])
        return float(self.weight_N @ (top_N - self.right_N) ** 2), gradient_P

    def clamped(self, theta_P: Doubles) -> float:
        """Share of rows whose temperature lies outside the clamp."""
        temperature_N, _ = self._forward(theta_P)
        return float(
            ((temperature_N < LOWEST_TEMPERATURE) | (temperature_N > HIGHEST_TEMPERATURE)).mean()
        )

    def start(self, temperature: float, seed: int) -> Doubles:
        """Random parameters whose output is, on average, the plain temperature: a clamped start
        would never move.
        """
        count = self.hidden * (self.features_NF.shape[1] + 2) + 1
        bound = 1.0 / np.sqrt(self.features_NF.shape[1])
        theta_P: Doubles = np.random.default_rng(seed).uniform(-bound, bound, count)
        theta_P[-1] = 0.0
        inside = float(np.clip(temperature, 2.0 * LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE / 2.0))
        theta_P[-1] = inside - self._forward(theta_P)[0].mean()
        return theta_P

    def record(
        self, theta_P: Doubles, tokens: Tokens, rewrites: tuple[str, ...], *, own: bool
    ) -> CorrectnessAware:
        """The record of these parameters that core applies."""
        weights_HF, offsets_H, output_H, output_offset = self._parts(theta_P)
        return CorrectnessAware(
            tokens=tokens,
            rewrites=rewrites,
            own=own,
            top=self.features_NF.shape[1] // (own + len(rewrites)),
            hidden_weights=tuple(map(tuple, weights_HF.tolist())),
            hidden_offsets=tuple(offsets_H.tolist()),
            output_weights=tuple(output_H.tolist()),
            output_offset=output_offset,
        )

    def _forward(self, theta_P: Doubles) -> tuple[Doubles, Doubles]:
        weights_HF, offsets_H, output_H, output_offset = self._parts(theta_P)
        units_NH = np.maximum(self.features_NF @ weights_HF.T + offsets_H, 0.0)
        return units_NH @ output_H + output_offset, units_NH

    def _parts(self, theta_P: Doubles) -> tuple[Doubles, Doubles, Doubles, float]:
        h, f = self.hidden, self.features_NF.shape[1]
        weights, offsets, output = np.split(theta_P[:-1], [h * f, h * (f + 1)])
        return weights.reshape(h, f), offsets, output, float(theta_P[-1])


def fit_correctness(
    rows: LabelledScores,
    rewritten: Mapping[str, ScoreTable],
    taxonomy: Taxonomy,
    settings: CorrectnessSettings | None = None,
) -> CorrectnessFit:
    """Fit on the calibrate split, scored as it is and once per rewrite (name -> scores of the same
    ids, in order).

    Raises DataError if a rewrite lacks rows, or if all rows are right or all are wrong.
    """
    s = settings or CorrectnessSettings()
    fit = fit_rows(rows, taxonomy)
    if not rewritten:
        raise DataError(
            "correctness-aware calibration without a rewrite",
            "score the split under at least one rewrite",
        )
    for name, table in rewritten.items():
        if table.ids != rows.table.ids or table.logp_NC.shape != rows.table.logp_NC.shape:
            raise DataError(
                f"rewrite {name!r} was scored on other rows", "score the same split again"
            )
    rewritten_MNC = np.stack([closed(table.logp_NC) for table in rewritten.values()])
    top = min(s.top, len(taxonomy.tokens))
    network = network_on(fit, rewrite_features(fit.closed_NC, rewritten_MNC, top=top, own=s.own), s)
    adam = Adam(network.start(best_temperature(fit)[0], s.seed), s.learning_rate)
    for _ in range(s.steps):
        adam.step(network.loss(adam.theta_P)[1])
    calibrator = network.record(adam.theta_P, taxonomy.tokens, tuple(rewritten), own=s.own)
    return CorrectnessFit(calibrator=calibrator, clamped=network.clamped(adam.theta_P))


def network_on(rows: FitRows, features_NF: Doubles, settings: CorrectnessSettings) -> Network:
    """The network's loss on these rows. Raises DataError if all rows are right or all are wrong."""
    right_N = rows.closed_NC.argmax(axis=1) == rows.label_N
    accuracy = float(right_N.mean())
    if accuracy in (0.0, 1.0):
        raise DataError(
            f"the heaviest control token is {'right' if accuracy else 'wrong'} on all "
            f"{len(right_N)} rows: nothing tells right from wrong",
            "add rows, or use temperature",
        )
    weight_N = (
        np.where(right_N, 1.0 - accuracy, accuracy)
        if settings.class_balanced
        else np.ones(len(right_N))
    )
    return Network(
        features_NF=features_NF,
        closed_NC=rows.closed_NC,
        right_N=right_N,
        weight_N=weight_N / weight_N.sum(),
        hidden=settings.hidden,
    )
