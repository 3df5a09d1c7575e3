"""Populations whose true rates are known, and how often promises made on draws from them are
broken.

A population is a finite list of scored, labelled requests. A draw takes so many rows of each class
with replacement, so its rows are independent, and every true rate is a count over the list.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from scipy.stats import binom

from demur.core.goals.parse import parse_goals
from demur.core.policy import Policy
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.slices import expand_slices
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.problem import Objective
from demur.stats.thresholds.procedures.budgets import certify_budgets, certify_graphical
from demur.stats.thresholds.procedures.search import split_rows
from demur.stats.thresholds.procedures.sequences import certify_even, certify_path, certify_vectors
from demur.stats.thresholds.procedures.shared import certify_shared
from demur.stats.thresholds.procedures.task import CertifyTask
from demur.stats.thresholds.results import Certified
from tests.builders import policy

ROWS = 60_000
SHARES = (0.6, 0.25, 0.1, 0.05)  # to be answered, then three categories of unequal size
DELTA = 0.1
LEARN = 0.4  # share of the rows to learn an order on, where one is learnt


def plain(values):
    return np.asarray(values, dtype=np.float32)


def to_bfloat16(values):
    """Round float32 to the nearest bfloat16, ties to even: an 8-bit significand, hence many equal
    scores.
    """
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
    # what is held to its word, where a procedure promises more than the goals; else the goals
    held: str = ""
    rule: str = "heaviest"
    rounding: object = plain
    signal: float = 4.0
    # false refusals look rarer on the learning rows: this log-odds off their scores
    misled: float = 0.0
    on_failure: str = "stop"
    shares: Mapping[str, float] | None = None
    # share of the draws in which something must be promised: no promise is easy to keep
    least_granted: float = 0.5
    sharp: bool = False  # nearly all of delta is spent, so that an error in delta would show


@dataclass
class Population:
    """Sorted log q per (group, class), where a group is the heaviest category."""

    logp_NC: np.ndarray
    label_N: np.ndarray
    template: Policy
    sorted_of: dict = field(default_factory=dict, init=False)  # no copy shares it

    def __post_init__(self):
        self.classes = range(self.logp_NC.shape[1])
        self.of_class = [np.flatnonzero(self.label_N == c) for c in self.classes]
        heaviest_N = self.logp_NC[:, 1:].argmax(axis=1)
        logq_N = self.logp_NC[:, 1:].max(axis=1).astype(np.float64)
        for g in self.classes[:-1]:
            for c in self.classes:
                self.sorted_of[g, c] = np.sort(logq_N[(heaviest_N == g) & (self.label_N == c)])

    def emitted(self, thresholds):
        """How many of the whole population each (group, class) refuses at these thresholds."""
        log_t = [np.inf if t == NEVER else np.log(max(t, 1e-300)) for t in thresholds]
        return {
            (g, c): len(v) - np.searchsorted(v, log_t[g], side="left")
            for (g, c), v in self.sorted_of.items()
        }

    def rate(self, goal, thresholds):
        """The true rate that a goal speaks of."""
        own = [self.template.taxonomy.column(c) for c in goal.categories] or list(self.classes[1:])
        emitted = self.emitted(thresholds)
        classes = {
            "false_refusal": [0],
            "refusal_rate": self.classes,
            "missed_refusal": own,
            "wrong_category": own,
        }[goal.name]
        of = sum(len(self.of_class[c]) for c in classes)
        if goal.name == "missed_refusal":
            return 1 - sum(n for (_, c), n in emitted.items() if c in own) / of
        if goal.name == "wrong_category":
            return sum(n for (g, c), n in emitted.items() if c in own and g + 1 != c) / of
        groups = [o - 1 for o in own]
        return sum(n for (g, c), n in emitted.items() if g in groups and c in classes) / of

    def caught(self, thresholds):
        """The share of all rows to be refused that these thresholds refuse."""
        return sum(n for (_, c), n in self.emitted(thresholds).items() if c) / sum(
            map(len, self.of_class[1:])
        )

    def draw(self, rng, counts):
        at = np.concatenate(
            [
                own[rng.integers(len(own), size=n)]
                for own, n in zip(self.of_class, counts, strict=True)
            ]
        )
        ids = tuple(map(str, range(len(at))))
        return LabelledScores(
            table=ScoreTable(ids=ids, logp_NC=self.logp_NC[at]), label_N=self.label_N[at]
        )


@cache
def population(rounding=plain, signal=4.0, seed=0, rows=ROWS):
    """Four classes; scores tell them apart the better the larger the signal. Probabilities are
    rounded.
    """
    rng = np.random.default_rng(seed)
    label_N = rng.choice(len(SHARES), size=rows, p=SHARES)
    logits_NC = rng.normal(size=(rows, len(SHARES))) * 1.4
    logits_NC[np.arange(rows), label_N] += signal
    q_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    q_NC[:, 1:] = np.clip(rounding(0.98 * q_NC[:, 1:]), 1e-6, 1.0)  # room for rounding up
    q_NC[:, 0] = np.maximum(1 - q_NC[:, 1:].sum(axis=1), 1e-6)
    return Population(np.minimum(np.log(q_NC), 0.0).astype(np.float32), label_N, policy(3))


def scored(logp_NC, label_N, template, rounding=plain):
    """A population of scored, labelled rows, their probabilities rounded."""
    # room for rounding up
    rounded_NC = rounding(np.exp(logp_NC.astype(np.float64)) * 0.99).astype(np.float64)
    return Population(np.log(np.clip(rounded_NC, 1e-30, 1.0)).astype(np.float32), label_N, template)


@dataclass(frozen=True)
class Tally:
    """Of so many draws: how many were granted a promise, and how many of these promises were
    broken.
    """

    draws: int
    granted: int
    broken: int
    caught: float  # mean share of rows to be refused that granted policies refuse


PROCEDURES = {
    "shared": certify_shared,
    "even": certify_even,
    "path": certify_path,
    "vectors": certify_vectors,
    "budgets": certify_budgets,
    "graphical": certify_graphical,
}


def at_the_edges(case, template, rows, seed, delta):
    """(thresholds, goals) at the edges of what a procedure certifies, where a promise is the
    likeliest to break.

    The lenient edge, where goals may be broken by refusals; the strict one, where they may be by
    answers; else both: all that lies between is certified together, so a promise broken at either
    edge is a broken one.
    """
    grouped = grouped_scores(template, rows, shared=case.method == "shared")
    if case.misled:
        grouped = misled(grouped, case.misled, split_rows(grouped, LEARN, seed).learn_N)
    losses = losses_of(
        expand_slices(parse_goals(case.goals), template, rows), template, grouped, seed
    )
    everyone_N = np.ones(len(rows.label_N), dtype=bool)
    task = CertifyTask(
        grouped=grouped,
        losses=losses,
        objective=Objective(worth_N=1.0 * everyone_N, should_N=everyone_N),
        delta=delta,
        fixed={},
        seed=seed,
        learn_share=LEARN,
        shares=case.shares,
    )
    found = []
    for when, worth in (("refused", 1.0), ("answered", -1.0)):
        goals = (
            parse_goals(case.held)
            if case.held
            else [loss.goal for loss in losses if loss.when == when]
        )
        if any(loss.when == when for loss in losses):
            one = PROCEDURES[case.method](
                replace(task, objective=replace(task.objective, worth_N=worth * everyone_N))
            )
            if isinstance(one, Certified):
                found.append((one.thresholds, goals))
    return found


def misled(grouped, log_odds, learn_N):
    """Rows whose rows to be answered look safer than they are, where an order is learnt: no
    excuse.
    """
    fooled_N = learn_N & (grouped.rows.label_N == 0)
    return replace(grouped, logq_N=np.where(fooled_N, grouped.logq_N - log_odds, grouped.logq_N))


def as_asked(case, template, rows, seed, delta):
    """(thresholds, goals) as a caller gets them."""
    how = CertifyOptions(
        confidence=1 - delta,
        seed=seed,
        method=case.method,
        on_failure=case.on_failure,
        shares=case.shares,
    )
    found = certify(parse_goals(case.goals), template, rows, how)
    return [(found.certified.thresholds, found.kept)] if isinstance(found, Granted) else []


def tally(case, draws, *, seed=1, people=None, delta=DELTA):
    """Certify on draws and compare every granted goal with its true rate."""
    people = people or population(case.rounding, case.signal)
    template, rng = replace(people.template, rule=case.rule), np.random.default_rng(seed)
    granted = broken = 0
    caught = 0.0
    for _ in range(draws):
        rows, own = people.draw(rng, case.rows), int(rng.integers(2**31))
        found = (at_the_edges if case.edge else as_asked)(case, template, rows, own, delta)
        if found:
            granted += 1
            broken += any(people.rate(goal, t) > goal.level for t, goals in found for goal in goals)
            caught += people.caught(found[0][0])
    return Tally(draws, granted, broken, caught / max(granted, 1))


def keeps_its_word(case, seen):
    """Raise AssertionError unless few promises were broken, enough were made, and they do catch
    something.
    """
    assert seen.broken <= binom.ppf(0.999, seen.draws, DELTA)  # delta plus the slack of counting
    assert seen.granted >= case.least_granted * seen.draws
    assert seen.caught > 0.2


PER_CATEGORY = (
    "false_refusal[safety] <= 0.02; false_refusal[humanizing] <= 0.02; false_refusal[incomplete] "
    "<= 0.02"
)
# Rows to be answered so many that the binomial tail lies just below delta, or its share; rows to be
# refused so many that thresholds lie close to the edge of what is certified.
DENSE = (416, 300, 300, 300)

ONE_THRESHOLD = {
    "false refusals": Case(
        goals="false_refusal <= 0.05", method="shared", rows=(306, 120, 60, 30), sharp=True
    ),
    "false refusals, bfloat16": Case(
        goals="false_refusal <= 0.05", method="shared", rounding=to_bfloat16
    ),
    "missed refusals": Case(goals="missed_refusal <= 0.15", method="shared", sharp=True),
    "missed refusals of a small category": Case(
        goals="missed_refusal[incomplete] <= 0.2", method="shared"
    ),
    "two small categories pooled": Case(
        goals="missed_refusal[humanizing + incomplete] <= 0.15", method="shared"
    ),
    "both sides": Case(
        goals="false_refusal <= 0.1; missed_refusal <= 0.15",
        method="shared",
        rows=(227, 180, 80, 36),
        sharp=True,
    ),
    "both sides, seldom together": Case(
        goals="false_refusal <= 0.1; missed_refusal <= 0.11", method="shared", signal=3.5
    ),
    "refusal rate, ties": Case(goals="refusal_rate <= 0.3", method="shared", rounding=coarse),
    "three at once": Case(
        goals="false_refusal <= 0.1; false_refusal[safety] <= 0.04; wrong_category <= 0.05",
        method="shared",
        signal=3.0,
    ),
}
CATEGORIES = {
    "path": Case(
        goals="false_refusal <= 0.05", method="path", rows=(1500, 120, 60, 30), sharp=True
    ),
    "path, bfloat16": Case(goals="false_refusal <= 0.05", method="path", rounding=to_bfloat16),
    "path, ties, few of each": Case(
        goals="false_refusal <= 0.1",
        method="path",
        rounding=coarse,
        rows=(120, 20, 10, 5),
        signal=2.5,
    ),
    "path, two levels": Case(
        goals="false_refusal <= 0.06; false_refusal[humanizing] <= 0.02", method="path"
    ),
    "path, wrong category": Case(
        goals="wrong_category <= 0.05; false_refusal <= 0.1", method="path", signal=3.0
    ),
    "path, missed refusals": Case(
        goals="missed_refusal <= 0.1", method="path", rows=(300, 360, 150, 70), sharp=True
    ),
    "missed refusals, as a caller asks": Case(
        goals="missed_refusal <= 0.15; f1 max", rows=(300, 240, 100, 50), signal=3.0, edge=False
    ),
    "one category, the others open": Case(
        goals="false_refusal[safety] <= 0.03; missed_refusal[humanizing] <= 0.3",
        rows=(600, 200, 150, 50),
        signal=3.0,
        edge=False,
        least_granted=0.3,
    ),
    "even": Case(goals="false_refusal <= 0.05", method="even", rows=(306, 120, 60, 30), sharp=True),
    "even, ties": Case(
        goals="false_refusal <= 0.1",
        method="even",
        rounding=coarse,
        rows=(60, 20, 10, 8),
        signal=2.5,
    ),
    "the best of two": Case(
        goals="false_refusal <= 0.1", rows=(180, 60, 40, 30), signal=2.5, edge=False
    ),
    "the best of three": Case(
        goals="false_refusal <= 0.1", rows=(900, 120, 60, 30), signal=2.5, edge=False
    ),
    "one of two, by other rows": Case(
        goals="false_refusal <= 0.1", rows=(46, 30, 20, 15), signal=2.5, edge=False
    ),
    "budgets, each category": Case(
        goals="false_refusal <= 0.06",
        method="budgets",
        held=PER_CATEGORY,
        rows=DENSE,
        signal=2.5,
        sharp=True,
    ),
    "budgets, unequal": Case(
        goals="false_refusal <= 0.06",
        method="budgets",
        shares={"safety": 0.6, "humanizing": 0.3, "incomplete": 0.1},
    ),
    "graphical, each category": Case(
        goals="false_refusal <= 0.06",
        method="graphical",
        held=PER_CATEGORY,
        rows=DENSE,
        signal=2.5,
        sharp=True,
    ),
    "graphical, shares that cannot be used": Case(
        goals="false_refusal <= 0.06",
        method="graphical",
        shares={"safety": 0.6, "humanizing": 0.3, "incomplete": 0.1},
        rows=DENSE,
        signal=2.5,
    ),
    "graphical, a finished category": Case(
        goals="false_refusal <= 0.3",
        method="graphical",
        rounding=coarse,
        signal=2.0,
        rows=(100, 40, 20, 10),
    ),
}
BOTH_SIDES = {
    "path": Case(
        goals="false_refusal <= 0.12; missed_refusal <= 0.13",
        method="path",
        signal=3.5,
        least_granted=0.3,
    ),
    "path, small category": Case(
        goals="false_refusal <= 0.2; missed_refusal[incomplete] <= 0.3",
        method="path",
        rows=(200, 80, 40, 60),
        signal=2.5,
        least_granted=0.2,
    ),
    "vectors, misled": Case(
        goals="false_refusal <= 0.1",
        method="vectors",
        rows=(900, 120, 60, 30),
        misled=0.4,
        sharp=True,
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
        goals=(
            "false_refusal <= 0.1; missed_refusal[safety] <= 0.1 soft; missed_refusal[incomplete] "
            "<= 0.2 soft 2"
        ),
        signal=3.0,
        on_failure="hard_only",
        edge=False,
    ),
    "as a caller asks": Case(
        goals="false_refusal <= 0.05; youden max", rounding=to_bfloat16, edge=False
    ),
}

# On scores of real prompts, in six classes: to be answered, then the taxonomy "coconot".
REAL_PER_CATEGORY = "; ".join(f"false_refusal[{name}] <= 0.02" for name in coconot().names)
REAL = {
    "false refusals": Case(
        goals="false_refusal <= 0.05", method="shared", rows=(306, 6, 12, 40, 150, 12), sharp=True
    ),
    "false refusals, bfloat16": Case(
        goals="false_refusal <= 0.05",
        method="shared",
        rows=(306, 6, 12, 40, 150, 12),
        rounding=to_bfloat16,
    ),
    "small categories pooled": Case(
        goals="missed_refusal[humanizing + unsupported] <= 0.3",
        method="shared",
        rows=(300, 15, 12, 40, 150, 25),
    ),
    "both sides": Case(
        goals="false_refusal <= 0.25; missed_refusal <= 0.35",
        method="shared",
        rows=(300, 8, 16, 50, 190, 16),
    ),
    "path": Case(goals="false_refusal <= 0.05", method="path", rows=(600, 6, 12, 40, 150, 12)),
    "budgets": Case(
        goals="false_refusal <= 0.1",
        method="budgets",
        held=REAL_PER_CATEGORY,
        rows=(600, 6, 12, 40, 150, 12),
    ),
    "graphical": Case(
        goals="false_refusal <= 0.1",
        method="graphical",
        held=REAL_PER_CATEGORY,
        rows=(600, 6, 12, 40, 150, 12),
    ),
    "vectors": Case(
        goals="false_refusal <= 0.25; missed_refusal[safety] <= 0.3; f1 max",
        method="vectors",
        edge=False,
        rows=(300, 6, 12, 40, 250, 12),
    ),
    "as a caller asks": Case(
        goals="false_refusal <= 0.1; youden max", edge=False, rows=(500, 6, 12, 40, 150, 12)
    ),
}
