"""Trainable forms of the h-calibration map families: value, hand-written gradient, and the record
that core applies.

All act on closed log-probabilities, elementwise and increasing, then softmax: the order within a
row never changes. Shapes: N rows, C control tokens, P parameters, S temperatures, J segments, H
hidden units, G grid points, T nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.core.calibrator import Map, normalised
from demur.core.maps.multiclass import Ensemble, PiecewiseLinear, Umnn, clenshaw_curtis

Form = Literal["linear", "piecewise", "umnn"]
Backward = Callable[[Doubles], Doubles]  # gradient by q, (N, C) -> gradient by the parameters, (P,)

RANGE = 100.0  # nats that the segments of a piecewise linear map cover, as published
_GRID = 512  # points between which training interpolates a umnn; core integrates each value itself
_LAYERS = 3


class Trainable(Protocol):
    """A map family on given rows."""

    def start(self, seed: int) -> Doubles:
        """Parameters to start from, (P,)."""
        ...

    def value(self, theta_P: Doubles) -> tuple[Doubles, Backward]:
        """Calibrated probabilities (N, C) at these parameters, and the way back to their
        gradient.
        """
        ...

    def map(self, theta_P: Doubles) -> Map:
        """The record of these parameters."""
        ...


def trainable(form: Form, size: int, closed_NC: Doubles) -> Trainable:
    """A family on these rows. size: temperatures, segments or hidden units."""
    match form:
        case "linear":
            return TrainEnsemble(closed_CN=np.ascontiguousarray(closed_NC.T), size=size)
        case "piecewise":
            return train_piecewise(closed_NC, size)
        case "umnn":
            return train_umnn(closed_NC, size)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainEnsemble:
    """q = sum of w_s softmax(|theta_s| score), w = |omega| / sum |omega|. Parameters: theta, then
    omega.
    """

    closed_CN: Doubles
    size: int

    def start(self, seed: int) -> Doubles:
        """Uniform within 1 / sqrt(S) of 0: very flat at first, as published."""
        bound = 1.0 / np.sqrt(self.size)
        return np.random.default_rng(seed).uniform(-bound, bound, 2 * self.size)

    def value(self, theta_P: Doubles) -> tuple[Doubles, Backward]:
        """Calibrated probabilities (N, C), and the gradient by theta and omega."""
        scale_S, weight_S = np.abs(theta_P[: self.size]), np.abs(theta_P[self.size :])
        total = weight_S.sum()
        part_SCN = np.empty((self.size, *self.closed_CN.shape))
        q_CN = np.zeros_like(self.closed_CN)
        for s in range(self.size):
            # softmax of temperature s, computed in place: S x C x N numbers are the whole memory
            part_CN = np.exp(
                np.multiply(self.closed_CN, scale_S[s], out=part_SCN[s]), out=part_SCN[s]
            )
            part_CN /= part_CN.sum(axis=0)
            q_CN += weight_S[s] / total * part_CN

        def back(by_q_NC: Doubles) -> Doubles:
            by_q_CN = np.ascontiguousarray(by_q_NC.T)
            by_scale_S, by_weight_S = np.empty(self.size), np.empty(self.size)
            for s in range(self.size):
                product_CN = by_q_CN * part_SCN[s]
                mean_N = (part_SCN[s] * self.closed_CN).sum(axis=0)
                by_weight_S[s] = product_CN.sum()
                # d softmax / d scale = softmax (logp - E[logp])
                spread = np.vdot(product_CN, self.closed_CN) - product_CN.sum(axis=0) @ mean_N
                by_scale_S[s] = weight_S[s] / total * spread
            # through the normalisation w_s / sum w; then through |.| by the sign
            by_weight_S = (by_weight_S - weight_S @ by_weight_S / total) / total
            return np.concatenate([by_scale_S, by_weight_S]) * np.sign(theta_P)

        return q_CN.T, back

    def map(self, theta_P: Doubles) -> Ensemble:
        """The ensemble with |theta| as inverse temperatures and normalised |omega| as weights."""
        scale_S, weight_S = np.abs(theta_P[: self.size]), np.abs(theta_P[self.size :])
        weights = (weight_S / weight_S.sum()).tolist()
        return Ensemble(inverse_temperatures=tuple(scale_S.tolist()), weights=tuple(weights))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainPiecewise:
    """softmax(-g(-score)), g with slopes |s_j| on equal segments. Parameters: s."""

    segment_NC: Doubles  # integers: the segment of each entry
    within_NC: Doubles  # nats from the segment's start
    size: int

    def start(self, seed: int) -> Doubles:  # noqa: ARG002 - nothing random about it
        """Slopes 1: the model's own probabilities."""
        return np.ones(self.size)

    def value(self, theta_P: Doubles) -> tuple[Doubles, Backward]:
        """Calibrated probabilities (N, C), and the gradient by the slopes."""
        width, slope_J = RANGE / self.size, np.abs(theta_P)
        segment_NC = self.segment_NC.astype(np.int64)
        below_J = np.concatenate([[0.0], np.cumsum(slope_J[:-1])]) * width
        q_NC = np.exp(normalised(-(below_J[segment_NC] + slope_J[segment_NC] * self.within_NC)))

        def back(by_q_NC: Doubles) -> Doubles:
            by_g_NC = -_softmax_back(q_NC, by_q_NC)
            flat = segment_NC.ravel()
            inside_J = np.bincount(
                flat, weights=(by_g_NC * self.within_NC).ravel(), minlength=self.size
            )
            whole_J = np.bincount(flat, weights=by_g_NC.ravel(), minlength=self.size)
            # a slope moves the entries of its own segment in part and all later ones by a whole
            # width
            beyond_J = whole_J.sum() - np.cumsum(whole_J)
            by_slope_J: Doubles = (inside_J + width * beyond_J) * np.sign(theta_P)
            return by_slope_J

        return q_NC, back

    def map(self, theta_P: Doubles) -> PiecewiseLinear:
        """The piecewise linear map with these slopes."""
        return PiecewiseLinear(width=RANGE / self.size, slopes=tuple(np.abs(theta_P).tolist()))


