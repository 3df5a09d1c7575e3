"""evaluate: policy, model, test split -> texts generated and judged once, and what each policy
makes of them.

Every threshold is a look-up: a policy decides which control token a prompt gets, and the text that
follows each token (a branch) lies in evaluate/branches.parquet.
"""

from __future__ import annotations

from dataclasses import asdict

from demur.base.files import digest_file, digest_json
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Generator, Judge, Progress, no_progress
from demur.core.settings import EvaluateSettings
from demur.stages.evaluate import measures, words
from demur.stages.evaluate.compared import Case, read_case
from demur.stages.evaluate.everyday import ask as ask_everyday
from demur.stages.evaluate.table import CORRECTED_HEADER, HEADER, Block, corrected_rows, table_rows
from demur.stages.evaluate.texts import Judged, judged_texts, needed, sent
from demur.stages.texts import generate_missing, judge_again, judge_fixed
from demur.stats.contradictions import Contradiction, contradicted_promises
from demur.stats.labelled import label_scores
from demur.store.answers.branch_cache import BranchCache
from demur.store.answers.labels import NO_LABELS, labels_digest, read_labels
from demur.store.models.seen_file import require_unseen_splits
from demur.store.policies.policy_file import fingerprint_json, read_policy, write_policy
from demur.store.results.metrics_file import Evaluation, read_metrics, write_metrics
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import read_scores

__all__ = [
    "CORRECTED_HEADER",
    "HEADER",
    "Block",
    "Config",
    "Evaluation",
    "ask_everyday",
    "corrected_rows",
    "measured",
    "run",
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
    """Measure the policies on the test split. Progress counts prompts for which texts are
    generated.

    Writes evaluate/branches.parquet, evaluate/policies/*.json and evaluate/metrics.json. Texts made
    before by this model for these prompts are not generated again; another judge reads them again,
    and what could not be scored is judged again even where nothing else changed. Raises PolicyError
    if the policy was made for another model, ArtifactError if the scores were, or if an earlier
    stage has not finished or is out of date, DataError, naming rows, if the model was trained on
    rows that it would be measured on.
    """
    made_from = _inputs(folder, generator.fingerprint)
    require_unseen_splits(folder, ("calibrate", "test"))
    if config.labels:
        made_from["labels"] = labels_digest(config.labels)
    settings: dict[str, object] = {
        **asdict(config),
        "also": list(config.also),
        "judge": judge.version,
    }
    del settings["judge_settings"]  # the judge's version says what of it matters
    del settings["everyday"]  # asked beside the evaluation: see everyday.ask
    if config.texts is None:  # left out where there are all: runs evaluated before stay finished
        del settings["texts"]
    settings["labels"] = str(config.labels) if config.labels else None
    found = (
        read_metrics(folder.metrics) if folder.is_current("evaluate", settings, made_from) else None
    )
    if found and not any(texts.unscored for texts in found.branches.values()):
        return found
    case = read_case(folder, generator.fingerprint, config.also, config.limit)
    cache = _cache(config, folder, generator.fingerprint)
    judged = judged_texts(case.sample(config.texts), judge, cache)
    judge_again(judged.texts, progress)
    # Nothing else has changed: a metrics file of the same verdicts is current.
    if found and measures.verdicts(judged.case, cache) == found.branches:
        return found
    columns = needed(judged.case, config.branches)
    wanted = zip(judged.texts.rows.values(), columns, strict=True)
    generate_missing(judged.texts, generator, wanted, progress)
    judge_fixed(judged.texts, sent(judged))
    cache.merge()
    evaluation = _evaluation(config, case, judged, generator.fingerprint)
    ours = {folder.root / c.file: c.policy for c in case.compared if c.policy is not case.policy}
    for path, policy in ours.items():
        write_policy(path, policy)
    write_metrics(folder.metrics, evaluation)
    folder.finish("evaluate", settings, made_from, [folder.branches, folder.metrics, *ours])
    return evaluation


def against(folder: RunFolder) -> tuple[Contradiction, ...]:
    """The certified promises of the run's policy that its test rows speak against."""
    policy = read_policy(folder.policy)
    examples = read_policy_rows(folder, "test")
    table, _ = read_scores(decided_scores(folder, "test", policy.fingerprint))
    rows = label_scores(examples, policy.taxonomy, table)
    return contradicted_promises(policy, rows, folder.require("calibrate").settings)


def measured(folder: RunFolder, model: Fingerprint) -> tuple[Evaluation, dict[str, object]] | None:
    """The finished evaluation and the settings it was made with, whatever they are.

    None if there is none, or if what it was made from has changed since. Hand labels are not read
    again: their counts are in it. Raises ArtifactError if an earlier stage has not finished.
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


def _inputs(folder: RunFolder, model: Fingerprint) -> dict[str, str]:
    folder.require("data")
    folder.require("score")
    sources = folder.require("calibrate").settings.get("sources", [])
    splits = [
        path(split) for path in (folder.split, folder.scores) for split in ("calibrate", "test")
    ]
    calibrated = (folder.policy, *([folder.calibrator] if folder.calibrator.exists() else []))
    made_from = {str(f.relative_to(folder.root)): digest_file(f) for f in (*splits, *calibrated)}
    # left out where there are none: runs evaluated before there were sources stay finished
    if sources:
        made_from["sources"] = digest_json(sources)
    return {
        **made_from,
        "model": digest_json(fingerprint_json(model)),
    }


def _cache(config: Config, folder: RunFolder, model: Fingerprint) -> BranchCache:
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


def _evaluation(config: Config, case: Case, judged: Judged, model: Fingerprint) -> Evaluation:
    labels = (
        read_labels(config.labels, case.policy.taxonomy.choices) if config.labels else NO_LABELS
    )
    read, cache = judged.case, judged.texts.cache
    return Evaluation(
        model=model,
        judge=judged.texts.judge.version,
        max_new_tokens=config.max_new_tokens,
        choices=case.policy.taxonomy.choices,
        limit=config.limit,
        test_rows=len(case.examples),
        text_rows=len(read.examples) if read is not case else None,
        calibrate_rows=len(case.calibrate.label_N),
        policies=tuple(
            measures.policy_metrics(case, n, judged, labels) for n in range(len(case.compared))
        ),
        unmet=case.unmet,
        always_refuse=measures.always_refuse(case.rows),
        ranking=measures.rankings(case),
        calibration=measures.calibration(case),
        leftover=measures.leftover(case),
        branches=measures.verdicts(read, cache),
        forced=words.forced(read, cache, labels),
        twins=words.twin_rows(read, cache, labels),
        labels=sum(key in labels.verdicts for key in cache.known),
    )
