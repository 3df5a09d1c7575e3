"""The policies to compare, chosen on the calibrate split, and their decisions on the test split.

Thresholds for comparison are chosen on the calibrate split and measured on the test split, never
the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from demur.base.errors import ArtifactError, DataError, GoalInfeasible
from demur.base.files import digest_file, digest_json
from demur.core.calibrator import IDENTITY
from demur.core.decision import decide_many
from demur.core.fingerprint import Fingerprint
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import Natural
from demur.core.goals.parse import parse_goals
from demur.core.goals.promised import DeferralRate
from demur.core.policy import Policy
from demur.core.threshold import NEVER
from demur.stages.arrival import left_rows
from demur.stages.attempts import CertifyRequest, certify_counted, scored_rows_digest
from demur.stages.evaluate.comparison import ComparedPolicy, Comparison
from demur.stats.labelled import LabelledScores, join_answers, label_scores
from demur.stats.sample import DividedRows, evenly_spaced, whole
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.losses import STEERABLE
from demur.stats.thresholds.solve import solve
from demur.store.policies.choice_file import read_choice
from demur.store.policies.ledger_file import Marks, marks_of
from demur.store.policies.policy_file import bind_promises, read_policy
from demur.store.results.metrics_file import UnmetGoal
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.answer_peaks import answers_for
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import read_scores

CONFIDENCE = 0.95  # of a promised rate among the goals for comparison
NO_HAND = "the rows' labels are a judge's, and only demur calibrate corrects them by those of hands"


def read_comparison(
    folder: RunFolder, model: Fingerprint, also: Sequence[str], limit: int | None
) -> Comparison:
    """Read rows, scores and policy, and choose the other policies on the calibrate split.

    Raises PolicyError if the policy was made for another model than `model`, ArtifactError if the
    scores were, or if no record names the rows that the calibrator was fitted on.
    """
    policy = read_policy(folder.policy)
    # A policy on mapped scores (rewrites, a cascade) has a fingerprint of their own convention.
    seen = replace(model, logprobs=policy.fingerprint.logprobs) if policy.fingerprint else model
    policy.require_model(seen)
    examples = evenly_spaced(read_policy_rows(folder, "test"), limit)
    rows = _scored(folder, "test", whole(examples), policy, seen)
    choice = read_choice(folder.calibrator)
    if choice is None and policy.calibrator != IDENTITY:
        raise ArtifactError(
            f"{folder.policy} carries a calibrator, and no {folder.calibrator.name} says which "
            "rows it was fitted on",
            f"calibrate again: demur calibrate {folder.root}",
        )
    # only on rows that the calibrator was not fitted on does a promise about thresholds hold
    unseen = left_rows(folder)
    calibrate = _scored(folder, "calibrate", unseen, policy, seen)
    goal = str(folder.require("calibrate").settings.get("goal", policy.name))
    calibrated = (goal, str(folder.policy.relative_to(folder.root)), policy)
    others, unmet = _others(folder, policy, calibrate, ("natural", *also), marks_of(unseen.left))
    # Natural, calibrated, the others. The natural policy needs no data, so that it is always there.
    in_order = [others[0], calibrated, *others[1:]]
    compared = [
        ComparedPolicy(goal=g, file=f, policy=p, choice_N=decide_many(p, rows.table.logp_NC).sent_N)
        for g, f, p in in_order
    ]
    followed = answers_for(folder, "test", policy.monitor)
    return Comparison(
        examples=tuple(examples),
        rows=rows,
        raw=rows
        if seen == model
        else label_scores(examples, policy.taxonomy, read_scores(folder.scores("test"))[0]),
        calibrate=calibrate,
        policy=policy,
        choice=choice,
        compared=tuple(compared),
        unmet=unmet,
        answers=() if followed is None else followed.scored(rows.table.ids),
    )


def _scored(
    folder: RunFolder,
    split: Literal["calibrate", "test"],
    examples: DividedRows,
    policy: Policy,
    model: Fingerprint,
) -> LabelledScores:
    path = decided_scores(folder, split, policy.fingerprint)
    table, made_by = read_scores(path)
    if differing := made_by.differences(model):
        raise ArtifactError(
            f"{path} was made by another model: {', '.join(differing)} differ",
            "score again with this model: demur score",
        )
    return label_scores(examples.left, policy.taxonomy, table, examples.taught)


def with_answers(
    folder: RunFolder, split: Literal["calibrate", "test"], policy: Policy, rows: LabelledScores
) -> LabelledScores:
    """The rows with the peaks of their answers, where a policy's monitor may be counted on them."""
    followed = answers_for(folder, split, policy.monitor)
    if followed is None:
        return rows
    if split == "calibrate":
        return join_answers(rows, followed.peaks, sampled=followed.sampled)
    return replace(rows, answers=followed.peaks.select(rows.table.ids))


