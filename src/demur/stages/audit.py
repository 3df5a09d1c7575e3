"""audit: scored requests and labels of a few of them -> whether a goal is kept among all of them.

1. The goal, the policy, the scores, the confidence and the seed are written down before the first
   label. They fix the order in which requests are drawn (demur.stats.drift.pool_audit).
2. The requests that come next are written to a file for people to label.
3. Labels count in the order of the draws, as far as they go without a gap: a label that is easy to
   give must not count before one that is hard to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demur.base.errors import ArtifactError, ConfigError, DataError, GoalError
from demur.base.files import digest_file, digest_json
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal
from demur.core.goals.promised import PromisedGoal, promised
from demur.core.policy import Policy
from demur.core.rates import decimal_fraction
from demur.core.score import ScoreTable
from demur.stats.drift.pool_audit import DrawPlan, Pool, PoolVerdict, plan_draws, settle
from demur.stats.thresholds.losses import check_categories
from demur.store.policies.policy_file import policy_digest, read_policy
from demur.store.results.audit_file import (
    AuditFile,
    DrawRow,
    read_audit,
    read_labelled,
    require_free,
    write_audit,
    write_unlabelled,
)
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

_OF_DRAWS = 0xA0D17  # a stream of its own, whatever else draws with the seed
MOST_DRAWS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What is audited, on which requests. Raises ConfigError."""

    scores: Path  # of the requests: the pool
    goal: str
    out: Path  # where the requests to label next go
    labels: tuple[Path, ...] = ()  # files of labels so far
    batch: int = 50  # requests to label next
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"confidence {self.confidence} is not in (0, 1)", "0.95 is usual")
        if self.batch < 1:
            raise ConfigError(f"a batch of {self.batch} labels", "1 or more; 50 is usual")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """What the labels so far prove."""

    goal: PromisedGoal
    requests: int  # of the pool
    verdict: PoolVerdict
    labelled: int  # different requests among the labels that count
    early: int  # labels that wait for one drawn before them
    waiting: int  # requests in the file of those to label next
    likely: int | None  # labels that will probably do, if the scores are right


def run(config: Config, folder: RunFolder) -> AuditResult:
    """Count the labels of an audit, and write the requests to label next while it is undecided.

    Raises GoalError on a goal that bounds no rate of whole requests, PolicyError if the scores are
    another model's, DataError on labels of requests that were not drawn and on a file to write that
    holds something else, ArtifactError where the
    state is of another audit.
    """
    folder.require("calibrate")
    policy = read_policy(folder.policy)
    table, model = read_scores(config.scores)
    policy.require_model(model)
    goal = _goal(config.goal)
    check_categories(goal, policy)
    alpha = float(1 - decimal_fraction(config.confidence))
    require_free(config.out)
    pool, plan = _planned(policy, table, goal, alpha)
    path, file = _opened(config, folder, policy_digest(policy), goal)
    labels = read_labelled(config.labels, policy.taxonomy)
    _require_drawn(labels, file, config)
    at = {i: n for n, i in enumerate(table.ids)}
    drawn = [at[d.id] for d in file.draws]
    counted = next((n for n, d in enumerate(file.draws) if d.id not in labels), len(drawn))
    found = settle(pool, plan, drawn[:counted], [labels[d.id] for d in file.draws[:counted]], alpha)
    next_ids: list[str] = []
    if found.verdict == "undecided":
        draws, next_ids = _next(config, plan, table.ids, labels)
        write_audit(path, file.model_copy(update={"draws": draws}))
        write_unlabelled(config.out, next_ids)
    own = {d.id for d in file.draws[:counted]}
    return AuditResult(
        goal=goal,
        requests=len(table.ids),
        verdict=found,
        labelled=len(own),
        early=len(set(labels) - own),
        waiting=len(next_ids),
        likely=plan.labels,
    )


def _goal(text: str) -> PromisedGoal:
    goal = promised(parse_goal(text))
    if goal.where or goal.every is not None:
        raise GoalError(
            f"goal {goal.text!r} speaks of a slice, which scores do not name",
            "audit the scores of that slice alone, with the goal for all of them",
        )
    if not goal.labelled:
        raise GoalError(
            f"goal {goal.text!r} needs no labels: what was decided of a request is known",
            "count decisions: demur decide --scores FILE",
        )
    return goal


def _planned(
    policy: Policy, table: ScoreTable, goal: PromisedGoal, alpha: float
) -> tuple[Pool, DrawPlan]:
    """The pool as the policy decides it, and how it is drawn from."""
    decided = decide_many(policy, table.logp_NC)
    pool = Pool(
        goal=goal,
        names=policy.taxonomy.names,
        refused_N=decided.refuses_N,
        deferred_N=decided.defers_N,
        heaviest_N=decided.heaviest_N,
    )
    logq_NC = policy.calibrator.apply(table.logp_NC).astype(np.float64)
    q_NC = np.exp(logq_NC - logq_NC.max(axis=1, keepdims=True))
    return pool, plan_draws(pool, q_NC / q_NC.sum(axis=1, keepdims=True), alpha)


def _opened(
    config: Config, folder: RunFolder, policy: str, goal: PromisedGoal
) -> tuple[Path, AuditFile]:
    """The state of this audit and its file, named by what is asked; a new one if there is none.

    Raises ArtifactError where it was begun with another confidence or seed.
    """
    about = {
        "policy": policy,
        "scores": digest_file(config.scores),
        "goal": f"{goal.risk} <= {goal.level!r}",
    }
    name = digest_json(about).removeprefix("sha256:")[:12]
    path = folder.root / "watch" / f"audit-{name}.json"
    asked = {**about, "confidence": config.confidence, "seed": config.seed}
    file = read_audit(path)
    if file is None:
        return path, AuditFile.model_validate(asked)
    if other := [name for name, value in asked.items() if getattr(file, name) != value]:
        name = other[0]
        raise ArtifactError(
            f"{path} is an audit with {name} {getattr(file, name)}, not {asked[name]}",
            "go on as it was begun: what is asked must not follow the labels",
        )
    return path, file


def _require_drawn(labels: dict[str, int], file: AuditFile, config: Config) -> None:
    """Raise DataError on labels of requests that this audit did not draw."""
    drawn = {d.id for d in file.draws}
    if unknown := [i for i in labels if i not in drawn]:
        raise DataError(
            f"{', '.join(map(str, config.labels))}: {len(unknown)} labelled requests were not "
            f"drawn, first {unknown[0]!r}",
            f"label what {config.out} names: whoever chooses the requests chooses the rate",
        )


def _next(
    config: Config, plan: DrawPlan, ids: Sequence[str], labels: dict[str, int]
) -> tuple[tuple[DrawRow, ...], list[str]]:
    """All draws up to the last request of the next batch, and the requests of it."""
    rng, above_N = np.random.default_rng([config.seed, _OF_DRAWS]), np.cumsum(plan.probability_N)
    draws: list[DrawRow] = []
    waiting: dict[str, None] = {}
    while len(waiting) < config.batch and len(draws) < MOST_DRAWS:
        n = min(int(np.searchsorted(above_N, rng.random() * above_N[-1], "right")), len(ids) - 1)
        draws.append(DrawRow(id=ids[n], probability=float(plan.probability_N[n])))
        if ids[n] not in labels:
            waiting[ids[n]] = None
    return tuple(draws), list(waiting)
