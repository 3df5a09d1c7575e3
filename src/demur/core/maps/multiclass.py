"""Calibration maps over all control tokens at once. numpy only; records hold plain numbers, so that
JSON keeps them.

Shapes: N prompts, C control tokens. See core.calibrator.Map for the contract of `logq`: closed
log-probabilities (N, C) in, calibrated ones out, each row by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import PolicyError
from demur.core.calibrator import normalised
from demur.core.maps.binary import BinaryMap

Numbers = tuple[float, ...]

_QUADRATURE_STEPS = 50  # as published with h-calibration
_ENTRIES_AT_ONCE = 1024  # of a Umnn: bounds its memory to 51 x hidden x so many numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperature:
    """softmax(score / T). Never reorders a row. Guo et al. 2017, arXiv 1706.04599."""

    temperature: float  # > 0

    def __post_init__(self) -> None:
        _check(self.temperature > 0, f"temperature {self.temperature} is not above 0")

    @property
    def columns(self) -> None:
        """None: any number."""

    def logq(self, closed_NC: Doubles) -> Doubles:
        """Scores over T, normalised."""
        return normalised(closed_NC / self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vector:
    """softmax(w * score + b), one weight and one offset per control token."""

    weights: Numbers  # C
    offsets: Numbers  # C, centred

    def __post_init__(self) -> None:
        _check(len(self.weights) == len(self.offsets), "weights and offsets differ in number")

    @property
    def columns(self) -> int:
        """The number of control tokens."""
        return len(self.weights)

    def logq(self, closed_NC: Doubles) -> Doubles:
        """Scores times weights plus offsets, normalised."""
        return normalised(closed_NC * np.array(self.weights) + np.array(self.offsets))


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """softmax(W score + b). On log-probabilities this is Dirichlet calibration. Kull et al. 2019,
    arXiv 1910.12656.
    """

    weights: tuple[Numbers, ...]  # C x C: row = calibrated token, column = score
    offsets: Numbers  # C

    def __post_init__(self) -> None:
        square = all(len(row) == len(self.offsets) for row in self.weights)
        _check(
            square and len(self.weights) == len(self.offsets),
            "weights are not square, or do not match the offsets",
        )

    @property
    def columns(self) -> int:
        """The number of control tokens."""
        return len(self.offsets)

    def logq(self, closed_NC: Doubles) -> Doubles:
        """The affine map of the scores, normalised."""
        return normalised(_affine(closed_NC, np.array(self.weights), np.array(self.offsets)))


@dataclass(frozen=True, kw_only=True, slots=True)
class BetaSoftmax:
    """softmax(a log p - b log(1 - p) + c), three numbers per control token: beta calibration for
    several classes.
    """

    a: Numbers
    b: Numbers
    c: Numbers

    def __post_init__(self) -> None:
        _check(len(self.a) == len(self.b) == len(self.c), "a, b and c differ in number")

    @property
    def columns(self) -> int:
        """The number of control tokens."""
        return len(self.a)

    def logq(self, closed_NC: Doubles) -> Doubles:
        """The per-token lines in log p and log(1 - p), normalised."""
        others_NC = log_rest(closed_NC)
        return normalised(
            np.array(self.a) * closed_NC - np.array(self.b) * others_NC + np.array(self.c)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A binary calibrator on two control tokens: it maps the refusal's log-odds, respond gets the
    rest.
    """

    map: BinaryMap

    @property
    def columns(self) -> int:
        """Two."""
        return 2

    def logq(self, closed_NC: Doubles) -> Doubles:
        """The mapped log-odds as two log-probabilities."""
        odds_N = self.map.log_odds(closed_NC[:, 1] - closed_NC[:, 0])
        return -np.logaddexp(0.0, np.stack([odds_N, -odds_N], axis=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class OneVsRest:
    """A binary calibrator per control token, each on its own column against all others, divided by
    their sum.

    Dividing disturbs the per-token calibration just obtained: check class-wise errors afterwards.
    Columns may change places. A row in which every token is mapped to (nearly) 0 comes out uniform.
    """

    maps: tuple[BinaryMap, ...]

    @property
    def columns(self) -> int:
        """The number of control tokens."""
        return len(self.maps)

    def logq(self, closed_NC: Doubles) -> Doubles:
        """Each token's mapped log-probability, normalised."""
        odds_NC = closed_NC - log_rest(closed_NC)
        mapped_NC = np.stack([m.log_odds(odds_NC[:, c]) for c, m in enumerate(self.maps)], axis=1)
        return normalised(-np.logaddexp(0.0, -mapped_NC))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble:
    """A weighted mean of temperature-scaled softmaxes: h-calibration's "linear" map. Never reorders
    a row.
    """

    inverse_temperatures: Numbers  # S, >= 0
    weights: Numbers  # S, >= 0, sum 1

    def __post_init__(self) -> None:
        _check(
            len(self.inverse_temperatures) == len(self.weights),
            "inverse temperatures and weights differ in number",
        )
        _check(
            min(self.inverse_temperatures, default=-1.0) >= 0,
            "an inverse temperature is below 0, or there is none",
        )
        _check(
            min(self.weights) >= 0 and abs(sum(self.weights) - 1.0) < 1e-6,
            "weights are not a distribution",
        )

    @property
    def columns(self) -> None:
        """None: any number."""

    def logq(self, closed_NC: Doubles) -> Doubles:
        """The log of the weighted mean of softmaxes."""
        # log-sum-exp one term after the other: no term underflows, and rows do not depend on the
        # batch
        total_NC = np.full(closed_NC.shape, -np.inf)
        for scale, weight in zip(self.inverse_temperatures, self.weights, strict=True):
            if weight > 0.0:
                total_NC = np.logaddexp(total_NC, np.log(weight) + normalised(scale * closed_NC))
        return total_NC


@dataclass(frozen=True, kw_only=True, slots=True)
class PiecewiseLinear:
    """softmax(-g(-score)), g continuous and increasing with equal segments: h-calibration's
    "piecewise linear" map.

    g(u) = sum of slope_j * clip(u - j * width, 0, width), the last segment unbounded. Continuous,
    unlike the map in the published code, which jumps at its knots once the slopes differ.
    """

    width: float  # of a segment, in nats
    slopes: Numbers  # one per segment, >= 0

    def __post_init__(self) -> None:
        _check(
            self.width > 0 and min(self.slopes, default=-1.0) >= 0,
            "width must be above 0, slopes at least 0",
        )

    @property
    def columns(self) -> None:
        """None: any number."""

    def logq(self, closed_NC: Doubles) -> Doubles:
        """The piecewise linear map, normalised."""
        slope_J = np.array(self.slopes)
        # g at the start of each segment; then g(u) = that + slope x distance from the start
        below_J = np.concatenate([[0.0], np.cumsum(slope_J[:-1])]) * self.width
        u_NC = -closed_NC
        segment_NC = np.clip(u_NC // self.width, 0, len(slope_J) - 1).astype(np.int64)
        return normalised(
            -(below_J[segment_NC] + slope_J[segment_NC] * (u_NC - segment_NC * self.width))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Umnn:
    """softmax(g(v)), v the standardised score, g the integral of a positive network:
    h-calibration's "UMNN" map.

    g(v) = integral from 0 to v of 1 + ELU(network(t)) dt, network 1 -> H -> H -> 1 with ReLU, by
    Clenshaw-Curtis quadrature with 50 steps. Increasing up to the quadrature's error. Wehenkel and
    Louppe 2019, arXiv 1908.05164.
    """

    mean: float
    deviation: float  # > 0
    weights: tuple[tuple[Numbers, ...], ...]  # three layers, each output x input
    offsets: tuple[Numbers, ...]

    def __post_init__(self) -> None:
        shapes = [(len(w), *{len(row) for row in w}) for w in self.weights]
        hidden = len(self.offsets[0]) if self.offsets else 0
        _check(shapes == [(hidden, 1), (hidden, hidden), (1, hidden)], f"layers of shape {shapes}")
        _check(
            [len(b) for b in self.offsets] == [hidden, hidden, 1], "offsets do not match the layers"
        )
        _check(self.deviation > 0, f"deviation {self.deviation} is not above 0")

    @property
    def columns(self) -> None:
        """None: any number."""

    def logq(self, closed_NC: Doubles) -> Doubles:
        """The integral of the network at each standardised score, normalised."""
        value_M = ((closed_NC - self.mean) / self.deviation).ravel()
        starts = range(0, len(value_M), _ENTRIES_AT_ONCE)
        parts = [self.integral(value_M[s : s + _ENTRIES_AT_ONCE]) for s in starts]
        return normalised(np.concatenate(parts).reshape(closed_NC.shape) if parts else closed_NC)

    def integral(self, value_M: Doubles) -> Doubles:
        """g at each value."""
        # g(v) = integral from 0 to v = v / 2 sum_t w_t slope(v (1 + x_t) / 2), nodes x_t on [-1, 1]
        nodes_T, weights_T = clenshaw_curtis()
        hidden = (value_M[:, None] * (1.0 + nodes_T) / 2.0).reshape(-1, 1)
        for layer, (weight, offset) in enumerate(zip(self.weights, self.offsets, strict=True)):
            hidden = _affine(hidden, np.array(weight), np.array(offset))
            hidden = np.maximum(hidden, 0.0) if layer < 2 else hidden
        slope_MT = np.where(hidden > 0, 1.0 + hidden, np.exp(np.minimum(hidden, 0.0))).reshape(
            len(value_M), -1
        )
        # one node after the other: the same bits for one value as for many
        total_M = np.zeros(len(value_M))
        for t, weight_t in enumerate(weights_T):
            total_M += weight_t * slope_MT[:, t]
        return total_M * value_M / 2.0


def clenshaw_curtis(steps: int = _QUADRATURE_STEPS) -> tuple[Doubles, Doubles]:
    """Nodes cos(pi k / steps) and weights (sum 2) of Clenshaw-Curtis quadrature on [-1, 1]; steps
    even.
    """
    k = np.arange(steps + 1)
    even = np.arange(0, steps + 1, 2)
    # exact integrals of the even Chebyshev polynomials, 2 / (1 - k^2), the first and last halved by
    # the trapezoidal convention (Clenshaw and Curtis 1960)
    term = np.where((even == 0) | (even == steps), 1.0, 2.0) / (1.0 - even.astype(np.float64) ** 2)
    weights = np.cos(np.outer(k, even) * np.pi / steps) @ term * 2.0 / steps
    weights[[0, -1]] /= 2.0
    return np.cos(np.pi * k / steps), weights


def log_rest(closed_NC: Doubles) -> Doubles:
    """log(1 - p) of each column, as the log-sum-exp of the others: exact where p is all but 1."""
    columns = range(closed_NC.shape[1])
    return np.stack(
        [np.logaddexp.reduce(np.delete(closed_NC, c, axis=1), axis=1) for c in columns], axis=1
    )


def _affine(x_NI: Doubles, weights_OI: Doubles, offsets_O: Doubles) -> Doubles:
    """x W^T + b, one input after the other: the same bits for one row as for a million (a BLAS
    product is not).
    """
    total_NO = np.broadcast_to(offsets_O, (len(x_NI), len(offsets_O))).copy()
    for i in range(x_NI.shape[1]):
        total_NO += x_NI[:, i, None] * weights_OI[None, :, i]
    return total_NO


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise PolicyError(
            f"calibrator: {what}", "the file was changed by hand or is damaged: fit it again"
        )
