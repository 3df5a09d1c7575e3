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
from demur.base.files import digest_file, write_bytes
from demur.core.example import Example
from demur.core.fingerprint import Fingerprint
from demur.core.goals.attempts import parse_spend
from demur.core.goals.goal import Goal
from demur.core.policy import GENERATE, CategoryPolicy, Policy
from demur.core.settings import CalibrateSettings, Method
from demur.core.taxonomy import Taxonomy
from demur.core.threshold import ALWAYS, NEVER
from demur.stages.attempts import CertifyRequest, certify_counted, scored_rows_digest
from demur.stages.calibrate.calibrator import FittedCalibrator
from demur.stages.calibrate.inputs import Inputs
from demur.stats.labelled import (
    UNCHECKED,
    LabelledScores,
    label_scores,
    promised_for,
)
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.curve import with_curves
from demur.stats.thresholds.solve import solve, solve_by_probabilities
from demur.stats.thresholds.traffic import solve_on_traffic
from demur.stats.traffic.mix import (
    UnlabelledTraffic,
    promised_for_traffic,
    require_apart,
    traffic_of,
)
from demur.store.policies.ledger_file import marks_of, marks_of_texts
from demur.store.results.monitor_file import read_feedback
from demur.store.run import RunFolder
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
        config.on_defer,
        config.defer_text,
        config.defer_translations,
    )
    for name in chain.from_iterable(named):
        taxonomy.index(name)
    # never, or as near to it as the category's range allows
    strictest = {name: config.limits.get(name, (ALWAYS, NEVER))[1] for name in taxonomy.names}
    categories = tuple(
        CategoryPolicy(
            active=name not in config.inactive,
            locked=name in config.locked,
            limits=config.limits.get(name),
            threshold=strictest[name],
            # nothing is deferred until goals say from where on
            defer_threshold=strictest[name] if name in config.on_defer else None,
            on_defer=config.on_defer.get(name),
            defer_text=config.defer_text.get(name, ""),
            defer_translations=tuple(config.defer_translations.get(name, {}).items()),
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
    before: Policy,
) -> LabelledScores:
    """The rows left by the calibrator, with the mix to promise for, stated or of traffic, and the
    hand labels of a file.

    If every row has a hand label, they replace the judge's labels, and no rate needs a correction.
    Raises DataError on a label of a row
    that is not in the calibrate split, TaxonomyError on an unknown label.
    """
    taxonomy = before.taxonomy
    rows = label_scores(fitted.left, taxonomy, fitted.table, fitted.taught)
    rows = promised_for(rows, config.mix)
    if config.mix_by is not None and config.traffic is not None:
        traffic = _read_traffic(config.traffic, before)
        require_apart(traffic, [e.id for e in examples])
        rows = promised_for_traffic(rows, config.mix_by, traffic, taxonomy.choices)
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


def keep_traffic(config: CalibrateSettings, folder: RunFolder) -> list[Path]:
    """Keep the traffic whose mix is promised for in the run, so that `demur verify` can count it
    again; remove that of an earlier calibration. Returns the files written.
    """
    if config.mix_by is None or config.traffic is None:
        folder.traffic.unlink(missing_ok=True)
        return []
    if config.traffic.resolve() != folder.traffic.resolve():
        write_bytes(folder.traffic, config.traffic.read_bytes())
    return [folder.traffic]


def certify_request(
    config: CalibrateSettings,
    inputs: Inputs,
    before: Policy,
    examples: Sequence[Example],
    fallback: Policy | None,
) -> CertifyRequest:
    """What is to be certified on these rows, and the ledger in which it counts."""
    marks = marks_of(examples)
    if config.mix_by is not None and config.traffic is not None:
        # an attempt on these requests, too
        marks = np.union1d(marks, marks_of_texts(read_scores(config.traffic)[0].ids))
    return CertifyRequest(
        ledger=inputs.folder.ledger,
        goals=inputs.goals,
        before=before,
        options=_how(config, inputs.goals, fallback),
        marks=marks,
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
    if config.traffic is not None and config.mix_by is None:
        return _on_traffic(config.traffic, request, rows, digest)
    return certify_counted(
        replace(request, data=request.data or scored_rows_digest(rows)),
        lambda options: solve(goals, before, rows, options, data_digest=digest),
    )


def _read_traffic(path: Path, before: Policy) -> UnlabelledTraffic:
    """The scores of unlabelled requests. Raises PolicyError on those of another model."""
    table, model = read_scores(path)
    before.require_model(model)
    return traffic_of(table, read_requests(path), str(path), digest_file(path))


def _on_traffic(path: Path, request: CertifyRequest, rows: LabelledScores, digest: str) -> Policy:
    """Meet the goals on traffic. Its rows are told by their ids: it has no prompts."""
    traffic = _read_traffic(path, request.before)
    marks = marks_of_texts(traffic.rows.table.ids)
    request = replace(request, data=traffic.digest, marks=marks)
    policy = certify_counted(
        request,
        lambda options: solve_on_traffic(
            request.goals,
            request.before,
            traffic.rows,
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
    first = [goal for goal in goals if not goal.midway]
    single = len(first) == 1 and first[0].monotone and not first[0].of_answerable
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
