"""verify: a policy and the run that made it -> whether its promises follow from the rows of that
run.

No figure of the policy's file is taken for true:

1. The receipt of the calibration names the files and settings, and their digests are compared.
2. Decisions are made again from the run's scores, and errors counted by the run's labels.
3. The bound of each promise is computed from these counts, and compared with its level.
4. The ledger says what confidence all attempts on these rows leave by now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demur.base.errors import DataError, GoalError
from demur.base.files import digest_file, digest_json
from demur.core.goals.attempts import Attempts
from demur.core.goals.goal import Promise
from demur.core.policy import Policy
from demur.stages.arrival import METHOD as ANYTIME
from demur.stages.arrival import in_known_order, left_rows
from demur.stages.attempts import attempts_on
from demur.stats.evidence import Recount, recount, rows_digest
from demur.stats.labelled import LabelledScores, join_answers, label_scores, promised_for
from demur.stats.missing import with_missing
from demur.stats.sample import DividedRows
from demur.stats.thresholds.problem import Arrived
from demur.stats.traffic.mix import promised_for_traffic, traffic_of
from demur.store.answers.blackbox_file import prompts_without_outcome
from demur.store.policies.ledger_file import marks_of
from demur.store.policies.policy_file import read_policy
from demur.store.policies.trust import Trust
from demur.store.run import Receipt, RunFolder
from demur.store.scores.answer_peaks import answers_path, read_answers
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import read_requests, read_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedPromise:
    """One promise, and its differences from a recount on the run."""

    promise: Promise
    counted: Recount | None  # the recount; None where it was impossible
    faults: tuple[str, ...]  # claims that do not follow from the run; empty: all do
    # all attempts on its rows by now, of the run's ledger; None where it has none
    attempts: Attempts | None = None


def run(path: Path, folder: RunFolder, trust: Trust) -> tuple[Policy, tuple[VerifiedPromise, ...]]:
    """Recount each promise that the policy's file calls certified; returns the policy, too.

    Raises PolicyError on a policy that cannot be read or is another model's, ArtifactError on a run
    without a calibration, or whose files have changed since.
    """
    receipt = _calibration(folder)
    folder.require("score")
    policy = read_policy(path, trust)
    sources: Any = receipt.settings.get("sources", ())
    divided, arrived = left_rows(folder, sources), None
    left = divided.left
    if receipt.settings.get("method") == ANYTIME:
        left, arrived = in_known_order(folder, receipt.settings, left)
    rows = _rows(policy, folder, replace(divided, left=left), receipt.settings)
    by_now = attempts_on(folder.ledger, marks_of(left))
    # "not certified" is what reading makes of a claimed certificate that the file does not bear
    # out.
    claimed = [p for p in policy.promises if p.status in ("certified", "not certified")]
    found = (_verified(policy, p, rows, receipt, arrived) for p in claimed)
    return policy, tuple(_with_attempts(v, by_now) for v in found)


def _calibration(folder: RunFolder) -> Receipt:
    """The receipt of the calibration. Raises ArtifactError unless its files are intact; its policy
    alone may have been edited, for run finds out whether it was.
    """
    receipt = folder.receipt("calibrate")
    others = (
        [name for name in receipt.made if folder.root / name != folder.policy] if receipt else []
    )
    if receipt is None or others:
        return folder.require("calibrate", *others)
    folder.require_fresh("calibrate")
    return receipt


def _rows(
    policy: Policy, folder: RunFolder, divided: DividedRows, settings: Mapping[str, Any]
) -> LabelledScores:
    """These rows with the scores that the policy decides on."""
    table, model = read_scores(decided_scores(folder, "calibrate", policy.fingerprint))
    policy.require_model(model)
    rows = label_scores(divided.left, policy.taxonomy, table, divided.taught)
    rows = promised_for(rows, settings.get("mix", {}))
    if (mix_by := settings.get("mix_by")) is not None:
        seen, model = read_scores(folder.traffic)
        policy.require_model(model)
        file, requests = folder.traffic, read_requests(folder.traffic)
        traffic = traffic_of(seen, requests, str(file), digest_file(file))
        rows = promised_for_traffic(rows, mix_by, traffic, policy.taxonomy.choices)
    if policy.monitor is not None:
        answers = read_answers(answers_path(folder, "calibrate"))
        answers.require_monitor(policy.monitor)
        rows = join_answers(rows, answers.peaks, sampled=answers.sampled)
    return with_missing(rows, prompts_without_outcome(folder))


def _with_attempts(verified: VerifiedPromise, by_now: Attempts | None) -> VerifiedPromise:
    """Add the attempts on its rows by now, and a fault where the promise counts more of them."""
    said, faults = verified.promise.attempts, verified.faults
    known = 0 if by_now is None else by_now.count
    # a promise on other rows, or on a file, is at fault already
    if said is not None and verified.counted is not None and said.count > known:
        faults = (
            *faults,
            f"it counts {said.count} attempts on its rows, the ledger of the run {known}",
        )
    return replace(verified, faults=faults, attempts=by_now)


def _verified(
    policy: Policy,
    promise: Promise,
    rows: LabelledScores,
    receipt: Receipt,
    arrived: Arrived | None,
) -> VerifiedPromise:
    """Compare a promise with the digests of the receipt and with its recount on the rows."""
    digest, faults = digest_json(receipt.made_from), list[str]()
    if promise.fault is not None:
        faults.append(promise.fault)
    if promise.data_digest != digest:
        faults.append(
            f"it was made from other rows: {promise.data_digest[:19]}..., the run has "
            f"{digest[:19]}..."
        )
    # Hand labels, and traffic that rates are met on, are files outside the run: only their digests
    # are in it.
    settings: Mapping[str, Any] = receipt.settings
    outside = ("human_labels",) if settings.get("mix_by") else ("human_labels", "traffic")
    elsewhere = [name for name in outside if settings.get(name)]
    if settings.get("mix_by") and receipt.made_from["traffic"] not in receipt.made.values():
        faults.append("the traffic that the run keeps is not the one that it was made from")
    if elsewhere:
        faults.append(
            f"it cannot be counted again: it rests on {elsewhere[0]}, which the run does not keep"
        )
        return VerifiedPromise(promise=promise, counted=None, faults=tuple(faults))
    try:
        counted = recount(policy, promise, rows, (int(settings.get("seed", 0)), 0), arrived)
    except (DataError, GoalError) as e:
        return VerifiedPromise(
            promise=promise,
            counted=None,
            faults=(*faults, f"it cannot be counted again: {e.message}"),
        )
    return VerifiedPromise(
        promise=promise, counted=counted, faults=(*faults, *_differences(promise, counted))
    )


def _differences(promise: Promise, counted: Recount) -> list[str]:
    """The claims of a promise about its evidence that the recount contradicts."""
    found, rate = [], promise.rate
    # The counts first; where they agree, a digest tells whether the rows do.
    if rate != counted.rate:
        said = "nothing" if rate is None else f"{rate.hits} errors of {rate.of} rows"
        found.append(f"it says {said}, the run has {counted.rate.hits} of {counted.rate.of}")
    elif promise.rows is not None and promise.rows != rows_digest(counted.ids):
        found.append("it was counted on other rows of the run than those it names")
    if promise.level is None or promise.confidence is None:
        found.append("it has no level or no confidence")
    elif counted.upper > promise.level:
        found.append(
            f"these counts allow {counted.upper:.4f} at {promise.confidence:.0%}, above "
            f"{promise.level:g}"
        )
    return found
