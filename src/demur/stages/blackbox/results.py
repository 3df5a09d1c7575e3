"""What the page of a black-box run says, worked out. Shapes: N test rows."""

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
from demur.stats.calibration.views import view
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.measure import Errors, auroc, errors_of, refusal_log_odds
from demur.stats.points import Bin, Resampling, auroc_interval, reliability_bins
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
OFTEN = 5  # train prompts: an n-gram in fewer says more about them than about the model


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """The probabilities on the test rows."""

    auroc: tuple[float, float, float]  # with its 95 % interval
    brier: float
    log_loss: float
    # calibration error over BINS bins of equal mass, debiased; interval
    error: tuple[float, float, float]
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """An n-gram and what it says."""

    words: str
    weight: float  # the coefficient: above 0, it speaks for declining
    declined: int  # train prompts with it that were declined
    prompts: int  # train prompts with it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlackboxRun:
    """A black-box run."""

    summary: BlackboxFile
    details: dict[str, str | int | float | bool]  # of demur.json: the recipe and its trials
    splits: dict[Split, tuple[int, int]]  # (declined, all) rows
    base_brier: float  # of the test rows' own base rate
    before: Quality
    after: Quality | None  # through the policy's calibrator; None without one
    policy: Policy | None  # None before calibrate, and if it was made for another predictor
    stale: bool  # there is such a policy
    errors: Errors | None  # what the policy does on the test rows
    terms: tuple[Term, ...]  # OFTEN prompts or more hold them; from "declined" to "answered"


def read_blackbox_run(folder: RunFolder, taxonomy: Taxonomy) -> BlackboxRun:
    """Read a run up to score.

    Raises ArtifactError if a stage has not finished or was changed since, DataError, naming rows,
    if the predictor was fitted on rows that it is measured on.
    """
    for stage in ("data", "train", "score"):
        folder.require(stage)
    require_unseen_splits(folder, ("calibrate", "test"))
    splits = {s: read_examples(folder.split(s)) for s in SPLITS}
    table, fingerprint = read_scores(folder.scores("test"))
    rows, groups = label_scores(splits["test"], taxonomy, table), [e.group for e in splits["test"]]
    policy = read_policy(folder.policy) if folder.receipt("calibrate") else None
    stale = policy is not None and policy.fingerprint != fingerprint
    policy = None if stale else policy
    should_N = rows.label_N != 0
    plain = refusal_log_odds(natural(taxonomy), rows)
    calibrated = policy is not None and policy.calibrator != IDENTITY
    classifier, _ = read_text_classifier(folder.model / PREDICTOR)
    return BlackboxRun(
        summary=read_summary(BlackboxFolder(folder).summary),
        details=read_model_file(folder.model).details,
        splits={
            s: (sum(e.label is not None for e in found), len(found)) for s, found in splits.items()
        },
        base_brier=float(should_N.mean() * (1.0 - should_N.mean())),
        before=_quality(should_N, plain, groups),
        after=_quality(should_N, refusal_log_odds(policy, rows), groups)
        if policy and calibrated
        else None,
        policy=policy,
        stale=stale,
        errors=_errors(policy, rows) if policy else None,
        terms=terms_of(classifier, splits["train"]),
    )


def _errors(policy: Policy, rows: LabelledScores) -> Errors:
    return errors_of(rows.label_N != 0, decide_many(policy, rows.table.logp_NC).choice_N > 0)


def _quality(should_N: Bools, log_odds_N: Doubles, groups: Sequence[str | None]) -> Quality:
    p_N = 1.0 / (1.0 + np.exp(-np.clip(log_odds_N, -50.0, 50.0)))
    seen = view("declined", p_N, should_N)
    binned = cells(seen, "mass", BINS)
    area = auroc(should_N, log_odds_N).value
    names = [f"group {g}" if g is not None else f"row {n}" for n, g in enumerate(groups)]
    group_N = np.unique(names, return_inverse=True)[1].astype(np.int64)
    low, high = error_interval(seen, binned, "l1", BOOTSTRAP, group_N)
    return Quality(
        auroc=(area, *auroc_interval(should_N, log_odds_N, groups, BOOTSTRAP)),
        brier=binary_score(seen),
        log_loss=binary_score(seen, "log"),
        error=(max(binned.debiased_l1(), 0.0), low, high),
        bins=reliability_bins(should_N, p_N, BINS),
    )


def terms_of(classifier: TextClassifier, train: Sequence[Example]) -> tuple[Term, ...]:
    """The n-grams of OFTEN or more train prompts with their coefficients, those that speak for
    declining first.
    """
    found: list[Term] = []
    for fitted in classifier.views:
        held, declined = _counts(fitted, train)
        found += [
            Term(
                words=_shown(fitted, term),
                weight=float(fitted.weight_V[at]),
                declined=declined[term],
                prompts=n,
            )
            for term, n in held.items()
            if n >= OFTEN and (at := fitted.place.get(term)) is not None
        ]
    return tuple(sorted(found, key=lambda t: (-t.weight, t.words)))


def _counts(fitted: FittedView, train: Sequence[Example]) -> tuple[Counter[str], Counter[str]]:
    """In how many train prompts each n-gram stands, and in how many declined ones."""
    held: Counter[str] = Counter()
    declined: Counter[str] = Counter()
    for e in train:
        terms = set(fitted.view.terms(prompt_text(e.prompt)))
        held.update(terms)
        if e.label is not None:
            declined.update(terms)
    return held, declined


def _shown(fitted: FittedView, term: str) -> str:
    """An n-gram as people read it; a placed one says in which sentence it stands."""
    if fitted.view.words != "placed":
        return term
    place, _, words = term.partition(" ")
    return f"{words} ({('1st', '2nd', 'later')[int(place)]} sentence)"
