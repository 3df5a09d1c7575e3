"""watch: live scores, and labels of some of them -> whether the promises of a policy still have the rows behind them.

Its state lies in one file, so that it can be called batch after batch and stopped at any time: what the monitors say
holds however often one looks (demur.stats.drift). Each request counts once: a file of scores or a label that was
counted before is not counted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demur.core.decision import decide_many
from demur.core.errors import ArtifactError, DataError, DemurError, GoalError, PolicyError
from demur.core.goal import parse_goal
from demur.core.policy import Policy
from demur.core.score import Floats, ScoreTable
from demur.core.taxonomy import Taxonomy
from demur.stats.board import board_of, losses_of, one_per_group
from demur.stats.drift.audit import Audit
from demur.stats.drift.compare import Shift, compare
from demur.stats.drift.martingale import Martingale
from demur.stats.drift.watch import Alarm, Monitor, Watched, begin, feedback, observe, watch
from demur.stats.labelled import LabelledScores, label_scores
from demur.store.files import digest_file
from demur.store.monitor_file import AuditRow, MonitorFile, SeriesRow, read_feedback, read_monitor, write_monitor
from demur.store.policy_file import RateRow, policy_digest, read_policy
from demur.store.rewritten import decided_scores
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.tables import read_scores

__all__ = [
    "Alarm",
    "Config",
    "Shift",
    "Sight",
    "Standing",
    "Watched",
    "begin_watching",
    "listen",
    "live_path",
    "run",
    "state_path",
    "take_in",
]

SUPPORTED = "supported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to look at. Raises GoalError on an alpha that is none."""

    scores: Path  # of live requests, in the order in which they came
    feedback: Path | None = None  # JSONL: {"id": ..., "label": "respond" or a category}, a random sample of them
    state: Path | None = None  # None: <run>/watch/state.json
    alpha: float = 0.05  # P(any false alarm) over the monitor's whole life
    seed: int = 0  # of the uniform numbers that break ties

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise GoalError(f"watch.alpha = {self.alpha} is not in (0, 1)", "0.05 is usual")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What was seen."""

    watched: tuple[Watched, ...]  # the policy's promises, in order
    shifts: tuple[Shift, ...]  # this file's scores beside the calibration scores; one look, p-values adjusted together
    monitor: Monitor  # with this file's scores and labels
    rows: int  # scores in this file
    new_rows: int  # of them counted now: all, or none if the file was counted before
    new_labels: int
    state: Path

    @property
    def supported(self) -> bool:
        """Whether nothing that was seen so far speaks against the policy. It does not say that the promises hold."""
        return not any(w.alarms for w in self.watched)


def verdict(watched: Watched) -> str:
    """ "supported", "no longer supported", or why there was nothing to support: "measured", "uncertified"."""
    return SUPPORTED if watched.promise.status == "certified" else watched.promise.status


def state_path(folder: RunFolder) -> Path:
    """Where the state is kept unless the caller says otherwise: <run>/watch/state.json"""
    return folder.root / "watch" / "state.json"


def live_path(folder: RunFolder, policy: Policy) -> Path:
    """Where a server keeps what it saw of one policy: <run>/watch/live-<its digest>.json"""
    return folder.root / "watch" / f"live-{policy_digest(policy).removeprefix('sha256:')[:12]}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A policy under watch between two batches of live scores, for a server that takes them in as they come."""

    policy: Policy
    folder: RunFolder  # the run that holds the calibration scores
    monitor: Monitor
    told: Monitor | None = None  # what `demur watch` counted of the same policy: labels, and requests of its own
    told_ns: int = 0  # when its state was written; 0: there was none

    @property
    def watched(self) -> tuple[Watched, ...]:
        """The policy's promises as they stand, with the alarms of both monitors."""
        ours = watch(self.policy.promises, self.monitor)
        if self.told is None:
            return ours
        pairs = zip(ours, watch(self.policy.promises, self.told), strict=True)
        return tuple(replace(t if t.alarms else o, alarms=(*o.alarms, *t.alarms)) for o, t in pairs)


