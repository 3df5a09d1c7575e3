"""Goals as counts: which rows a threshold decides, and which of them a promise counts as errors.

Shapes: N rows, G groups. A group is one threshold and the categories that share it.

1. A row belongs to the group of its heaviest category and to no other, so counts are sums over the
   groups (risk_control: separability).
2. A locked category refuses whenever its own threshold is met: under rule `heaviest` its threshold
   reaches every row. Counts are then no sums; `refused` is right for any thresholds, and solvers
   add up no more than an upper bound.
3. A doubtful row is refused by no threshold and answered by none: its score is +inf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError, GoalError, TaxonomyError
from demur.core.decision import compared_scores, decide_many
from demur.core.goals.counts import Rows
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import TargetRate
from demur.core.goals.promised import PromisedGoal, promised
from demur.core.goals.slices import Slice
from demur.core.policy import Policy
from demur.core.rates import Rate, binomial_cdf, upper_bound
from demur.stats.labelled import LabelledScores, Traits
from demur.stats.slices import goal_rows
from demur.stats.thresholds.results import Evidence

_OF_GROUPS = 0x6209  # a stream of its own, whatever the caller's seed also drew
NO_GROUP = -1  # no threshold refuses this row
STEERABLE = ("heaviest", "sum", "any")  # rules that thresholds steer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Board:
    """N rows, and the threshold that decides each."""

    template: Policy
    rows: LabelledScores
    groups: tuple[tuple[str, ...], ...]  # the categories of each threshold
    group_N: Ints  # NO_GROUP where no category may be emitted
    # float32 values: refused iff logq >= log threshold of its group; +inf where doubtful
    logq_N: Doubles
    heaviest_N: Ints  # column of the category it is refused with, if not by a lock
    # group of a locked category -> its log q of all rows
    locked: Mapping[int, Doubles] = field(default_factory=dict)

    @property
    def always_N(self) -> Bools:
        """Which rows are refused whatever the thresholds: doubtful ones."""
        return np.asarray(self.logq_N == np.inf, dtype=bool)

    def compared_with(self, g: int) -> Doubles:
        """What a group's threshold is compared with, (N,): -inf in rows that it does not reach."""
        if g in self.locked:
            # A doubtful row is counted once, with the group of its heaviest category.
            return np.where(
                self.always_N, np.where(self.group_N == g, np.inf, -np.inf), self.locked[g]
            )
        return np.where(self.group_N == g, self.logq_N, -np.inf)

    def thresholds(self, by_group: Sequence[float]) -> tuple[float, ...]:
        """One threshold per category, in the taxonomy's order: those of the template where no group
        has one.
        """
        found = {name: t for names, t in zip(self.groups, by_group, strict=True) for name in names}
        pairs = zip(self.template.taxonomy.names, self.template.categories, strict=True)
        return tuple(found.get(name, category.threshold) for name, category in pairs)

    def refused(self, by_group: Sequence[float]) -> Bools:
        """Which rows these thresholds refuse."""
        with np.errstate(divide="ignore"):
            # the last: NO_GROUP
            log_threshold_G = np.append(np.log(np.array(by_group, dtype=np.float64)), np.inf)
        refused_N = self.logq_N >= log_threshold_G[self.group_N]
        for g, logq_N in self.locked.items():
            refused_N |= logq_N >= log_threshold_G[g]
        return np.asarray(refused_N, dtype=bool)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loss:
    """A promised goal: among which rows, and which of them err when refused, or when answered."""

    goal: PromisedGoal
    among_N: Bools  # the denominator
    could_err_N: Bools  # a part of it
    # categories whose thresholds it depends on, whatever the rows at hand
    deciders: tuple[str, ...]
    traits: Traits | None = None  # of all rows

    @property
    def level(self) -> float:
        """What its rate shall not exceed."""
        return self.goal.level

    @property
    def when(self) -> Literal["refused", "answered"]:
        """What makes a row that could err an error."""
        return self.goal.errs_when

    def errors(self, refused_N: Bools) -> Bools:
        """Which rows err where these are refused."""
        return self.could_err_N & (refused_N if self.when == "refused" else ~refused_N)

    def of(self, part_N: Bools) -> int:
        """Rows of a part that the goal speaks of."""
        return int((self.among_N & part_N).sum())

    def groups(self, board: Board) -> list[int]:
        """The thresholds it depends on."""
        return [g for g, names in enumerate(board.groups) if set(names) & set(self.deciders)]

    def rate(self, refused_N: Bools, part_N: Bools) -> Rate:
        """The goal's rate on a part of the rows."""
        return Rate(hits=int((self.errors(refused_N) & part_N).sum()), of=self.of(part_N))

    def mix(self, refused_N: Bools, part_N: Bools) -> tuple[Slice, ...]:
        """The same rate by kind, category and source. Empty where the rows do not say them."""
        if self.traits is None:
            return ()
        return self.traits.mix(self.errors(refused_N), self.among_N & part_N)


def board_of(template: Policy, rows: LabelledScores, *, shared: bool) -> Board:
    """The board of a policy with a threshold per category, or with one shared by all active
    ones.
    """
    heaviest_N = decide_many(template, rows.table.logp_NC).heaviest_N
    active = [name for name in template.taxonomy.names if template.category(name).may_emit]
    columns = np.array([template.taxonomy.column(name) for name in active], dtype=np.int64)
    group_of_column = np.full(len(template.taxonomy.tokens), NO_GROUP, dtype=np.int64)
    group_of_column[columns] = 0 if shared else np.arange(len(active))
    return Board(
        template=template,
        rows=rows,
        groups=(tuple(active),) if shared else tuple((name,) for name in active),
        group_N=group_of_column[heaviest_N],
        logq_N=compared_scores(template, rows.table.logp_NC).astype(np.float64),
        heaviest_N=heaviest_N,
        # One threshold for all: the heaviest category meets it wherever a locked one does.
        locked={} if shared or template.rule != "heaviest" else _locks(template, rows, active),
    )


