"""A run as Python sees it: its folder and config, its policy and its trained model.

What needs more than the command line's imports is imported where it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from demur.base.errors import ConfigError
from demur.core.policy import Policy
from demur.core.taxonomy import Taxonomy

if TYPE_CHECKING:
    from demur.assembly.run import RunEngine, Workspace
    from demur.store.run import Stage


class Run:
    """A run folder with its config, under its own policy or one that it keeps beside it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._engine: RunEngine | None = None

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.workspace.folder.root

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories and their control tokens."""
        return self.workspace.config.taxonomy

    @property
    def policy(self) -> Policy:
        """The calibrated policy. Raises ArtifactError if there is none, or if it is out of date."""
        from demur.store.policies.policy_file import read_policy

        self.workspace.folder.require_fresh("calibrate")
        return read_policy(self.workspace.folder.policy)

    @property
    def engine(self) -> RunEngine:
        """The trained model; its weights are loaded with the first prompt, once per Run."""
        if self._engine is None:
            from demur.assembly.run import RunEngine

            self._engine = RunEngine(self.workspace)
        return self._engine

    @property
    def done(self) -> tuple[Stage, ...]:
        """The stages that have finished."""
        from demur.store.run import STAGES

        return tuple(stage for stage in STAGES if self.workspace.folder.receipt(stage) is not None)

    def __repr__(self) -> str:
        return (
            f"Run({str(self.path)!r}, engine {self.workspace.config.engine}, done: "
            f"{', '.join(self.done) or '-'})"
        )


def open_run(folder: str | Path, policy: str | None = None) -> Run:
    """Open the run in a folder. policy: the name of one that it keeps beside its own.

    Raises ArtifactError if there is no run, ConfigError if it keeps no such policy.
    """
    from demur.assembly.run import Workspace, reopen

    workspace = reopen(Path(folder))
    if policy is None:
        return Run(workspace)
    if policy not in (names := workspace.folder.policy_names):
        raise ConfigError(
            f"{folder} keeps no policy {policy!r}",
            f"policies beside its own: {', '.join(names) or 'none'}",
        )
    return Run(Workspace(workspace.folder.named(policy), workspace.config))
