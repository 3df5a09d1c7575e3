"""A cache of branches: each is generated and judged once, and looked up for every policy."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demur.base.errors import ArtifactError
from demur.store.scores.tables import Branch, branches_origin, read_branches, write_branches


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchCache:
    """The branches of one origin (model, length of answers, prompts), by prompt id and control
    token.

    Their outcomes may be of several judges: each names its own. Parts are saved as they come, so a
    killed run loses at most one; `merge` joins them in one file.
    """

    file: Path  # of all branches, written by merge
    parts: Path  # the folder of the parts until then
    tokens: tuple[str, ...]  # control tokens by score column
    origin: str  # digest; files of another origin are left unread and overwritten by merge
    others: tuple[Path, ...] = ()  # more files to read branches of this origin from
    known: dict[tuple[str, int], Branch] = field(default_factory=dict)

    def load(self) -> None:
        """Read the branches on disk. Raises ArtifactError naming a damaged file."""
        # In the order of writing: a later outcome of the same branch takes the earlier one's place.
        for path in (*self.others, self.file, *sorted(self.parts.glob("*.parquet"))):
            if path.exists() and branches_origin(path) == self.origin:
                self._know(read_branches(path, self.tokens))

    def missing(self, prompt_id: str, columns: Sequence[int]) -> list[int]:
        """Those of the columns whose branch has yet to be generated."""
        return [c for c in columns if (prompt_id, c) not in self.known]

    def get(self, prompt_id: str, column: int) -> Branch:
        """One branch. Raises ArtifactError naming token and prompt if it was never generated."""
        branch = self.known.get((prompt_id, column))
        if branch is None:
            raise ArtifactError(
                f"no text after {self.tokens[column]!r} was generated for prompt {prompt_id!r}",
                'evaluate again with this policy in the list, or with branches = "all"',
            )
        return branch

    def add(self, branches: Sequence[Branch]) -> None:
        """Write branches as the next part file, and remember them."""
        taken = len(list(self.parts.glob("*.parquet")))
        write_branches(self.parts / f"{taken:05d}.parquet", branches, self.tokens, self.origin)
        self._know(branches)

    def merge(self) -> None:
        """Write all branches into `file`, then delete the parts."""
        # sorted, so that the same branches give the same bytes in whatever order they came
        rows = [self.known[key] for key in sorted(self.known)]
        write_branches(self.file, rows, self.tokens, self.origin)
        shutil.rmtree(self.parts, ignore_errors=True)

    def _know(self, branches: Sequence[Branch]) -> None:
        self.known.update({(b.id, b.column): b for b in branches})
