"""The one place where logits become scores.

Shapes: N prompts, C control tokens (column 0 = respond, then one per category).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Floats
from demur.base.errors import ScoreError

# A float32 log-softmax over a large vocabulary may exceed 0 by rounding; anything more is not a
# log-probability.
TOLERANCE = 1e-4
# Natural log: engines, batches and runners agree on a score of a float32 model within this (the
# tests of every engine hold them to it). Promises hold for any engine within it.
ENGINE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoreTable:
    """Scores of N prompts: natural-log probability of each control token at the first answer
    position.

    Raises ScoreError, naming the first bad row, on NaN, infinities, positive values, mass above 1
    or repeated ids.
    """

    ids: tuple[str, ...]  # N example ids
    # natural log, float32, temperature 1, raw logits, softmax over the whole vocabulary
    logp_NC: Floats

    def __post_init__(self) -> None:
        logp_NC = self.logp_NC
        if logp_NC.ndim != 2 or logp_NC.shape[0] != len(self.ids) or logp_NC.shape[1] < 2:
            raise ScoreError(
                f"scores of shape {logp_NC.shape} for {len(self.ids)} ids",
                "expected (N, 1 + categories)",
            )
        if logp_NC.dtype != np.float32:
            raise ScoreError(
                f"scores are {logp_NC.dtype}, expected float32",
                "cast raw logits before log-softmax",
            )
        check_scores(logp_NC, self.ids)
        if len(set(self.ids)) != len(self.ids):
            twice = next(i for i in self.ids if self.ids.count(i) > 1)
            raise ScoreError(f"id {twice!r} is scored more than once", "score each prompt once")

    def __repr__(self) -> str:
        return (
            f"ScoreTable({self.logp_NC.shape[0]} prompts, {self.logp_NC.shape[1]} control tokens)"
        )

    @property
    def leftover_N(self) -> Floats:
        """Probability outside the control tokens: about 0 after training, large when the position
        is wrong.
        """
        return leftover_of(self.logp_NC).astype(np.float32)

    def select(self, ids: tuple[str, ...]) -> ScoreTable:
        """The rows of these ids, in this order. Raises ScoreError naming the first id that has no
        score.
        """
        at = {i: n for n, i in enumerate(self.ids)}
        missing = [i for i in ids if i not in at]
        if missing:
            raise ScoreError(
                f"{len(missing)} prompts have no score, first {missing[0]!r}",
                "score the split: demur score",
            )
        return ScoreTable(ids=ids, logp_NC=self.logp_NC[[at[i] for i in ids]])


def leftover_of(logp_NC: Floats) -> npt.NDArray[np.float64]:
    """Probability outside the control tokens, in [0, 1], float64, shape (N,). NaN where a score
    is.
    """
    # Column by column, so that a row alone and the same row in a batch agree to the last bit.
    mass_N = np.zeros(len(logp_NC), dtype=np.float64)
    for column_N in np.exp(logp_NC.astype(np.float64)).T:
        mass_N += column_N
    return np.clip(1.0 - mass_N, 0.0, 1.0)


def check_scores(logp_NC: Floats, ids: tuple[str, ...] | None = None) -> None:
    """Raise ScoreError, naming the first bad row and value, unless every row holds
    log-probabilities.
    """
    bad_N = ~np.isfinite(logp_NC).all(axis=1) | (logp_NC > TOLERANCE).any(axis=1)
    bad_N |= np.exp(np.minimum(logp_NC, 0.0).astype(np.float64)).sum(axis=1) > 1.0 + 1e-3
    if bad_N.any():
        row = int(np.argmax(bad_N))
        name = repr(ids[row]) if ids else str(row)
        raise ScoreError(
            f"row {name} has scores {logp_NC[row].tolist()}, not log-probabilities",
            f"{int(bad_N.sum())} of {len(bad_N)} rows are NaN, infinite, positive or sum above 1; "
            "score again",
        )


def from_logits(logits_NC: Floats, logsumexp_N: Floats) -> Floats:
    """Scores from the control tokens' raw logits and the log-sum-exp over the whole vocabulary,
    both float32.
    """
    return np.asarray(np.minimum(logits_NC - logsumexp_N[:, None], 0.0), dtype=np.float32)
