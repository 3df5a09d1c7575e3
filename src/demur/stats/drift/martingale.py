"""A conformal test martingale: evidence that scores no longer come from the distribution of the
reference.

1. Each new score gets a conformal p-value: its smoothed rank among all scores before it. While
   scores are exchangeable, these p-values are independent and uniform (Vovk et al. 2005).
2. A gambler bets on p-values being low or high; wealth multiplies by 1 + e (p - 1/2), which has
   mean 1 under uniformity: a martingale that starts at 1.
3. P(wealth ever reaches 1 / alpha) <= alpha while nothing changes (Ville 1939), for any length of
   traffic: one may look after every request.
Scores are counted on a fixed grid, so a state has one size however long the server runs, and since
a cell is a function of the score, the guarantee is untouched. Shapes: T new scores, B cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Doubles
from demur.base.errors import DataError, ScoreError
from demur.stats.drift.scores import MOST_LOG_ODDS

CELL = 0.25  # of log-odds: scores closer than this count as ties, which costs power, not validity
CELLS = int(2 * MOST_LOG_ODDS / CELL)
BETS = (-1.0, 0.0, 1.0)  # on low p-values (scores rose), on nothing, on high ones (scores fell)
JUMP = 0.01  # share of wealth that changes its bet per step: Vovk et al. 2021 (arXiv 2102.10439)


@dataclass(frozen=True, kw_only=True, slots=True)
class Martingale:
    """The state of one series; plain numbers, to be stored and read back.

    Raises DataError when a stored state does not have this version's grid.
    """

    series: str
    count_B: tuple[int, ...]  # scores so far per cell, the reference's included
    shares: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)  # of the wealth on each of BETS
    log_e: float = 0.0  # natural log of the wealth
    highest_log_e: float = 0.0  # so far: an alarm does not go away
    steps: int = 0  # scores tested
    learns: bool = True  # whether live scores join the reference

    def __post_init__(self) -> None:
        if len(self.count_B) != CELLS or len(self.shares) != len(BETS):
            raise DataError(
                f"series {self.series!r}: {len(self.count_B)} cells",
                f"expected {CELLS}: start afresh",
            )


def start_martingale(series: str, reference_N: Doubles, *, learns: bool = True) -> Martingale:
    """Start a martingale from reference scores (log-odds).

    learns=True tests, exactly, that live and reference scores are exchangeable; a slow drift is
    absorbed as the live scores outnumber the reference. learns=False keeps the reference as it is:
    it sees slow drift, but is exact only in the limit of a large reference; let it have ten times
    as many rows as will be tested. Raises ScoreError on NaN.
    """
    count_B = np.bincount(grid_cells(reference_N), minlength=CELLS)
    return Martingale(series=series, count_B=tuple(count_B.tolist()), learns=learns)


def update_martingale(state: Martingale, score_T: Doubles, u_T: Doubles) -> Martingale:
    """Update a martingale with new scores, in the order in which they came.

    u_T: independent uniform numbers in [0, 1), which break ties; they must not depend on scores.
    Raises ScoreError on NaN, DataError where the numbers of scores and uniforms differ.
    """
    if score_T.shape != u_T.shape:
        raise DataError(
            f"{score_T.shape} scores with {u_T.shape} uniform numbers", "one of them per score"
        )
    count_B, seen = list(state.count_B), sum(state.count_B)
    shares, log_e, highest = state.shares, state.log_e, state.highest_log_e
    for cell, u in zip(grid_cells(score_T).tolist(), u_T.tolist(), strict=True):
        # the p-value comes first, then the score joins the counts: a score is no evidence against
        # itself
        p = smoothed_rank(sum(count_B[cell + 1 :]), count_B[cell], seen, u)
        shares, growth = bet(shares, p)
        log_e += math.log(growth)
        highest = max(highest, log_e)
        if state.learns:
            count_B[cell] += 1
            seen += 1
    return replace(
        state,
        count_B=tuple(count_B),
        shares=shares,
        log_e=log_e,
        highest_log_e=highest,
        steps=state.steps + len(score_T),
    )


def smoothed_rank(above: int, equal: int, seen: int, u: float) -> float:
    """Conformal p-value of a new score: `above` of the `seen` are larger, `equal` are equal.
    Exactly uniform.
    """
    return (above + u * (equal + 1)) / (seen + 1)


def bet(shares: tuple[float, ...], p: float) -> tuple[tuple[float, ...], float]:
    """One step of the simple jumper (Vovk et al. 2021, arXiv 2102.10439): the new shares of wealth,
    and the growth of all of it.

    shares: of the wealth on each of BETS. Each step a share JUMP of the wealth is spread evenly
    over the bets, so that a bet that lost can come back when the drift turns.
    """
    stakes = [
        ((1.0 - JUMP) * share + JUMP / len(BETS)) * (1.0 + e * (p - 0.5))
        for e, share in zip(BETS, shares, strict=True)
    ]
    growth = sum(stakes)
    return tuple(stake / growth for stake in stakes), growth


def grid_cells(score_N: Doubles) -> npt.NDArray[np.int64]:
    """The grid cell of each score. Raises ScoreError on NaN."""
    if np.isnan(score_N).any():
        raise ScoreError(f"score {int(np.argmax(np.isnan(score_N)))} is NaN", "score again")
    inside_N = np.clip(score_N, -MOST_LOG_ODDS, MOST_LOG_ODDS)
    return np.minimum(((inside_N + MOST_LOG_ODDS) / CELL).astype(np.int64), CELLS - 1)