def board_as_it_is(policy: Policy, rows: LabelledScores) -> Board:
    """The board of a policy whose thresholds stand. Where they are all one they are shared, and no
    lock refuses first: each refusal then counts for its heaviest category alone, as it was
    certified.
    """
    found = {category.threshold for category in policy.categories if category.may_emit}
    return board_of(policy, rows, shared=len(found) == 1)


def _locks(template: Policy, rows: LabelledScores, active: Sequence[str]) -> dict[int, Doubles]:
    logq_NC = template.calibrator.apply(rows.table.logp_NC).astype(np.float64)
    return {
        g: np.minimum(logq_NC[:, template.taxonomy.column(name)], 0.0)
        for g, name in enumerate(active)
        if template.category(name).locked
    }


def losses_of(goals: Sequence[Goal], board: Board, seed: int) -> tuple[Loss, ...]:
    """The promised goals as losses. Of rows made from one another one per goal counts, drawn with
    the seed.

    Raises GoalError on a goal that promises nothing and on a category that is unknown or not
    active, DataError where no row can show the goal's errors.
    """
    return tuple(_loss(promised(goal), board, seed) for goal in goals)


def _loss(goal: PromisedGoal, board: Board, seed: int) -> Loss:
    label_N, names = board.rows.label_N, board.template.taxonomy.names
    check_categories(goal, board.template)
    could_err_N = goal.could_err(Rows(label_N=label_N, heaviest_N=board.heaviest_N, names=names))
    if board.locked:
        # A locked category may be emitted for any row. Counting each refusal as its own errs on the
        # careful side.
        could_err_N = could_err_N | any(
            name in goal.categories for g in board.locked for name in board.groups[g]
        )
        if not goal.beside_locks:
            raise GoalError(
                f"goal {goal.text!r} beside a locked category, which refuses over the heaviest one",
                "unlock it, or promise false and missed refusals",
            )
    among_N = goal_rows(goal, board.rows, board.template.taxonomy)
    if not among_N.any():
        raise DataError(
            f"goal {goal.text!r}: none of the {len(label_N)} rows is {goal.rows_words}, nothing "
            "can be said of it",
            "add such rows to the calibrate split, or drop the goal",
        )
    among_N = among_N & one_per_group(board.rows.group_N, among_N, seed)
    return Loss(
        goal=goal,
        among_N=among_N,
        could_err_N=among_N & could_err_N,
        deciders=names if board.locked else goal.deciders(names),
        traits=board.rows.traits,
    )


def check_categories(goal: PromisedGoal | TargetRate, template: Policy) -> None:
    """Raise GoalError on a category that is unknown; or not active, where the goal is about its
    token.
    """
    about_tokens = isinstance(goal, TargetRate) or goal.of_tokens
    for name in goal.categories:
        try:
            category = template.category(name)
        except TaxonomyError as e:
            raise GoalError(f"goal {goal.text!r}: {e.message}", e.hint) from e
        if not category.may_emit and about_tokens:
            raise GoalError(
                f"goal {goal.text!r}: category {name!r} is not active",
                "activate it, or name another",
            )


def require_steerable(goal: Goal, template: Policy) -> None:
    """Raise GoalError where no threshold of this template could serve the goal."""
    if template.rule not in STEERABLE:
        raise GoalError(
            f"goal {goal.text!r} cannot steer rule {template.rule!r}: it needs "
            f"{', '.join(STEERABLE)}",
            'set rule = "heaviest", or ask for the goal "natural"',
        )
    forced = [n for n in template.taxonomy.names if template.category(n).override == "force"]
    if forced:
        raise GoalError(
            f"goal {goal.text!r}: category {forced[0]!r} is forced, no threshold changes it",
            "unforce it",
        )
    if not any(category.may_emit for category in template.categories):
        raise GoalError(
            f"goal {goal.text!r}: no category is active, nothing can be refused",
            "activate a category",
        )


def one_per_group(group_N: Ints | None, among_N: Bools, seed: int) -> Bools:
    """Marks one random row of each group among these; every row if there are no groups.

    Rows made from one another err together: counted each, they would promise more than they show.
    """
    if group_N is None:
        return np.ones(len(among_N), dtype=bool)
    order = np.random.default_rng([seed, _OF_GROUPS]).permutation(np.flatnonzero(among_N))
    marked_N = np.zeros(len(among_N), dtype=bool)
    marked_N[order[np.unique(group_N[order], return_index=True)[1]]] = True
    return marked_N


def evidence_of(
    losses: Sequence[Loss], refused_N: Bools, part_N: Bools, delta: float
) -> tuple[Evidence, ...]:
    """Counts, exact p-values and upper bounds of every goal on a part of the rows."""
    found = []
    for loss in losses:
        seen = evidence(loss.goal, loss.rate(refused_N, part_N), delta)
        found.append(replace(seen, mix=loss.mix(refused_N, part_N)))
    return tuple(found)


def evidence(goal: PromisedGoal, rate: Rate, delta: float) -> Evidence:
    """Evidence from counts. Without rows the p-value is 1: nothing is known, nothing is
    promised.
    """
    known = rate.of > 0
    return Evidence(
        goal=goal,
        rate=rate,
        p_value=binomial_cdf(rate.hits, rate.of, goal.level) if known else 1.0,
        upper=upper_bound(rate.hits, rate.of, delta) if known else 1.0,
    )
