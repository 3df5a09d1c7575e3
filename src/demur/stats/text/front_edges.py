"""Choosing the edges beyond which a cascade's front model answers for the real one, on traffic that
it was not fitted on.

On each side two things must hold, with b the bound on disagreement:
1. At the edge the estimated probability that the model decides otherwise, a Platt curve over the
   front's log-odds, is at most b. Beyond the edge it is smaller.
2. Of all held-out rows beyond the edge at most b are decided otherwise, with 90 % confidence
   (Clopper and Pearson).
Neither is a promise: the edge is the best of many. What is promised is certified on the whole
cascade, later, on rows that neither front nor edges have seen. Shapes: N held-out prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, logit

from demur.base.arrays import Bools, Doubles
from demur.core.cascade.front import FrontEdges
from demur.core.rates import Rate
from demur.stats.calibrators.platt import fit_platt

MISS = 0.1  # allowed, of the bound on the rows beyond an edge


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOutPrompts:
    """Held-out prompts within the front's range, as both decide them under one policy."""

    odds_N: Doubles  # the front's, of the whole text
    risk_N: Doubles  # of its riskiest stretch
    both_answer_N: Bools  # front and model respond, and neither is in doubt
    both_refuse_N: Bools  # front and model refuse with the same category, and neither is in doubt


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenEdges:
    """The edges, and how often the model decided otherwise beyond them, on the rows that they were
    chosen on.
    """

    edges: FrontEdges
    answered: Rate  # of rows beyond the answering edge: the model decided otherwise
    refused: Rate  # of rows beyond the refusing edge


def choose_edges(held: HeldOutPrompts, bound: float) -> ChosenEdges:
    """The widest edges at which front and model disagree at most so often. bound: in (0, 1)."""
    answer = _edge(held.risk_N, ~held.both_answer_N, bound)
    refuse = _edge(-held.odds_N, ~held.both_refuse_N, bound)
    edges = FrontEdges(answer=answer, refuse=None if refuse is None else -refuse)
    return ChosenEdges(
        edges=edges,
        answered=_beyond(held.risk_N, ~held.both_answer_N, answer),
        refused=_beyond(-held.odds_N, ~held.both_refuse_N, refuse),
    )


def _edge(danger_N: Doubles, differs_N: Bools, bound: float) -> float | None:
    """The highest danger at which both conditions hold; None if there is none."""
    if not len(danger_N):
        return None
    curve = fit_platt(danger_N, differs_N)
    # more danger does not mean more disagreement: the front has learnt nothing
    if curve.slope <= 0.0:
        return None
    order = np.argsort(danger_N, kind="stable")
    sorted_N, errors_N = danger_N[order], np.cumsum(differs_N[order])
    rows_N = np.arange(1, len(order) + 1)
    # Clopper-Pearson upper bound of the n least dangerous rows, for every n at once. Where all of
    # them err it is 1: the guard keeps the argument positive, and the value far above any bound.
    upper_N = betaincinv(errors_N + 1, np.maximum(rows_N - errors_N, 1), 1.0 - MISS)
    # Rows of equal danger lie on one side of any edge: only the last of them can be one.
    last_N = np.append(sorted_N[1:] > sorted_N[:-1], True)
    fits_N = (upper_N <= bound) & last_N & (curve.slope * sorted_N + curve.offset <= logit(bound))
    return float(sorted_N[np.flatnonzero(fits_N)[-1]]) if fits_N.any() else None


def _beyond(danger_N: Doubles, differs_N: Bools, edge: float | None) -> Rate:
    beyond_N = np.zeros(len(danger_N), dtype=bool) if edge is None else danger_N <= edge
    return Rate(hits=int(differs_N[beyond_N].sum()), of=int(beyond_N.sum()))
