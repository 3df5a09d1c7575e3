"""The results of a black-box run, for its page: figures on the test rows, and the predictor's
n-grams. Shapes: N test rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.core.calibrator import IDENTITY
from demur.core.classifiers.text import FittedView, TextClassifier
from demur.core.decision import decide_many
from demur.core.example import SPLITS, Example, Split
from demur.core.policy import Policy, natural
from demur.core.predictor import prompt_text
from demur.core.taxonomy import Taxonomy
from demur.stats.calibration.binned import cells
from demur.stats.calibration.proper import binary_score
from demur.stats.calibration.uncertainty import error_interval
from demur.stats.calibration.views import binary_view
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.measure import ErrorRates, auroc, errors_of, refusal_log_odds, row_units
from demur.stats.points import Bin, Resampling, auroc_interval, reliability_bins
from demur.stats.units import RowUnits
from demur.store.answers.blackbox_file import BlackboxFile, BlackboxFolder, read_summary
from demur.store.models.model_file import read_model_file
from demur.store.models.seen_file import require_unseen_splits
from demur.store.models.text_model_file import PREDICTOR, read_text_classifier
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

BOOTSTRAP = Resampling(seed=0)
BINS = 10
OFTEN = 5  # least train prompts of an n-gram on the page: a coefficient of fewer rests on chance


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Measurements of the probabilities on the test rows."""

    auroc: tuple[float, float, float]  # with its 95 % interval
    brier: float
    log_loss: float
    # calibration error over BINS bins of equal mass, debiased; interval
    error: tuple[float, float, float]
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """An n-gram of the predictor, and how often prompts with it were declined."""

    words: str
    weight: float  # the coefficient: above 0, it raises the probability of declining
    declined: int  # train prompts with it that were declined
    prompts: int  # train prompts with it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlackboxRun:
    """The results of a black-box run."""

    summary: BlackboxFile
    details: dict[str, str | int | float | bool]  # of demur.json: the recipe and its trials
    splits: dict[Split, tuple[int, int]]  # (declined, all) rows
    base_brier: float  # Brier score of predicting the test rows' own base rate
    before: Quality
    after: Quality | None  # through the policy's calibrator; None without one
    rows: LabelledScores  # the test rows
    policy: Policy | None  # None before calibrate, and if it was made for another predictor
    stale: bool  # whether there is a policy for another predictor
    errors: ErrorRates | None  # of the policy on the test rows
    terms: tuple[Term, ...]  # OFTEN prompts or more hold them; from "declined" to "answered"


def read_blackbox_run(folder: RunFolder, taxonomy: Taxonomy) -> BlackboxRun:
    """Read a run that is scored, and measure its predictor.

    Raises ArtifactError if a stage has not finished or was changed since, DataError, naming rows,
    if the predictor was fitted on rows that it is measured on.
    """
    for stage in ("data", "train", "score"):
        folder.require(stage)
    require_unseen_splits(folder, ("calibrate", "test"))
    splits = {s: read_examples(folder.split(s)) for s in SPLITS}
    table, fingerprint = read_scores(folder.scores("test"))
    rows = label_scores(splits["test"], taxonomy, table)
    policy = read_policy(folder.policy) if folder.receipt("calibrate") else None
    # A policy for an earlier predictor is named on the page, but decides nothing there.
    stale = policy is not None and policy.fingerprint != fingerprint
    policy = None if stale else policy
    should_N = rows.label_N != 0
    plain = refusal_log_odds(natural(taxonomy), rows)
    calibrated = policy is not None and policy.calibrator != IDENTITY
    errors = None
    if policy is not None:
        errors = errors_of(
            should_N, decide_many(policy, rows.table.logp_NC).refuses_N, row_units(rows)
        )
    classifier, _ = read_text_classifier(folder.model / PREDICTOR)
    return BlackboxRun(
        summary=read_summary(BlackboxFolder(folder).summary),
        details=read_model_file(folder.model).details,
        splits={
            s: (sum(e.label is not None for e in found), len(found)) for s, found in splits.items()
        },
        base_brier=float(should_N.mean() * (1.0 - should_N.mean())),
        before=_quality(should_N, plain, row_units(rows)),
        after=_quality(should_N, refusal_log_odds(policy, rows), row_units(rows))
        if policy and calibrated
        else None,
        rows=rows,
        policy=policy,
        stale=stale,
        errors=errors,
        terms=terms_of(classifier, splits["train"]),
    )


def _quality(should_N: Bools, log_odds_N: Doubles, units: RowUnits) -> Quality:
    """Measure log-odds of declining. Bootstraps draw whole units."""
    # exp must not overflow; a probability below e**-50 might as well be 0.
    p_N = 1.0 / (1.0 + np.exp(-np.clip(log_odds_N, -50.0, 50.0)))
    seen = binary_view("declined", p_N, should_N)
    binned = cells(seen, "mass", BINS)
    area = auroc(should_N, log_odds_N, units.count_N).value
    low, high = error_interval(seen, binned, "l1", BOOTSTRAP, units.group_N)
    return Quality(
        auroc=(area, *auroc_interval(should_N, log_odds_N, units)),
        brier=binary_score(seen),
        log_loss=binary_score(seen, "log"),
        # The debiased estimate may be negative, an error cannot.
        error=(max(binned.debiased_l1(), 0.0), low, high),
        bins=reliability_bins(should_N, p_N, units, BINS),
    )


def terms_of(classifier: TextClassifier, train: Sequence[Example]) -> tuple[Term, ...]:
    """The n-grams of OFTEN or more train prompts with their coefficients, the largest first."""
    found: list[Term] = []
    for fitted in classifier.views:
        held, declined = _counts(fitted, train)
        found += [
            Term(
                words=_term_text(fitted, term),
                weight=float(fitted.weight_V[at]),
                declined=declined[term],
                prompts=n,
            )
            for term, n in held.items()
            # an n-gram that occurs too rarely to be a feature has no place
            if n >= OFTEN and (at := fitted.place.get(term)) is not None
        ]
    return tuple(sorted(found, key=lambda t: (-t.weight, t.words)))


def _counts(fitted: FittedView, train: Sequence[Example]) -> tuple[Counter[str], Counter[str]]:
    """The number of train prompts, and of declined ones, that each n-gram occurs in."""
    held: Counter[str] = Counter()
    declined: Counter[str] = Counter()
    for e in train:
        # A set: an n-gram counts once a prompt.
        terms = set(fitted.view.terms(prompt_text(e.prompt)))
        held.update(terms)
        if e.label is not None:
            declined.update(terms)
    return held, declined


def _term_text(fitted: FittedView, term: str) -> str:
    """An n-gram for the page; one of a "placed" view with the sentence that it stands in."""
    if fitted.view.words != "placed":
        return term
    place, _, words = term.partition(" ")
    return f"{words} ({('1st', '2nd', 'later')[int(place)]} sentence)"