def train_piecewise(closed_NC: Doubles, size: int) -> TrainPiecewise:
    """The family with `size` segments over 100 nats, the last unbounded."""
    width = RANGE / size
    segment_NC = np.clip(-closed_NC // width, 0, size - 1)
    return TrainPiecewise(
        segment_NC=segment_NC, within_NC=-closed_NC - segment_NC * width, size=size
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainUmnn:
    """softmax(g(v)), g the integral of 1 + ELU(network). Parameters: layer by layer, weights then
    offsets.

    g is integrated on a grid and interpolated between its points, whose places among the rows never
    change.
    """

    mean: float
    deviation: float
    grid_G: Doubles
    left_NC: Doubles  # integers: the grid point left of each entry
    share_NC: Doubles  # how far towards the next one, in [0, 1]
    hidden: int

    def start(self, seed: int) -> Doubles:
        """Uniform within 1 / sqrt(inputs) of 0, layer by layer."""
        rng = np.random.default_rng(seed)
        parts = [rng.uniform(-1.0, 1.0, o * (i + 1)) / np.sqrt(i) for o, i in self._shapes]
        return np.concatenate(parts)

    def value(self, theta_P: Doubles) -> tuple[Doubles, Backward]:
        """Calibrated probabilities (N, C), and the gradient by the network's parameters."""
        layers = self._layers(theta_P)
        nodes_T, weights_T = clenshaw_curtis()
        # g(v) = v / 2 sum_t w_t slope(v (1 + x_t) / 2): Clenshaw-Curtis on [0, v]
        factor_GT = self.grid_G[:, None] / 2.0 * weights_T
        inputs = [(self.grid_G[:, None] * (1.0 + nodes_T) / 2.0).reshape(-1, 1)]
        for weight, offset in layers[:-1]:
            inputs.append(np.maximum(inputs[-1] @ weight.T + offset, 0.0))
        last = inputs[-1] @ layers[-1][0].T + layers[-1][1]
        # 1 + ELU(x) is 1 + x above 0 and exp(x) below; its derivative is exp(min(x, 0)) on both
        # sides
        derivative = np.exp(np.minimum(last, 0.0))
        slope_GT = np.where(last > 0.0, 1.0 + last, derivative).reshape(factor_GT.shape)
        g_G = (slope_GT * factor_GT).sum(axis=1)
        left_NC = self.left_NC.astype(np.int64)
        g_NC = g_G[left_NC] * (1.0 - self.share_NC) + g_G[left_NC + 1] * self.share_NC
        q_NC = np.exp(normalised(g_NC))

        def back(by_q_NC: Doubles) -> Doubles:
            by_g_NC = _softmax_back(q_NC, by_q_NC)
            # interpolation, transposed: each entry's gradient goes to its two grid points by share
            left = np.bincount(
                left_NC.ravel(), ((1.0 - self.share_NC) * by_g_NC).ravel(), len(self.grid_G)
            )
            right = np.bincount(
                left_NC.ravel() + 1, (self.share_NC * by_g_NC).ravel(), len(self.grid_G)
            )
            by_output = ((left + right)[:, None] * factor_GT).reshape(-1, 1) * derivative
            # back-propagation by hand, last layer first; (inputs > 0) is the ReLU's derivative
            found: list[Doubles] = []
            for layer in reversed(range(_LAYERS)):
                found = [(by_output.T @ inputs[layer]).ravel(), by_output.sum(axis=0), *found]
                by_output = (by_output @ layers[layer][0]) * (inputs[layer] > 0.0)
            return np.concatenate(found)

        return q_NC, back

    def map(self, theta_P: Doubles) -> Umnn:
        """The map with the network of these parameters."""
        layers = self._layers(theta_P)
        return Umnn(
            mean=self.mean,
            deviation=self.deviation,
            weights=tuple(tuple(map(tuple, w.tolist())) for w, _ in layers),
            offsets=tuple(tuple(b.tolist()) for _, b in layers),
        )

    @property
    def _shapes(self) -> tuple[tuple[int, int], ...]:
        return (self.hidden, 1), (self.hidden, self.hidden), (1, self.hidden)

    def _layers(self, theta_P: Doubles) -> list[tuple[Doubles, Doubles]]:
        layers, at = [], 0
        for outputs, inputs in self._shapes:
            weight = theta_P[at : at + outputs * inputs].reshape(outputs, inputs)
            at += outputs * (inputs + 1)
            layers.append((weight, theta_P[at - outputs : at]))
        return layers


def train_umnn(closed_NC: Doubles, size: int) -> TrainUmnn:
    """The family with `size` hidden units, standardised by these rows. Raises DataError if all
    scores are equal.
    """
    mean, deviation = float(closed_NC.mean()), float(closed_NC.std(ddof=1))
    if closed_NC.min() == closed_NC.max():
        raise DataError(
            "all scores are equal: there is nothing to map",
            "check the scores, or use no calibrator",
        )
    value_NC = (closed_NC - mean) / deviation
    grid_G = np.linspace(value_NC.min(), value_NC.max(), _GRID)
    place_NC = (value_NC - grid_G[0]) / (grid_G[1] - grid_G[0])
    left_NC = np.clip(np.floor(place_NC), 0, _GRID - 2)
    return TrainUmnn(
        mean=mean,
        deviation=deviation,
        grid_G=grid_G,
        left_NC=left_NC,
        share_NC=place_NC - left_NC,
        hidden=size,
    )


def _softmax_back(q_NC: Doubles, by_q_NC: Doubles) -> Doubles:
    """Gradient by the softmax's input from the gradient by its output."""
    by_input_NC: Doubles = q_NC * (by_q_NC - (by_q_NC * q_NC).sum(axis=1, keepdims=True))
    return by_input_NC
