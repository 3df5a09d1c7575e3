"""The task of a certification procedure, and what a procedure finds.

A procedure returns Certified thresholds; or Uncertified, where counts of rows alone rule a promise
out; or NotCertified, which demur.stats.thresholds.explain turns into words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Bools
from demur.base.errors import GoalError
from demur.stats.thresholds.problem import Arrived, GroupedScores, LearnTestSplit, Loss, Objective
from demur.stats.thresholds.results import Certified, Evidence, Uncertified, evidence

Shares = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CertifyTask:
    """Goals to certify together, the rows to certify them on, and the confidence."""

    grouped: GroupedScores
    # all promised together, on the rows that may be tested: those with a label by hand, if any has
    losses: tuple[Loss, ...]
    objective: Objective  # what to prefer among certified vectors
    delta: float  # 1 - confidence of this procedure
    fixed: Mapping[int, float]  # thresholds of groups that are set otherwise
    seed: int = 0
    learn_share: float = 0.4  # of the rows, to learn an order on; path, vectors and corrected only
    # of level and delta per category, sum 1; budgets and graphical only
    shares: Shares | None = None
    # the same goals on all rows, by a judge's labels where no hand labelled; None: losses
    guides: tuple[Loss, ...] | None = None
    arrived: Arrived | None = None  # how rows came; anytime only
    # per goal its loss by the judge's labels and by the hand's; corrected only
    by_hand: tuple[tuple[Loss, Loss], ...] = ()

    # what to prefer, by the requests that an order is learnt on; None: objective
    learning: Objective | None = None

    def divided(self, split: LearnTestSplit) -> CertifyTask:
        """The task with the requests that the split leaves to learn and to test."""
        if (asked := split.asked) is None:
            return self
        whole_N = self.grouped.rows.count_N
        assert whole_N is not None  # requests are divided where there are several
        left_N = np.maximum(whole_N - asked.count_N, 1)
        worth_N = self.objective.worth_N * left_N / whole_N
        count_N = None if self.objective.count_N is None else left_N
        return replace(
            self,
            losses=tuple(loss.tested_on(split) for loss in self.losses),
            guides=tuple(loss.learnt_on(split) for loss in self.learnt),
            learning=replace(self.objective, worth_N=worth_N, count_N=count_N),
        )

    @property
    def learning_objective(self) -> Objective:
        """What to prefer, on rows that an order is learnt on."""
        return self.objective if self.learning is None else self.learning

    @property
    def learnt(self) -> tuple[Loss, ...]:
        """The losses to learn an order by, of each tested one: on rows that are not tested."""
        return self.losses if self.guides is None else self.guides

    @property
    def everyone(self) -> Bools:
        """All rows, as a part of them: shape (N,)."""
        return np.ones(len(self.grouped.logq_N), dtype=bool)

    @property
    def on_all_rows(self) -> LearnTestSplit:
        """The split of a procedure that learns and tests on all rows."""
        return LearnTestSplit(learn_N=self.everyone, test_N=self.everyone)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NotCertified:
    """A test that stopped before it certified anything of use.

    demur.stats.thresholds.explain works out why.
    """

    split: LearnTestSplit  # the rows that it learned from and tested on
    delta: float  # at which each side was tested
    # the goals are certified by thresholds that refuse nothing worthwhile
    vacuous: bool = False
    # rows may be added and looked at again: how many would do is then not worked out
    looks_again: bool = False
    # the pair of vectors of a band that was tested first: thresholds of refusals, and of what is
    # not answered, one per group
    surest: tuple[tuple[float, ...], tuple[float, ...]] | None = None


Finding = Certified | Uncertified | NotCertified


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tried:
    """A procedure that certified nothing: its name, itself, its task and what it said."""

    method: str
    procedure: Callable[[CertifyTask], Finding]
    task: CertifyTask
    found: Uncertified | NotCertified


def shares_of(task: CertifyTask, touched: Sequence[int]) -> list[float]:
    """The shares of these groups of what one goal may spend: equal, or the caller's, scaled to
    those touched.
    """
    names = [task.grouped.groups[g][0] for g in range(len(task.grouped.groups))]
    given = task.shares
    if given is None:
        return [1.0 / len(touched)] * len(touched)
    if set(given) != set(names):
        raise GoalError(
            f"shares name {sorted(given)}, the active categories are {sorted(names)}",
            "one share each",
        )
    check_shares(given)
    own = [given[names[g]] for g in touched]
    return [share / sum(own) for share in own]


def check_shares(shares: Shares) -> None:
    """Raise GoalError unless the shares are positive and sum to 1."""
    total = sum(shares.values())
    if wrong := [name for name, share in shares.items() if not share > 0.0]:
        raise GoalError(
            f"shares {dict(shares)}: {wrong[0]} gets {shares[wrong[0]]:g} of level and delta",
            "shares above 0 that sum to 1",
        )
    if not abs(total - 1.0) <= 1e-9:
        raise GoalError(f"shares {dict(shares)} sum to {total:g}, expected 1", "scale them")


def certified(
    task: CertifyTask,
    by_group: Sequence[float],
    split: LearnTestSplit,
    method: str,
    *,
    delta: float | None = None,
) -> Certified | NotCertified:
    """Certified thresholds with their evidence; NotCertified where they refuse nothing worthwhile.

    by_group: a threshold per group, at which every goal has passed its test on split.test_N.
    delta: at which each direction of error was tested; None: at the task's.
    """
    refused_N = task.grouped.refused(by_group)
    tested = task.delta if delta is None else delta
    if task.objective.is_vacuous(refused_N):
        return NotCertified(split=split, delta=tested, vacuous=True)
    return Certified(
        thresholds=task.grouped.thresholds(by_group),
        evidence=evidence_of(task.losses, refused_N, split.test_N, task.delta),
        method=task.grouped.method(method),
        tested_at=tested,
    )


def evidence_of(
    losses: Sequence[Loss],
    refused_N: Bools,
    part_N: Bools,
    delta: float,
    held_N: Bools | None = None,
) -> tuple[Evidence, ...]:
    """Error counts, exact p-values and upper bounds of all goals on the rows of part_N. held_N:
    refused or deferred; None: nothing is deferred.
    """
    found = []
    for loss in losses:
        seen = evidence(
            loss.goal, loss.counted_under(refused_N, part_N), loss.errors(refused_N, held_N), delta
        )
        found.append(replace(seen, mix=loss.mix(refused_N, part_N, held_N)))
    return tuple(found)
