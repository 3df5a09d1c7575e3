"""The scores of a run's splits as a cascade gives them: the front's where it is sure, else the
model's stored ones.
"""

from __future__ import annotations

from demur.base.errors import ArtifactError, DataError
from demur.base.files import digest_file
from demur.core.cascade.front import cascade_scores
from demur.core.example import Split
from demur.core.fingerprint import Fingerprint
from demur.core.score import ScoreTable
from demur.core.training.seen import seen_rows
from demur.store.models.front_file import front_file, front_of
from demur.store.models.seen_file import front_seen, read_seen
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores


def read_cascade_scores(folder: RunFolder, split: Split) -> tuple[ScoreTable, Fingerprint]:
    """Compute the cascade's scores of a split, and its fingerprint. The model is not loaded.

    Raises ArtifactError if the run has no front of the model that scored the split.
    """
    # The model's stored scores stand in for the model: rows that the front hands over are looked up
    # in the table, at the places in at_M.
    table, model = read_scores(folder.scores(split))
    front, digest = front_of(folder, model)
    prompts = {e.id: e.prompt for e in read_examples(folder.split(split))}
    if missing := [i for i in table.ids if i not in prompts]:
        raise ArtifactError(
            f"{folder.scores(split)} scores {missing[0]!r}, which is not in the split",
            "score again: demur score",
        )
    asked = [prompts[i] for i in table.ids]
    logp_NC, _ = cascade_scores(front, asked, lambda at_M: table.logp_NC[at_M])
    return ScoreTable(ids=table.ids, logp_NC=logp_NC), model.behind(digest)


def require_unseen_by_front(folder: RunFolder, split: Split) -> None:
    """Raise DataError if a run's front was made from rows of a split, ArtifactError if there is no
    front.
    """
    # Near-duplicates count as well: the front decides them with what it learnt of the other.
    folder.require("distil")
    seen = read_seen(front_seen(folder), digest_file(front_file(folder)))
    if found := seen_rows(seen, read_examples(folder.split(split))):
        raise DataError(
            f"the {split} split: the front of the cascade was made from {found.text}: what is "
            "counted on them holds of no new request",
            "make the front again, which leaves them out: demur distil RUN --traffic FILE",
        )
