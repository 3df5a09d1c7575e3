"""The compared policies, with the rows that they are compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from demur.base.arrays import Ints
from demur.core.example import Example
from demur.core.midway.followed import ScoredAnswer
from demur.core.policy import Policy
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.sample import evenly_spaced
from demur.store.policies.choice_file import CalibratorChoice
from demur.store.results.metrics_file import UnmetGoal


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComparedPolicy:
    """A policy of the comparison."""

    goal: str  # as it was given; of several, joined by "; "
    file: str  # relative to the run folder
    policy: Policy
    # what each test row gets, as a score column: its control token, or below 0 where it is deferred
    choice_N: Ints


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """The compared policies and their decisions, before any text is generated."""

    examples: tuple[Example, ...]  # N test rows
    rows: LabelledScores  # the same rows, with the scores that the policy decides on
    raw: LabelledScores  # the same rows as the model scored them
    # rows that thresholds are chosen on, without those that the calibrator was fitted on
    calibrate: LabelledScores
    policy: Policy  # the calibrated one
    choice: CalibratorChoice | None  # None without a calibrator
    compared: tuple[ComparedPolicy, ...]  # natural, calibrated, then the goals for comparison
    unmet: tuple[UnmetGoal, ...]
    # to the rows, in their order; empty where the policy's monitor can be counted on none
    answers: tuple[ScoredAnswer, ...] = ()

    def sample(self, count: int | None) -> Comparison:
        """The same comparison on at most `count` of the test rows, in even steps; None: on all."""
        at = evenly_spaced(range(len(self.examples)), count)
        if len(at) == len(self.examples):
            return self
        examples = tuple(self.examples[n] for n in at)
        rows, raw = (
            label_scores(examples, self.policy.taxonomy, r.table) for r in (self.rows, self.raw)
        )
        compared = tuple(replace(c, choice_N=c.choice_N[at]) for c in self.compared)
        return replace(
            self,
            examples=examples,
            rows=rows,
            raw=raw,
            compared=compared,
            answers=tuple(self.answers[n] for n in at) if self.answers else (),
        )