def _others(
    folder: RunFolder,
    policy: Policy,
    calibrate: LabelledScores,
    goals: Sequence[str],
    marks: Marks,
) -> tuple[list[tuple[str, str, Policy]], tuple[UnmetGoal, ...]]:
    """Choose a policy per goal: (goal, file, policy) of each, and the goals that no threshold meets
    on the calibrate split, whose rows have these marks.

    Raises GoalError on a goal that cannot be read, or that does not fit the rule.
    """
    digest = digest_json(
        [digest_file(folder.split("calibrate")), digest_file(folder.scores("calibrate"))]
    )
    judged = bool(folder.require("calibrate").settings.get("human_labels"))
    found, unmet = [], []
    for asked in map(parse_goals, goals):
        text = "; ".join(goal.text for goal in asked)
        before = _template(policy, asked, text)
        rows = calibrate
        if any(goal.midway for goal in asked):
            rows = with_answers(folder, "calibrate", policy, calibrate)
        if judged and any(goal.promised for goal in asked):
            unmet.append(UnmetGoal(goal=text, reason=NO_HAND))
            continue
        try:
            request = CertifyRequest(
                ledger=folder.ledger,
                goals=asked,
                before=before,
                options=CertifyOptions(confidence=CONFIDENCE),
                marks=marks,
            )
            chosen = _solved(request, rows, digest)
        except (GoalInfeasible, DataError) as e:
            unmet.append(UnmetGoal(goal=text, reason=e.message))
            continue
        # "false_refusal <= 0.02" -> policies/false-refusal-0.02.json
        slug = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
        file = folder.stage("evaluate").relative_to(folder.root) / "policies" / f"{slug}.json"
        found.append((text, str(file), bind_promises(chosen)))
    return found, tuple(unmet)


def _solved(request: CertifyRequest, calibrate: LabelledScores, digest: str) -> Policy:
    """Solve for the goals. Promises for comparison are attempts on the calibrate rows like any
    other.
    """
    goals, before = request.goals, request.before
    return certify_counted(
        replace(request, data=scored_rows_digest(calibrate)),
        lambda options: solve(goals, before, calibrate, options, data_digest=digest),
    )


def _template(policy: Policy, goals: Sequence[Goal], name: str) -> Policy:
    """The calibrated policy without thresholds, overrides, limits and promises; without a band
    too, where no goal bounds what is deferred.

    For the natural goal also without calibrator and monitor: that policy is the model left to
    itself.
    """
    # The solver cannot set thresholds of every rule: those it cannot get the default rule.
    calibrator = IDENTITY if isinstance(goals[0], Natural) else policy.calibrator
    rule = policy.rule if policy.rule in STEERABLE else "heaviest"
    free = tuple(
        replace(c, threshold=NEVER, override=None, limits=None, curve=()) for c in policy.categories
    )
    bands = any(isinstance(goal, DeferralRate) for goal in goals)
    monitor = None if isinstance(goals[0], Natural) else policy.monitor
    made = replace(
        policy,
        name=name,
        rule=rule,
        categories=free,
        calibrator=calibrator,
        promises=(),
        monitor=monitor,
    )
    return made if bands else made.without_bands()
