"""Decide on partial scores: some control tokens are known by an upper bound only.

1. A list of the most probable tokens bounds each token outside it: by the least probable listed
   one, and by the probability that the listed ones leave.
2. Rules are monotone in each score, so the corners of the bounds decide for every score within.
3. A decision stands if all corners lead to it; else ScoreDoubt.
Shapes: C control tokens, column 0 = respond; S corners.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import ScoreDoubt
from demur.core.calibrator import Fitted, Identity
from demur.core.decision import Decision, decide_many, decide_or_doubt
from demur.core.maps.multiclass import Pair, Temperature
from demur.core.policy import Policy
from demur.core.score import TOLERANCE

_LOWEST = -1e4  # log of a probability that is 0 for all purposes, yet finite
_MOST_MISSING = 8  # control tokens: 2**8 corners


def decide_partial(
    policy: Policy, listed: Mapping[str, float], tokens: tuple[str, ...]
) -> tuple[Decision, Floats]:
    """The decision that holds whatever the unlisted scores are, and the score (C,) with the
    unlisted ones at their upper bounds.

    listed: natural log-probability by token, the most probable of the vocabulary; tokens: the
    control tokens, respond first. Raises ScoreDoubt when the bounds leave several decisions open,
    when `listed` holds invalid log-probabilities, and when the leftover mass may be above the
    policy's bound and the policy says "error".
    """
    _check_listed(listed)
    known_C = np.minimum(
        np.array([listed.get(token, np.nan) for token in tokens], dtype=np.float64), 0.0
    )
    missing = [c for c, token in enumerate(tokens) if token not in listed]
    if not missing:
        logp_C = np.asarray(known_C, dtype=np.float32)
        return decide_or_doubt(policy, logp_C), logp_C
    # The two bounds on an unlisted token, as probabilities.
    least = float(np.exp(min(listed.values(), default=0.0)))
    left = max(0.0, 1.0 - float(np.exp(list(listed.values())).sum()))
    corners_SC = _corners(policy, known_C, missing, (least, left))
    decisions = decide_many(policy, corners_SC)
    open_choices = sorted(set(decisions.words(policy.taxonomy.choices)))
    if len(open_choices) > 1:
        raise ScoreDoubt(
            f"the backend lists no score for {[tokens[c] for c in missing]}: at most "
            f"{min(least, left):.3g}, which leaves {open_choices} open",
            "a backend that reports log-probabilities by token id leaves nothing open: "
            "docs/gateway.md",
        )
    # The first corner leaves the most mass outside: if that is not doubtful, no score within the
    # bounds is.
    logp_C = corners_SC[0 if decisions.doubt_N.any() else -1]
    return decide_or_doubt(policy, logp_C), logp_C


def _check_listed(listed: Mapping[str, float]) -> None:
    """Raise ScoreDoubt on NaN, infinities, positive values and probabilities that sum above 1."""
    values = np.array(list(listed.values()), dtype=np.float64)
    if (
        not np.isfinite(values).all()
        or (values > TOLERANCE).any()
        or np.exp(values).sum() > 1.0 + 1e-3
    ):
        raise ScoreDoubt(
            f"the backend lists {dict(listed)}, no log-probabilities",
            "NaN, infinite, positive or summing above 1: look at the backend's log",
        )


def _corners(
    policy: Policy, known_C: np.ndarray, missing: list[int], most: tuple[float, float]
) -> Floats:
    """Scores with each missing control token at its lower or upper bound, (S, C), float32.

    The first row has all at the lower end, the last all at the upper end. Rules compare scores with
    each other, with thresholds and in sums, all monotone in each score, so these corners decide for
    the scores between. A calibrator keeps that only if it is monotone in each score too. Raises
    ScoreDoubt on another calibrator and on more than _MOST_MISSING missing tokens.
    """
    calibrator = policy.calibrator
    shared = isinstance(calibrator, Identity)
    if not shared and not (
        isinstance(calibrator, Fitted) and isinstance(calibrator.map, Temperature | Pair)
    ):
        raise ScoreDoubt(
            f"the backend lists no score for {len(missing)} control tokens, and the calibrator "
            "mixes the scores",
            "use calibrator none or temperature, or a backend that reports log-probabilities by "
            "token id",
        )
    if len(missing) > _MOST_MISSING:
        raise ScoreDoubt(
            f"the backend lists no score for {len(missing)} control tokens", "too many to bound"
        )
    rows = []
    for ends in product((False, True), repeat=len(missing)):
        row_C = known_C.copy()
        row_C[missing] = _LOWEST
        up = [c for c, end in zip(missing, ends, strict=True) if end]
        if up:
            # Uncalibrated scores divide the probability that is left among them. A fitted map sees
            # ratios only, so each token may have all of it.
            each = min(most[0], most[1] / len(up) if shared else most[1])
            row_C[up] = max(np.log(each), _LOWEST) if each > 0 else _LOWEST
        # A corner may sum above 1, where several tokens have all that is left: scaled back to 1,
        # which keeps its ratios.
        total = float(np.logaddexp.reduce(row_C))
        rows.append(row_C - max(0.0, total))
    return np.asarray(np.minimum(rows, 0.0), dtype=np.float32)
