"""evaluate/everyday.json: everyday prompts under the policy of a run, for people to read.

They are in no split. No threshold is chosen with them, no rate and no promise counts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from demur.base.boundary import Strict, read_json, validated
from demur.base.files import digest_file, write_json
from demur.core.taxonomy import RESPOND
from demur.core.training.seen import SeenBy
from demur.store.run import RunFolder

REFUSE = "refuse"  # expected of a prompt whose category the taxonomy does not have


class EverydayRow(Strict):
    """One prompt, the expected decision and the policy's."""

    id: str
    topic: str
    prompt: str
    expected: str  # "respond", a category, or "refuse"
    decided: str  # "respond", a category, or "defer: " and a category
    doubt: bool  # too much probability off the control tokens: refused at every threshold
    # by choice, as thresholds are compared with: after the calibrator
    probability: dict[str, float]
    text: str  # that follows the control token of the decision
    seen: SeenBy | None  # how the model knows the prompt from its training; None: it does not

    @property
    def right(self) -> bool:
        """Whether it is answered or declined as expected. The category does not matter."""
        return (self.decided == RESPOND) == (self.expected == RESPOND)


class Everyday(Strict):
    """All of them, in the order of the list."""

    format: Literal["demur.everyday/1"] = "demur.everyday/1"
    made_from: dict[str, str]  # digests of the policy file, the model and the list
    rows: tuple[EverydayRow, ...]

    @property
    def wrong(self) -> tuple[EverydayRow, ...]:
        """Those that are decided otherwise than expected."""
        return tuple(row for row in self.rows if not row.right)


def everyday_path(folder: RunFolder) -> Path:
    """evaluate/everyday.json"""
    return folder.stage("evaluate") / "everyday.json"


def write_everyday(folder: RunFolder, everyday: Everyday) -> None:
    """Write the file, atomically."""
    write_json(everyday_path(folder), everyday.model_dump(mode="json"))


def read_everyday(folder: RunFolder) -> Everyday | None:
    """Read the everyday prompts under the run's policy; None if they were never decided under it.

    Raises ArtifactError if the file is damaged.
    """
    path = everyday_path(folder)
    if not path.exists():
        return None
    found = validated(Everyday, read_json(path), str(path))
    # decisions of an earlier policy would pass for those of today's
    return found if found.made_from.get("policy") == digest_file(folder.policy) else None
