"""The choice of thresholds: the policy without them, the labelled rows, and the call of the solver
that the settings name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from demur.base.errors import DataError
from demur.base.files import digest_file
from demur.core.example import Example
from demur.core.fingerprint import Fingerprint
from demur.core.goals.attempts import parse_spend
from demur.core.goals.goal import Goal
from demur.core.policy import GENERATE, CategoryPolicy, Policy
from demur.core.settings import CalibrateSettings, Method
from demur.core.taxonomy import Taxonomy
from demur.core.threshold import NEVER
from demur.stages.attempts import CertifyRequest, certify_counted, scored_rows_digest
from demur.stages.calibrate.calibrator import FittedCalibrator
from demur.stages.calibrate.inputs import Inputs
from demur.stats.labelled import (
    UNCHECKED,
    LabelledScores,
    label_scores,
    promised_for,
    unlabelled_rows,
)
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.curve import with_curves
from demur.stats.thresholds.solve import solve, solve_by_probabilities
from demur.stats.thresholds.traffic import solve_on_traffic
from demur.store.policies.ledger_file import marks_of, marks_of_texts
from demur.store.results.monitor_file import read_feedback
from demur.store.scores.tables import read_requests, read_scores


def template(config: CalibrateSettings, taxonomy: Taxonomy, fingerprint: Fingerprint) -> Policy:
    """The policy before its thresholds are chosen: nothing is refused. Raises TaxonomyError on an
    unknown category.
    """
    # Iterating over any of these gives category names.
    named = (
        config.inactive,
        config.override,
        config.locked,
        config.limits,
        config.on_refuse,
        config.translations,
    )
    for name in chain.from_iterable(named):
        taxonomy.index(name)
    categories = tuple(
        CategoryPolicy(
            active=name not in config.inactive,
            locked=name in config.locked,
            limits=config.limits.get(name),
            # never, or as near to it as the category's range allows
            threshold=config.limits[name][1] if name in config.limits else NEVER,
            on_refuse=config.on_refuse.get(name, GENERATE),
            translations=tuple(config.translations.get(name, {}).items()),
        )
        for name in taxonomy.names
    )
    return Policy(
        name=config.name,
        taxonomy=taxonomy,
        rule=config.rule,
        categories=categories,
        fingerprint=fingerprint,
    )


def labelled(
    config: CalibrateSettings,
    examples: Sequence[Example],
    fitted: FittedCalibrator,
    taxonomy: Taxonomy,
) -> LabelledScores:
    """The rows left by the calibrator, with the mix to promise for and the hand labels of a file.

    If every row has a hand label, they replace the judge's labels, and no rate needs a correction.
    Raises DataError on a label of a row
    that is not in the calibrate split, TaxonomyError on an unknown label.
    """
    rows = label_scores(fitted.left, taxonomy, fitted.table, fitted.taught)
    rows = promised_for(rows, config.mix)
    path = config.human_labels
    if path is None:
        return rows
    labels, known = read_feedback(path, taxonomy), {e.id for e in examples}
    if unknown := [i for i in labels if i not in known]:
        raise DataError(
            f"{path}: {len(unknown)} labelled rows are not in the calibrate split, first "
            f"{unknown[0]!r}",
            "label a random sample of data/calibrate.jsonl, by its ids",
        )
    # UNCHECKED where a row has no hand label; labels are columns: 0 = respond.
    hand_N = np.array(
        [taxonomy.column(labels[i].label) if i in labels else UNCHECKED for i in rows.table.ids]
    )
    if (hand_N != UNCHECKED).all():
        return replace(rows, label_N=hand_N)
    return replace(rows, hand_N=hand_N)


def certify_request(
    config: CalibrateSettings,
    inputs: Inputs,
    before: Policy,
    examples: Sequence[Example],
    fallback: Policy | None,
) -> CertifyRequest:
    """What is to be certified on these rows, and the ledger in which it counts."""
    return CertifyRequest(
        ledger=inputs.folder.ledger,
        goals=inputs.goals,
        before=before,
        options=_how(config, inputs.goals, fallback),
        marks=marks_of(examples),
        spend=None if config.spend is None else parse_spend(config.spend),
    )


def choose(
    config: CalibrateSettings, request: CertifyRequest, rows: LabelledScores, digest: str
) -> Policy:
    """Choose the thresholds that meet the goals, with labels, with probabilities in their place, or
    on traffic. digest: of the inputs, which promises carry.
    """
    goals, before = request.goals, request.before
    if config.cost_from == "probabilities":
        return solve_by_probabilities(goals, before, rows, data_digest=digest)
    if config.traffic is not None:
        return _on_traffic(config.traffic, request, rows, digest)
    return certify_counted(
        replace(request, data=request.data or scored_rows_digest(rows)),
        lambda options: solve(goals, before, rows, options, data_digest=digest),
    )


def _on_traffic(path: Path, request: CertifyRequest, rows: LabelledScores, digest: str) -> Policy:
    """Meet the goals on traffic. Its rows are told by their ids: it has no prompts."""
    table, fingerprint = read_scores(path)
    request.before.require_model(fingerprint)
    requests = read_requests(path)
    traffic = unlabelled_rows(table, requests.sessions, requests.counts)
    request = replace(request, data=digest_file(path), marks=marks_of_texts(table.ids))
    policy = certify_counted(
        request,
        lambda options: solve_on_traffic(
            request.goals,
            request.before,
            traffic,
            confidence=options.confidence,
            data_digest=digest,
        ),
    )
    # The curves' error rates need labels, which only the calibrate rows have.
    return with_curves(policy, rows)


def _how(
    config: CalibrateSettings, goals: Sequence[Goal], fallback: Policy | None
) -> CertifyOptions:
    """The settings of the solver.

    method = "auto" means one shared threshold for a single goal that is not about rows to be
    answered, with any on_failure; for other goals, and beside a judge, the solver chooses.
    """
    single = len(goals) == 1 and goals[0].monotone and not goals[0].of_answerable
    alone = config.method == "auto" and single and config.human_labels is None
    method: Method = "shared" if alone else config.method
    on_failure = f"keep:{fallback.name}" if fallback else config.on_failure
    shares = config.shares or None
    return CertifyOptions(
        confidence=config.confidence,
        method=method,
        seed=config.seed,
        shares=shares,
        on_failure=on_failure,
        kept=fallback,
    )
