"""A conformal test martingale: evidence that scores no longer come from the distribution of the
reference.

1. Each new score gets a conformal p-value: its smoothed rank among all scores before it. While
   scores are exchangeable, these p-values are independent and uniform (Vovk et al. 2005).
2. A gambler bets on p-values being low or high: a stake multiplies by 1 + e (p - 1/2), which has
   mean 1 under uniformity, for several e, begun anew at every step (demur.stats.drift.wealth).
3. P(wealth ever reaches 1 / alpha) <= alpha while nothing changes (Ville 1939), for any length of
   traffic: one may look after every request.
Scores are counted on a fixed grid, so a state has one size however long the server runs, and since
a cell is a function of the score, the guarantee is untouched. Shapes: T new scores, B cells, J
bets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Doubles
from demur.base.errors import DataError, ScoreError
from demur.stats.drift.scores import MOST_LOG_ODDS
from demur.stats.drift.wealth import AT_ONCE, Wealth, begin, play

CELL = 0.25  # of log-odds: scores closer than this count as ties, which costs power, not validity
CELLS = int(2 * MOST_LOG_ODDS / CELL)
# on low p-values (scores rose), and on high ones (scores fell)
BETS = (-1.8, -1.0, -0.4, 0.4, 1.0, 1.8)
JUMPED = (-1.0, 0.0, 1.0)  # the bets of states of older versions
START = begin(len(BETS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Martingale:
    """The state of one series; plain numbers, to be stored and read back.

    Raises DataError when a stored state does not have this version's grid.
    """

    series: str
    count_B: tuple[int, ...]  # scores so far per cell, the reference's included
    wealth: Wealth = START
    highest_log_e: float = 0.0  # natural log of the most wealth so far: an alarm does not go away
    steps: int = 0  # scores tested
    learns: bool = True  # whether live scores join the reference

    def __post_init__(self) -> None:
        found = (len(self.count_B), len(self.wealth.log_stake_J))
        if found != (CELLS, len(BETS)):
            raise DataError(
                f"series {self.series!r}: {found[0]} cells and {found[1]} bets",
                f"expected {CELLS} and {len(BETS)}: start afresh",
            )

    @property
    def log_e(self) -> float:
        """Natural log of the wealth now."""
        return self.wealth.log_total


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
    if len(score_T) == 0:
        return state
    count_B, seen, p_T = list(state.count_B), sum(state.count_B), []
    for cell, u in zip(grid_cells(score_T).tolist(), u_T.tolist(), strict=True):
        # the p-value comes first, then the score joins the counts: a score is no evidence against
        # itself
        p_T.append(smoothed_rank(sum(count_B[cell + 1 :]), count_B[cell], seen, u))
        if state.learns:
            count_B[cell] += 1
            seen += 1
    wealth, log_e_T = play(state.wealth, log_factors(np.array(p_T)))
    return replace(
        state,
        count_B=tuple(count_B),
        wealth=wealth,
        highest_log_e=max(state.highest_log_e, float(log_e_T.max())),
        steps=state.steps + len(score_T),
    )


def smoothed_rank(above: int, equal: int, seen: int, u: float) -> float:
    """Conformal p-value of a new score: `above` of the `seen` are larger, `equal` are equal.
    Exactly uniform.
    """
    return (above + u * (equal + 1)) / (seen + 1)


def log_factors(p_T: Doubles) -> Doubles:
    """Natural log of what a stake on each of BETS multiplies by, shape (T, J)."""
    return np.asarray(np.log1p(np.multiply.outer(p_T - 0.5, BETS)), dtype=np.float64)


def wealth_of_jumper(shares: tuple[float, ...], log_e: float) -> Wealth:
    """The wealth of a state of older versions, which had no reserve: its bets go on with half of
    what they had, and the other half is a fresh reserve.

    shares: of the wealth exp(log_e), on each of JUMPED. What was on no bet stays away. Raises
    DataError on another number of shares.
    """
    if len(shares) != len(JUMPED):
        raise DataError(f"{len(shares)} shares of wealth", f"expected {len(JUMPED)}: start afresh")
    kept = {e: share for e, share in zip(JUMPED, shares, strict=True) if e and share > 0.0}
    nothing = np.log(np.finfo(np.float64).tiny)
    return Wealth(
        log_stake_J=tuple(
            float(np.log(AT_ONCE * kept[e])) + log_e if e in kept else float(nothing) for e in BETS
        )
    )


def grid_cells(score_N: Doubles) -> npt.NDArray[np.int64]:
    """The grid cell of each score. Raises ScoreError on NaN."""
    if np.isnan(score_N).any():
        raise ScoreError(f"score {int(np.argmax(np.isnan(score_N)))} is NaN", "score again")
    inside_N = np.clip(score_N, -MOST_LOG_ODDS, MOST_LOG_ODDS)
    return np.minimum(((inside_N + MOST_LOG_ODDS) / CELL).astype(np.int64), CELLS - 1)