def begin_watching(runs: Sequence[RunFolder], policy: Policy) -> Standing | None:
    """A policy as its live state left it, or afresh, from the first run with calibration scores of its model.

    None where nothing is promised or no run has such scores. Writes nothing. Raises ArtifactError on damaged files.
    """
    if not any(p.status == "certified" for p in policy.promises):
        return None
    for folder in runs:
        if not decided_scores(folder, "calibrate", policy.fingerprint).exists():
            continue
        try:
            reference_NC = _reference(folder, policy, seed=0)
        except PolicyError:  # scores of another model
            continue
        path = live_path(folder, policy)
        monitor = _monitor(_opened(path, policy, reference_NC), path)
        return listen(Standing(policy=policy, folder=folder, monitor=monitor))
    return None


def listen(standing: Standing) -> Standing:
    """The standing with what `demur watch` has written since. A state of another policy, or none, changes nothing.

    Raises ArtifactError if that state is damaged.
    """
    path = state_path(standing.folder)
    try:
        written_ns = path.stat().st_mtime_ns
    except FileNotFoundError:
        written_ns = 0
    if written_ns == standing.told_ns:
        return standing
    file = read_monitor(path) if written_ns else None
    if file is None or file.policy != policy_digest(standing.policy):
        return replace(standing, told_ns=written_ns)
    _require_whole(file, _file(standing.monitor, file.policy, (), ()), path)
    return replace(standing, told=_monitor(file, path), told_ns=written_ns)


def take_in(standing: Standing, logp_TC: Floats) -> Standing:
    """The standing after live scores, in order, with its state file written. Raises ScoreError on bad scores."""
    steps = standing.monitor.series[0].steps
    table = ScoreTable(ids=tuple(str(steps + t) for t in range(len(logp_TC))), logp_NC=logp_TC)
    monitor = _seen(standing.monitor, standing.policy, table, seed=0)
    state = live_path(standing.folder, standing.policy)
    write_monitor(state, _file(monitor, policy_digest(standing.policy), (), ()))
    return replace(standing, monitor=monitor)


def run(config: Config, folder: RunFolder) -> Sight:
    """Take in one file of scores, and labels of requests in it, and judge the promises of the run's policy.

    Raises PolicyError if the scores are another model's, ArtifactError if the state is damaged or of another policy,
    DataError on a label of an unknown request or without a live row, TaxonomyError on a label that is none.
    """
    folder.require("calibrate")
    policy, path = read_policy(folder.policy), config.state or state_path(folder)
    table, model = read_scores(config.scores)
    policy.require_model(model)
    reference_NC = _reference(folder, policy, config.seed)
    shifts = compare(policy, reference_NC, table.logp_NC)
    file = _opened(path, policy, reference_NC)
    monitor, batch, new_rows = _monitor(file, path), digest_file(config.scores), 0
    if batch not in file.batches:
        new_rows = len(table.ids)
        monitor = _seen(monitor, policy, table, config.seed)
    labels = _new_labels(config, file, table, policy.taxonomy)
    monitor = _told(monitor, policy, table, labels)
    batches = (*file.batches, *([batch] if new_rows else []))
    write_monitor(path, _file(monitor, file.policy, batches, (*file.labelled, *labels)))
    return Sight(
        watched=watch(policy.promises, monitor, config.alpha),
        shifts=shifts,
        monitor=monitor,
        rows=len(table.ids),
        new_rows=new_rows,
        new_labels=len(labels),
        state=path,
    )


def _reference(folder: RunFolder, policy: Policy, seed: int) -> Floats:
    """The scores of the policy's calibrate rows; of rows made from one another one, so that they are independent."""
    table, model = read_scores(decided_scores(folder, "calibrate", policy.fingerprint))
    policy.require_model(model)
    rows = label_scores(read_policy_rows(folder, "calibrate"), policy.taxonomy, table)
    alone_N = one_per_group(rows.group_N, np.ones(len(rows.label_N), dtype=bool), seed)
    return np.asarray(rows.table.logp_NC[alone_N], dtype=np.float32)


def _opened(path: Path, policy: Policy, reference_NC: Floats) -> MonitorFile:
    """The state in a file, or a new one. Raises ArtifactError if it is not of this policy."""
    digest = policy_digest(policy)
    fresh = _file(begin(policy, reference_NC), digest, (), ())
    if not path.exists():
        return fresh
    file = read_monitor(path)
    if file.policy != digest:
        raise ArtifactError(
            f"{path} watches another policy than {policy.name!r}: {file.policy[:19]}..., expected {digest[:19]}...",
            "a new policy is watched afresh: name another state file, or put this one away",
        )
    _require_whole(file, fresh, path)
    return file


