"""evaluate: policy, model, test split -> texts generated and judged once, and the errors of each
policy.

1. comparison: the run's policy, the natural one, and one for each goal in `evaluate.also`, whose
   thresholds are chosen on the calibrate split, decide the test rows.
2. texts: the texts that these policies send, and those after the likeliest refusal token and after
   respond, are written and judged, unless they lie in evaluate/branches.parquet already.
3. measures, consistency, corrected: errors of decisions and of texts, agreement of texts with their
   control token, and judged rates corrected by hand labels, as rows of metrics.json.
4. stops: what the policy's monitor does to the followed answers of the test rows.
"""

from __future__ import annotations

from dataclasses import asdict

from demur.base.errors import DataError
from demur.base.files import digest_file, digest_json
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Generator, Judge, Progress, no_progress
from demur.core.settings import EvaluateSettings
from demur.stages.evaluate import consistency, measures
from demur.stages.evaluate.chosen_policies import read_comparison, with_answers
from demur.stages.evaluate.comparison import Comparison
from demur.stages.evaluate.everyday import evaluate_everyday
from demur.stages.evaluate.stops import StopTable, leaked_words, stop_tables
from demur.stages.evaluate.table import (
    CORRECTED_HEADER,
    HEADER,
    PolicyTable,
    corrected_rows,
    table_rows,
)
from demur.stages.evaluate.texts import JudgedComparison, join_texts, needed, sent
from demur.stages.texts import generate_missing, judge_again, judge_fixed
from demur.stats.contradictions import Contradiction, contradicted_promises
from demur.stats.labelled import label_scores
from demur.store.answers.branch_cache import BranchCache
from demur.store.answers.labels import NO_LABELS, labels_digest, read_labels
from demur.store.fingerprint_json import fingerprint_json
from demur.store.models.seen_file import require_unseen_splits
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.results.metrics_file import Evaluation, read_metrics, write_metrics
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.answer_peaks import answers_path
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import read_scores

__all__ = [
    "CORRECTED_HEADER",
    "HEADER",
    "Config",
    "Evaluation",
    "PolicyTable",
    "StopTable",
    "corrected_rows",
    "current_evaluation",
    "evaluate_everyday",
    "leaked_words",
    "run",
    "stop_tables",
    "table_rows",
]


Config = EvaluateSettings


