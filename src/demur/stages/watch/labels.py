"""Labels of scored requests: which of a file are counted, and why the others are not.

1. A label is of a request in one score file. The same id in another score file is another request:
   users number their requests by day.
2. Labels of one session are one unit of evidence, and a session is counted once.
3. Each label of a file is counted, or is in LabelCount under the reason why it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.base.errors import DataError
from demur.core.policy import Policy
from demur.stages.watch.batches import Batch, together
from demur.stages.watch.state import after_labels, session_key
from demur.stats.drift.monitor import Monitor
from demur.store.results.monitor_file import FeedbackRow, MonitorFile, read_feedback


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """What became of the labels of a file."""

    given: int = 0
    new: int = 0  # counted now
    # counted before: of the same request in the same score file, or without a score here
    before: int = 0
    late: int = 0  # not counted: their sessions were counted with labels given earlier
    repeated: int = 0  # of the new: their ids were counted in another score file, too
    unspoken: int = 0  # of the new: no promise speaks of them


def count_labels(
    path: Path | None,
    monitor: Monitor,
    file: MonitorFile,
    policy: Policy,
    batches: Sequence[Batch],
) -> tuple[Monitor, MonitorFile, LabelCount]:
    """Count the labels of a file, each once. path: None without one.

    batches: the score files that hold the requests. Raises DataError on a label of a request that
    has no score among these, and on sessions that do not fit; and what read_feedback raises.
    """
    if path is None:
        return monitor, file, LabelCount()
    given = read_feedback(path, policy.taxonomy)
    batch_by_id = {i: b.digest for b in batches for i in b.table.ids}
    earlier = {i for ids in (file.labelled, *file.labels.values()) for i in ids}
    # A file of labels may grow from day to day: those without a score here were counted before.
    if unknown := [i for i in given if i not in batch_by_id and i not in earlier]:
        raise DataError(
            f"{path}: {len(unknown)} requests have no score in the files given, first "
            f"{unknown[0]!r}",
            "give labels together with the scores of the same requests",
        )
    sessions = _sessions(path, given, batches)
    counted = {b.digest: _counted(file, b.digest) for b in batches}
    new = {
        i: row for i, row in given.items() if i in batch_by_id and i not in counted[batch_by_id[i]]
    }
    audited = set(file.audited)
    late = [i for i in new if sessions.get(i) in audited]
    for i in late:
        del new[i]
    monitor, unspoken = after_labels(monitor, policy, together(batches), new, sessions)
    count = LabelCount(
        given=len(given),
        new=len(new),
        before=len(given) - len(new) - len(late),
        late=len(late),
        repeated=len(new.keys() & earlier),
        unspoken=unspoken,
    )
    return monitor, _with_labels(file, {i: batch_by_id[i] for i in new}, sessions), count


def _counted(file: MonitorFile, digest: str) -> set[str]:
    """The ids of one score file whose labels were counted."""
    found = set(file.labels.get(digest, ()))
    # Older versions kept ids alone: each counts as one of any score file that they had counted.
    if digest in file.batches[: file.labelled_in]:
        found.update(file.labelled)
    return found


def _with_labels(
    file: MonitorFile, batch_by_id: Mapping[str, str], session_by_id: Mapping[str, str]
) -> MonitorFile:
    """The state with these labels counted."""
    labels = {digest: list(ids) for digest, ids in file.labels.items()}
    for i, digest in batch_by_id.items():
        labels.setdefault(digest, []).append(i)
    audited = dict.fromkeys(session_by_id[i] for i in batch_by_id if i in session_by_id)
    return file.model_copy(
        update={
            "labels": {digest: tuple(ids) for digest, ids in labels.items()},
            "audited": (*file.audited, *audited),
        }
    )


def _sessions(
    path: Path, given: Mapping[str, FeedbackRow], batches: Sequence[Batch]
) -> dict[str, str]:
    """The session of each labelled request that has one: of its score, or else of its label.

    Raises DataError where some labels name a session and others do not, and where a label and its
    score name two.
    """
    found = {
        i: s
        for b in batches
        for i, s in zip(b.table.ids, b.session_N, strict=True)
        if s is not None and i in given
    }
    named = {i: session_key("", row.session) for i, row in given.items() if row.session}
    if other := [i for i, s in named.items() if found.get(i, s) != s]:
        raise DataError(
            f"{path}: request {other[0]!r} is of session {given[other[0]].session!r}, its score is "
            "of another",
            "leave the session out where the scores have it",
        )
    bare = [i for i in given if i not in named and i not in found]
    if named and bare:
        raise DataError(
            f"{path}: {len(named)} labels name a session and {len(bare)} do not, first {bare[0]!r}",
            "name the session of every request; a request of no other session has one of its own",
        )
    return found | named