def _require_whole(file: MonitorFile, fresh: MonitorFile, path: Path) -> None:
    """Raise ArtifactError unless a state watches what a new one would."""
    found, expected = _names(file), _names(fresh)
    if found != expected:
        raise ArtifactError(
            f"{path} is damaged: it watches {', '.join(found)}, expected {', '.join(expected)}",
            "restore it, or put it away: start afresh",
        )


def _names(file: MonitorFile) -> list[str]:
    return [*(s.series for s in file.series), *(f"{a.risk} <= {a.level:g}" for a in file.audits)]


def _monitor(file: MonitorFile, path: Path) -> Monitor:
    try:
        return Monitor(
            series=tuple(Martingale(**dict(row)) for row in file.series),
            audits=tuple(Audit(**{**dict(row), "rate": row.rate.to_core()}) for row in file.audits),
        )
    except DemurError as e:
        raise ArtifactError(f"{path} is damaged: {e.message}", "restore it, or put it away: start afresh") from None


def _file(monitor: Monitor, policy: str, batches: tuple[str, ...], labelled: tuple[str, ...]) -> MonitorFile:
    audits = tuple(
        AuditRow(risk=a.risk, level=a.level, rate=RateRow.from_core(a.rate), highest_log_e=a.highest_log_e)
        for a in monitor.audits
    )
    series = tuple(SeriesRow(**asdict(s)) for s in monitor.series)
    return MonitorFile(policy=policy, batches=batches, labelled=labelled, series=series, audits=audits)


def _seen(monitor: Monitor, policy: Policy, table: ScoreTable, seed: int) -> Monitor:
    """The monitor after live scores. What share of traffic is refused needs no labels, so its audit is told here."""
    rng = np.random.default_rng([seed, monitor.series[0].steps])  # other numbers for each batch, the same if repeated
    monitor = observe(monitor, table.logp_NC, rng.random((len(table.ids), len(monitor.series))))
    unlabelled = LabelledScores(table=table, label_N=np.zeros(len(table.ids), dtype=np.int64))
    for a in monitor.audits:
        if _of_traffic(a):
            monitor = feedback(monitor, a.risk, _errors(policy, a, unlabelled))
    return monitor


def _told(monitor: Monitor, policy: Policy, table: ScoreTable, labels: Mapping[str, str]) -> Monitor:
    """The monitor after labels of scored requests."""
    if not labels:
        return monitor
    label_N = np.array([policy.taxonomy.column(label) for label in labels.values()], dtype=np.int64)
    rows = LabelledScores(table=table.select(tuple(labels)), label_N=label_N)
    for a in monitor.audits:
        if not _of_traffic(a):
            monitor = feedback(monitor, a.risk, _errors(policy, a, rows))
    return monitor


def _new_labels(config: Config, file: MonitorFile, table: ScoreTable, taxonomy: Taxonomy) -> dict[str, str]:
    """Labels that have not been counted. Raises DataError on one of a request without a score here."""
    if config.feedback is None:
        return {}
    counted, scored = set(file.labelled), set(table.ids)
    labels = {i: label for i, label in read_feedback(config.feedback, taxonomy).items() if i not in counted}
    unknown = [i for i in labels if i not in scored]
    if unknown:
        raise DataError(
            f"{config.feedback}: {len(unknown)} requests have no score in {config.scores}, first {unknown[0]!r}",
            "give labels together with the scores of the same requests",
        )
    return labels


def _of_traffic(audit: Audit) -> bool:
    return audit.risk.startswith("refusal_rate")


def _errors(policy: Policy, audit: Audit, rows: LabelledScores) -> npt.NDArray[np.bool_]:
    """Per row that the promise speaks of, in order: whether the policy errs on it."""
    goal = parse_goal(f"{audit.risk} <= {audit.level!r}")
    board = board_of(policy, replace(rows, group_N=None), shared=False)
    try:
        (loss,) = losses_of([goal], board, 0)
    except DataError:  # none of these rows is of the promise's kind
        return np.zeros(0, dtype=bool)
    refused_N = decide_many(policy, rows.table.logp_NC).refuses_N
    wrong_N = loss.could_err_N & (refused_N if loss.when == "refused" else ~refused_N)
    return np.asarray(wrong_N[loss.among_N], dtype=bool)