def run(
    config: Config,
    generator: Generator,
    judge: Judge,
    folder: RunFolder,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure the policies on the test split. Progress counts texts that are judged again, then
    prompts for which texts are generated.

    Writes evaluate/branches.parquet, evaluate/policies/*.json and evaluate/metrics.json. Texts made
    before by this model for these prompts are not generated again; another judge reads them again,
    and texts that could not be scored are judged again even where nothing else changed. Raises
    PolicyError if the policy was made for another model, ArtifactError if the scores were, or if an
    earlier stage has not finished or is out of date, DataError, naming rows, if the model was
    trained on rows that it would be measured on.
    """
    made_from = _inputs(folder, generator.fingerprint)
    require_unseen_splits(folder, ("calibrate", "test"))
    if config.labels:
        made_from["labels"] = labels_digest(config.labels)
    settings = _settings(config, judge)
    # A current evaluation is done, unless texts of it could not be scored: another try may.
    found = (
        read_metrics(folder.metrics) if folder.is_current("evaluate", settings, made_from) else None
    )
    if found and not any(texts.unscored for texts in found.branches.values()):
        return found
    comparison = read_comparison(folder, generator.fingerprint, config.also, config.limit)
    cache = _cache(config, folder, generator.fingerprint)
    judged = join_texts(comparison.sample(config.texts), judge, cache)
    judge_again(judged.texts, progress)
    # Nothing else has changed: a metrics file of the same verdicts is current.
    if found and measures.verdicts(judged.comparison, cache) == found.branches:
        return found
    columns = needed(judged.comparison, config.branches)
    wanted = zip(judged.texts.rows.values(), columns, strict=True)
    generate_missing(judged.texts, generator, wanted, progress)
    judge_fixed(judged.texts, sent(judged))
    cache.merge()
    evaluation = _evaluation(config, comparison, judged, generator.fingerprint)
    ours = {
        folder.root / c.file: c.policy
        for c in comparison.compared
        if c.policy is not comparison.policy
    }
    for path, policy in ours.items():
        write_policy(path, policy)
    write_metrics(folder.metrics, evaluation)
    folder.finish("evaluate", settings, made_from, [folder.branches, folder.metrics, *ours])
    return evaluation


def contradictions(folder: RunFolder) -> tuple[Contradiction, ...]:
    """The certified promises of the run's policy that its test rows contradict."""
    policy = read_policy(folder.policy)
    examples = read_policy_rows(folder, "test")
    table, _ = read_scores(decided_scores(folder, "test", policy.fingerprint))
    rows = label_scores(examples, policy.taxonomy, table)
    rows = with_answers(folder, "test", policy, rows)
    return contradicted_promises(policy, rows, folder.require("calibrate").settings)


def current_evaluation(
    folder: RunFolder, model: Fingerprint
) -> tuple[Evaluation, dict[str, object]] | None:
    """The finished evaluation, with any settings, and these settings.

    None without one, or if its inputs have changed since. Hand labels are not read again: their
    counts are in it. Raises ArtifactError if an earlier stage has not finished.
    """
    receipt = folder.receipt("evaluate")
    if receipt is None:
        return None
    made_from = _inputs(folder, model)
    if "labels" in receipt.made_from:
        made_from["labels"] = receipt.made_from["labels"]
    if not folder.is_current("evaluate", receipt.settings, made_from):
        return None
    return read_metrics(folder.metrics), receipt.settings


def _settings(config: Config, judge: Judge) -> dict[str, object]:
    """The settings for the receipt, as JSON has them."""
    settings: dict[str, object] = {
        **asdict(config),
        "also": list(config.also),
        "judge": judge.version,
        "labels": str(config.labels) if config.labels else None,
    }
    del settings["judge_settings"]  # the judge's version covers those that may change a verdict
    del settings["everyday"]  # a file of their own: see evaluate_everyday
    # No key without a limit on texts, so that runs evaluated before there was one stay finished.
    if config.texts is None:
        del settings["texts"]
    return settings


def _inputs(folder: RunFolder, model: Fingerprint) -> dict[str, str]:
    """The digests of all inputs, for the receipt."""
    folder.require("data")
    folder.require("score")
    sources = folder.require("calibrate").settings.get("sources", [])
    splits = [
        path(split) for path in (folder.split, folder.scores) for split in ("calibrate", "test")
    ]
    calibrated = [folder.policy, *([folder.calibrator] if folder.calibrator.exists() else [])]
    answers = answers_path(folder, "test")
    # Stops are measured on them. Without a monitor nothing reads them.
    if answers.exists() and read_policy(folder.policy).monitor is not None:
        calibrated.append(answers)
    made_from = {str(f.relative_to(folder.root)): digest_file(f) for f in (*splits, *calibrated)}
    # No key without sources, so that runs evaluated before there were any stay finished.
    if sources:
        made_from["sources"] = digest_json(sources)
    return {
        **made_from,
        "model": digest_json(fingerprint_json(model)),
    }


def _cache(config: Config, folder: RunFolder, model: Fingerprint) -> BranchCache:
    """The branches on disk of this model, length of texts, and test split."""
    origin = {
        "model": fingerprint_json(model),
        "max_new_tokens": config.max_new_tokens,
        "prompts": digest_file(folder.split("test")),
    }
    cache = BranchCache(
        file=folder.branches,
        parts=folder.stage("evaluate") / "parts",
        tokens=model.tokens,
        origin=digest_json(origin),
        # written when another policy of the run was evaluated
        others=(RunFolder(folder.root).branches,),
    )
    cache.load()
    return cache


def _evaluation(
    config: Config, comparison: Comparison, judged: JudgedComparison, model: Fingerprint
) -> Evaluation:
    labels = (
        read_labels(config.labels, comparison.policy.taxonomy.choices)
        if config.labels
        else NO_LABELS
    )
    # `read` has the rows with texts: all test rows, or a sample of them.
    read, cache = judged.comparison, judged.texts.cache
    elsewhere = len(labels.verdicts.keys() - set(cache.known))
    if elsewhere and elsewhere == len(labels.verdicts):
        raise DataError(
            f"{config.labels}: none of its {elsewhere} labels is of a text of this evaluation",
            "label texts of this run: demur judge draw",
        )
    return Evaluation(
        model=model,
        judge=judged.texts.judge.version,
        max_new_tokens=config.max_new_tokens,
        choices=comparison.policy.taxonomy.choices,
        limit=config.limit,
        test_rows=len(comparison.examples),
        text_rows=len(read.examples) if read is not comparison else None,
        calibrate_rows=len(comparison.calibrate.label_N),
        policies=tuple(
            measures.policy_metrics(comparison, n, judged, labels)
            for n in range(len(comparison.compared))
        ),
        unmet=comparison.unmet,
        always_refuse=measures.always_refuse(comparison.rows),
        ranking=measures.rankings(comparison),
        calibration=measures.calibration(comparison),
        leftover=measures.leftover(comparison),
        branches=measures.verdicts(read, cache),
        forced=consistency.forced(read, cache, labels),
        twins=consistency.twin_rows(read, cache, labels),
        labels=len(labels.verdicts) - elsewhere,
        labels_elsewhere=elsewhere,
    )
