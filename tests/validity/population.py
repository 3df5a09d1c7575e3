"""Populations whose true rates are known, and how often promises made on draws from them are broken.

A population is a finite list of scored, labelled requests. A draw takes so many rows of each class with replacement,
so its rows are independent, and every true rate is a count over the list.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from demur.core.goal import parse_goals
from demur.core.guarantee import Certified
from demur.core.policy import NEVER
from demur.core.score import ScoreTable
from demur.stats.aim import Aim
from demur.stats.board import board_of, losses_of
from demur.stats.joint import (
    Request,
    certify_budgets,
    certify_graphical,
    certify_path,
    certify_shared,
    certify_vectors,
)
from demur.stats.labelled import LabelledScores
from demur.stats.promises import Granted, How, certify
from tests.builders import policy

ROWS = 60_000
SHARES = (0.6, 0.25, 0.1, 0.05)  # to be answered, then three categories of unequal size
DELTA = 0.1


def plain(values):
    return np.asarray(values, dtype=np.float32)


def to_bfloat16(values):
    """Round float32 to the nearest bfloat16, ties to even: an 8-bit significand, hence many equal scores."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def coarse(values):
    """Two decimals: ties everywhere."""
    return np.round(np.asarray(values, dtype=np.float32), 2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is promised, by which procedure, on how many rows of which kind."""

    goals: str
    rows: tuple[int, ...] = (300, 120, 60, 30)  # per class
    method: str = "auto"
    edge: bool = True  # look at the edge of what is certified, not at what a caller would be given
    rule: str = "heaviest"
    rounding: object = plain
    signal: float = 4.0
    on_failure: str = "stop"
    shares: Mapping[str, float] | None = None
    least_granted: float = 0.5  # share of the draws in which something must be promised: no promise is easy to keep


@dataclass
class Population:
    """Sorted log q per (group, class), where a group is the heaviest category."""

    logp_NC: np.ndarray
    label_N: np.ndarray
    sorted_of: dict = field(default_factory=dict)

    def __post_init__(self):
        self.of_class = [np.flatnonzero(self.label_N == c) for c in range(len(SHARES))]
        self.heaviest_N = self.logp_NC[:, 1:].argmax(axis=1)
        self.logq_N = self.logp_NC[:, 1:].max(axis=1).astype(np.float64)
        for g in range(len(SHARES) - 1):
            for c in range(len(SHARES)):
                self.sorted_of[g, c] = np.sort(self.logq_N[(self.heaviest_N == g) & (self.label_N == c)])

    def emitted(self, thresholds):
        """How many of the whole population each (group, class) refuses at these thresholds."""
        log_t = [np.inf if t == NEVER else np.log(max(t, 1e-300)) for t in thresholds]
        return {(g, c): len(v) - np.searchsorted(v, log_t[g], side="left") for (g, c), v in self.sorted_of.items()}

    def rate(self, goal, thresholds):
        """The true rate that a goal speaks of."""
        names = ("safety", "humanizing", "incomplete")
        own = [names.index(c) + 1 for c in goal.categories] or list(range(1, len(SHARES)))
        emitted = self.emitted(thresholds)
        classes = {
            "false_refusal": [0],
            "refusal_rate_cap": range(len(SHARES)),
            "missed_refusal": own,
            "wrong_category": own,
        }[goal.kind]
        of = sum(len(self.of_class[c]) for c in classes)
        if goal.kind == "missed_refusal":
            return 1 - sum(n for (_, c), n in emitted.items() if c in own) / of
        if goal.kind == "wrong_category":
            return sum(n for (g, c), n in emitted.items() if c in own and g + 1 != c) / of
        groups = [o - 1 for o in own]
        return sum(n for (g, c), n in emitted.items() if g in groups and c in classes) / of

    def draw(self, rng, counts):
        at = np.concatenate([rng.choice(own, n) for own, n in zip(self.of_class, counts, strict=True)])
        ids = tuple(map(str, range(len(at))))
        return LabelledScores(table=ScoreTable(ids=ids, logp_NC=self.logp_NC[at]), label_N=self.label_N[at])


def population(rounding=plain, signal=4.0, seed=0):
    """Four classes; scores tell them apart the better the larger the signal. Probabilities are rounded."""
    rng = np.random.default_rng(seed)
    label_N = rng.choice(len(SHARES), size=ROWS, p=SHARES)
    logits_NC = rng.normal(size=(ROWS, len(SHARES))) * 1.4
    logits_NC[np.arange(ROWS), label_N] += signal
    q_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    q_NC[:, 1:] = np.clip(rounding(0.98 * q_NC[:, 1:]), 1e-6, 1.0)  # room for rounding up
    q_NC[:, 0] = np.maximum(1 - q_NC[:, 1:].sum(axis=1), 1e-6)
    return Population(np.minimum(np.log(q_NC), 0.0).astype(np.float32), label_N)


@dataclass(frozen=True)
class Tally:
    """Of so many draws: how many were granted a promise, and how many of these promises were broken."""

    draws: int
    granted: int
    broken: int
    caught: float  # mean share of rows to be refused that granted policies refuse


PROCEDURES = {
    "shared": certify_shared,
    "path": certify_path,
    "vectors": certify_vectors,
    "budgets": certify_budgets,
    "graphical": certify_graphical,
}


def at_the_edge(case, rows, goals, seed):
    """Thresholds at the edge of what a procedure certifies, where a promise is the likeliest to break; or None.

    The lenient edge, where only refusals can break the goals; the strict one, where only answers can; else in turn.
    """
    board = board_of(policy(3, case.rule), rows, shared=case.method == "shared")
    losses = losses_of(goals, board, seed)
    sides = {loss.when for loss in losses}
    worth = -1.0 if sides == {"answered"} or (len(sides) == 2 and seed % 2) else 1.0
    everyone_N = np.ones(len(rows.label_N), dtype=bool)
    found = PROCEDURES[case.method](
        Request(
            board=board,
            losses=losses,
            aim=Aim(worth_N=worth * everyone_N, should_N=everyone_N),
            delta=DELTA,
            fixed={},
            seed=seed,
            shares=case.shares,
            explained=False,
        )
    )
    return (found.thresholds, goals) if isinstance(found, Certified) else None


def as_asked(case, rows, goals, seed):
    """Thresholds and goals as a caller gets them; or None."""
    how = How(
        confidence=1 - DELTA,
        seed=seed,
        method=case.method,
        on_failure=case.on_failure,
        shares=case.shares,
        explained=False,
    )
    found = certify(goals, policy(3, case.rule), rows, how)
    return (found.certified.thresholds, found.kept) if isinstance(found, Granted) else None


def tally(case, draws, seed=1):
    """Certify on draws and compare every granted goal with its true rate."""
    people, goals, rng = population(case.rounding, case.signal), parse_goals(case.goals), np.random.default_rng(seed)
    granted = broken = 0
    caught = 0.0
    for _ in range(draws):
        rows, own = people.draw(rng, case.rows), int(rng.integers(2**31))
        found = (at_the_edge if case.edge else as_asked)(case, rows, goals, own)
        if found is not None:
            thresholds, kept = found
            granted += 1
            broken += any(people.rate(goal, thresholds) > goal.level for goal in kept)
            emitted = people.emitted(thresholds)
            caught += sum(n for (_, c), n in emitted.items() if c) / sum(map(len, people.of_class[1:]))
    return Tally(draws, granted, broken, caught / max(granted, 1))


ONE_THRESHOLD = {
    "false refusals": Case(goals="false_refusal <= 0.05", method="shared", rows=(306, 120, 60, 30)),
    "false refusals, bfloat16": Case(goals="false_refusal <= 0.05", method="shared", rounding=to_bfloat16),
    "missed refusals": Case(goals="missed_refusal <= 0.15", method="shared"),
    "missed refusals of a small category": Case(goals="missed_refusal[incomplete] <= 0.2", method="shared"),
    "two small categories pooled": Case(goals="missed_refusal[humanizing + incomplete] <= 0.15", method="shared"),
    "both sides": Case(goals="false_refusal <= 0.1; missed_refusal <= 0.11", method="shared", signal=3.5),
    "refusal rate, ties": Case(goals="refusal_rate <= 0.3", method="shared", rounding=coarse),
    "three at once": Case(
        goals="false_refusal <= 0.1; false_refusal[safety] <= 0.04; wrong_category <= 0.05", method="shared", signal=3.0
    ),
}
CATEGORIES = {
    "path": Case(goals="false_refusal <= 0.05", method="path"),
    "path, bfloat16": Case(goals="false_refusal <= 0.05", method="path", rounding=to_bfloat16),
    "path, ties, few of each": Case(
        goals="false_refusal <= 0.1", method="path", rounding=coarse, rows=(120, 20, 10, 5), signal=2.5
    ),
    "path, two levels": Case(goals="false_refusal <= 0.06; false_refusal[humanizing] <= 0.02", method="path"),
    "path, wrong category": Case(goals="wrong_category <= 0.05; false_refusal <= 0.1", method="path", signal=3.0),
    "budgets": Case(goals="false_refusal <= 0.06", method="budgets"),
    "budgets, unequal": Case(
        goals="false_refusal <= 0.06",
        method="budgets",
        shares={"safety": 0.6, "humanizing": 0.3, "incomplete": 0.1},
    ),
    "graphical": Case(goals="false_refusal <= 0.06", method="graphical"),
    "graphical, a finished category": Case(
        goals="false_refusal <= 0.3", method="graphical", rounding=coarse, signal=2.0, rows=(100, 40, 20, 10)
    ),
}
BOTH_SIDES = {
    "path": Case(goals="false_refusal <= 0.12; missed_refusal <= 0.13", method="path", signal=3.5, least_granted=0.3),
    "path, small category": Case(
        goals="false_refusal <= 0.2; missed_refusal[incomplete] <= 0.3",
        method="path",
        rows=(200, 80, 40, 60),
        signal=2.5,
        least_granted=0.2,
    ),
    "vectors, bfloat16": Case(
        goals="false_refusal <= 0.12; missed_refusal <= 0.13; f1 max",
        method="vectors",
        edge=False,
        signal=3.5,
        rounding=to_bfloat16,
        least_granted=0.2,
    ),
    "hard only": Case(
        goals="false_refusal <= 0.1; missed_refusal[safety] <= 0.1 soft; missed_refusal[incomplete] <= 0.2 soft 2",
        signal=3.0,
        on_failure="hard_only",
        edge=False,
    ),
    "as a caller asks": Case(goals="false_refusal <= 0.05; youden max", rounding=to_bfloat16, edge=False),
}
