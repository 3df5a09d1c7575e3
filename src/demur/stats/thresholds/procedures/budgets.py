"""P2 and P5: level and delta divided over the categories, the closed form for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import GoalError
from demur.core.rates import binomial_cdf
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.closed_form import lowest_passing, too_few
from demur.stats.thresholds.objective import best_within
from demur.stats.thresholds.problem import Loss
from demur.stats.thresholds.procedures.task import (
    CertifyTask,
    Finding,
    NotCertified,
    certified,
    shares_of,
)
from demur.stats.thresholds.results import Uncertified
from demur.stats.units import CountedRows, CountTest, RateTest


def certify_budgets(task: CertifyTask) -> Finding:
    """P2: level and delta split over the categories, the closed form for each, on all rows.

    For goals that only refusals can break. Also promises each category its share. Conservative.
    """

    def own_share(chains: list[_Chain]) -> list[float]:
        return [chain.share for chain in chains]

    return _chains(task, own_share, "budgets per category, closed form (arXiv 2110.01052)")


def certify_graphical(task: CertifyTask) -> Finding:
    """P5: budgets, where a category hands on to the others what it cannot use.

    1. Too few rows for its share: all of its level and delta (by counts of rows alone).
    2. An exact test at its share of delta has a smaller size, because errors are whole numbers: the
       rest goes to the tests that it buys one error more (by counts alone).
    3. Certified down to its last row: all of its delta.

    One chain of hypotheses per goal and category, strict to lenient; each passes all its weight to
    the next, the last to the heads of the unfinished chains. Errors grow along a chain, so a chain
    ends where the closed form says, and the graph needs no learning split. Level is not handed on
    by what errors show: the tests of the others would then be chosen by the rows that they test.
    """
    method = "graphical procedure over chains (Bretz et al. 2009)"
    return _chains(task, _funded, method, hands_on=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    group: int
    logq_N: Doubles  # scores of the rows that can err in this group; -inf elsewhere
    rows: CountedRows  # the goal's denominator
    level: float
    share: float  # of the task's delta
    # False: too few rows for its share; it stays at NEVER, another chain counts its doubtful rows
    counts: bool = True

    def test(self, delta: float) -> RateTest | None:
        """The test at this share of delta; None if not even a chain without an error passes."""
        return self.rows.test(self.level, delta) if delta > 0.0 else None

    def size(self, most: int) -> float:
        """The probability that a rate at the level passes an exact test of so many errors."""
        return binomial_cdf(most, self.rows.requests, self.level)


def _chains(
    task: CertifyTask,
    delta_of: Callable[[list[_Chain]], list[float]],
    method: str,
    *,
    hands_on: bool = False,
) -> Finding:
    if task.fixed:
        raise GoalError(
            "a target rate of one category cannot be set beside budgets", "use the method 'path'"
        )
    by_loss = [_chains_of(task, loss) for loss in task.losses]
    total = sum(chain.share for own in by_loss for chain in own)
    chains = [chain for own in by_loss for chain in _with_idle(own, task.delta / total, hands_on)]
    low, deltas = [ALWAYS] * len(task.grouped.groups), delta_of(_scaled(chains, task.delta))
    # A chain begins at NEVER, which refuses doubtful rows still: if that is not certified, nothing
    # is.
    tests = [chain.test(weight) for chain, weight in zip(chains, deltas, strict=True)]
    if any(chain.counts and test is None for chain, test in zip(chains, tests, strict=True)):
        return _divided_too_far(task, chains, deltas)
    for chain, test, weight in zip(chains, tests, deltas, strict=True):
        doubtful_N = chain.logq_N == np.inf
        if doubtful_N.any() if test is None else not test.passes(doubtful_N):
            return NotCertified(split=task.on_all_rows, delta=weight)
        # None: too few rows for this share. The chain stays at NEVER.
        limit = NEVER if test is None else lowest_passing(chain.logq_N, test)
        low[chain.group] = max(low[chain.group], limit)
    best = best_within(task.grouped, task.objective, low, [NEVER] * len(low))
    return certified(task, best, task.on_all_rows, method)


def _with_idle(chains: list[_Chain], delta: float, hands_on: bool) -> list[_Chain]:
    """One goal's chains. Those that too few rows can certify hand their doubtful rows to the one
    with most to spend.

    Which ones these are follows from counts of rows, never from scores. delta: of the task, per
    unit of share. hands_on: whether the others get their shares of level and delta.
    """
    able = [chain.test(delta * chain.share) is not None for chain in chains]
    if all(able) or not any(able):
        return chains
    # Decided by counts of rows only, so that the choice uses up none of delta.
    heir = max((h for h, can in enumerate(able) if can), key=lambda h: chains[h].share)
    handed_N = np.any(
        [c.logq_N == np.inf for c, can in zip(chains, able, strict=True) if not can], axis=0
    )
    found = []
    usable = sum(c.share for c, can in zip(chains, able, strict=True) if can)
    grown = sum(c.share for c in chains) / usable if hands_on else 1.0
    for h, (chain, can) in enumerate(zip(chains, able, strict=True)):
        logq_N = chain.logq_N if can else np.where(chain.logq_N < np.inf, chain.logq_N, -np.inf)
        logq_N = np.where(handed_N, np.inf, logq_N) if h == heir else logq_N
        # an idle chain has no test: nothing of its share is left with it
        by = grown if can else float(not hands_on)
        found.append(
            replace(
                chain,
                logq_N=logq_N,
                counts=can,
                share=by * chain.share,
                level=by * chain.level,
            )
        )
    return found


def _chains_of(task: CertifyTask, loss: Loss) -> list[_Chain]:
    if loss.when == "answered":
        raise GoalError(
            f"goal {loss.goal.text!r} cannot be split over categories", "use the method 'vectors'"
        )
    grouped, rows = task.grouped.at_worst("refused"), loss.counted(task.everyone)
    touched = loss.groups(grouped)
    share_G = shares_of(task, touched)
    return [
        _Chain(
            g,
            np.where(loss.could_err_N, grouped.compared_with(g), -np.inf),
            rows,
            loss.level * share,
            share,
        )
        for g, share in zip(touched, share_G, strict=True)
    ]


def _divided_too_far(
    task: CertifyTask, chains: Sequence[_Chain], deltas: Sequence[float]
) -> Uncertified:
    """No category's share of level and delta can be promised on so many rows, even without an error
    among them.
    """
    needed, chain, delta = max(
        (
            (c.rows.needed(c.level, d), c, d)
            for c, d in zip(chains, deltas, strict=True)
            if c.counts
        ),
        key=lambda t: t[0],
    )
    goal = next(loss.goal for loss in task.losses if chain.group in loss.groups(task.grouped))
    name = task.grouped.groups[chain.group][0]
    divided = (
        f"level and delta are divided over the categories: {chain.level:.3g} of {name} at "
        f"delta {delta:.3g}"
    )
    return too_few(goal, chain.rows.units, needed, divided)


def _scaled(chains: Sequence[_Chain], delta: float) -> list[_Chain]:
    """The chains with their shares of delta; several goals split it evenly."""
    total = sum(chain.share for chain in chains)
    return [replace(c, share=delta * c.share / total) for c in chains]


def _funded(chains: list[_Chain]) -> list[float]:
    """Delta per chain once every finished one has handed its own on."""
    delta_H, open_H = _pooled(chains), {h for h, chain in enumerate(chains) if chain.counts}
    # A chain that may err on all of its rows is certified to its end; its delta passes on evenly.
    while True:
        done = next((h for h in sorted(open_H) if _is_done(chains[h], delta_H[h])), None)
        if done is None or len(open_H) == 1:
            return delta_H
        open_H.remove(done)
        for h in open_H:
            delta_H[h] += delta_H[done] / len(open_H)


def _pooled(chains: Sequence[_Chain]) -> list[float]:
    """Delta per chain, once what exact tests leave of their shares has bought errors elsewhere, the
    cheapest first. Counts of rows alone decide.
    """
    delta_H = [chain.share for chain in chains]
    # Errors that each exact test lets pass, and its size; tests by bets have no size of their own.
    most_H: dict[int, int] = {}
    for h, chain in enumerate(chains):
        test = chain.test(chain.share)
        if isinstance(test, CountTest) and not test.by_units:
            most_H[h], delta_H[h] = test.most, chain.size(test.most)
    spare = sum(chain.share for chain in chains) - sum(delta_H)
    while most_H:
        # one error more of each test, by what it costs
        cost, h = min((chains[h].size(most + 1) - delta_H[h], h) for h, most in most_H.items())
        if cost > spare:
            break
        most_H[h] += 1
        delta_H[h] += cost
        spare -= cost
    return delta_H


def _is_done(chain: _Chain, delta: float) -> bool:
    """Whether a chain is certified down to its last row at this share of delta."""
    test = chain.test(delta)
    return test is not None and test.passes(chain.logq_N > -np.inf)
