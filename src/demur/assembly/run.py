"""Runs: a folder with the config that it keeps, and the engine that the config names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from demur.assembly.config import RunConfig, config_from
from demur.assembly.predictors import PREDICTORS, check_engine, make_predictor, require_writer
from demur.assembly.wiring import ENGINES, import_by_name
from demur.base.arrays import Floats
from demur.base.boundary import read_json
from demur.base.errors import ArtifactError
from demur.base.files import write_json
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import AnswerSampling
from demur.core.policy import Policy
from demur.core.ports import (
    Answer,
    Progress,
    Prompt,
    Scorer,
    WatchedAnswer,
    no_progress,
    watcher_of,
)
from demur.store.models.front_file import front_of
from demur.store.models.upgrade import upgrade_model_file
from demur.store.run import RunFolder, Stage


@dataclass(frozen=True, slots=True)
class Workspace:
    """A run folder and its resolved config: what every command on a run begins with."""

    folder: RunFolder
    config: RunConfig
    # of a cascade that is served, its front's digest; None: the model alone
    front: str | None = None

    def write_config(self) -> None:
        """Write config.json into the run folder. Raises ArtifactError if it cannot be written."""
        write_json(self.folder.root / "config.json", self.config.resolved())

    def with_settings(self, stage: Stage, **settings: Any) -> Workspace:
        """Return the run with other settings of one stage; those that are None stay unchanged."""
        given = {name: value for name, value in settings.items() if value is not None}
        return self.with_stage(stage, replace(getattr(self.config, stage), **given))

    def with_stage(self, stage: Stage, settings: Any) -> Workspace:
        """Return the run with other settings for one stage.

        A policy that is calibrated under another name is kept beside the run's own.
        """
        config, folder = replace(self.config, **{stage: settings}), self.folder
        if config.calibrate.name != self.config.calibrate.name:
            folder = folder.named(config.calibrate.name)
        return Workspace(folder, config)


def create(config: RunConfig, root: Path) -> Workspace:
    """Make a run folder with this config. Raises ArtifactError if it cannot be written."""
    workspace = new_workspace(config, root)
    workspace.write_config()
    return workspace


def new_workspace(config: RunConfig, root: Path) -> Workspace:
    """Return a run for this config; nothing is written before `write_config`.

    Raises ConfigError or TaxonomyError if the engine does not fit the config.
    """
    check_engine(config)
    if config.threads is not None:
        # OpenMP reads it when torch is imported, which has not happened yet; children inherit it.
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
    return Workspace(RunFolder(root), config)


def reopen(root: Path) -> Workspace:
    """Open the run in a folder. Raises ArtifactError if there is none."""
    path = root / "config.json"
    if not path.is_file():
        raise ArtifactError(
            f"{root} is not a run folder: it has no config.json", "make one: demur run CONFIG.toml"
        )
    return new_workspace(config_from(read_json(path), str(path), base=root), root)


class CascadeScored(Scorer, Protocol):
    """A scorer that counts what its front decided: demur.engines.cascade.scorer."""

    asked: int
    by_front: int


class RunEngine:
    """The trained model of a run as Scorer and Generator, loaded with the first prompt.

    Until then the fingerprint comes from demur.json: finished stages are found without torch.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._file = upgrade_model_file(workspace.folder)
        self._fingerprint = self._file.fingerprint

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint that training wrote; the model files were checked against the receipt."""
        return self._fingerprint

    @cached_property
    def loaded(self) -> Any:
        """The engine with its weights loaded.

        Raises ArtifactError if its fingerprint differs from that of demur.json.
        """
        folder = self._workspace.folder.model
        # compared before it scores anything: promises hold for the model that was calibrated only
        engine = self._load()
        differences = engine.fingerprint.differences(self._fingerprint)
        if differences:
            raise ArtifactError(
                f"{folder} loads with another {', '.join(differences)} than its demur.json states",
                "restore the folder, or train again: demur train",
            )
        return engine

    def _load(self) -> Any:
        config, folder = self._workspace.config, self._workspace.folder.model
        if config.engine in PREDICTORS:
            return make_predictor(config, folder, self._fingerprint.tokens)
        # only this engine computes on threads of this process
        own = {"threads": config.threads} if config.engine == "hf" else {}
        return import_by_name(config.engine, ENGINES, "engine")(
            model=folder,
            tokens=self._fingerprint.tokens,
            keep_history=bool(self._file.details.get("keep_history", True)),
            max_new_tokens=config.evaluate.max_new_tokens,
            **own,
        )

    def scorer_for(self, policy: Policy) -> RunEngine | CascadeScored:
        """Return this engine, or the cascade that the policy was calibrated with.

        Raises ArtifactError if the run does not have the front that the policy names.
        """
        digest = policy.fingerprint.front if policy.fingerprint else None
        return self if digest is None else self.cascade(digest)

    def cascade(self, digest: str) -> CascadeScored:
        """Return the run's front in front of this engine.

        Raises ArtifactError if the run has no front with this digest.
        """
        front, digest = front_of(self._workspace.folder, self._fingerprint, digest)
        from demur.engines.cascade.scorer import CascadeScorer

        return CascadeScorer(front=front, digest=digest, model=self)

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """See core.ports.Scorer."""
        scores: Floats = self.loaded.logp(prompts, progress)
        return scores

    def branches(
        self,
        prompts: Sequence[Prompt],
        columns: Sequence[Sequence[int]],
        progress: Progress = no_progress,
    ) -> list[dict[int, Answer]]:
        """See core.ports.Generator."""
        require_writer(self._workspace.config, "writing answers")
        answers: list[dict[int, Answer]] = self.loaded.branches(prompts, columns, progress)
        return answers

    def watched(
        self,
        prompts: Sequence[Prompt],
        sampling: AnswerSampling,
        prefixes: Sequence[str] = (),
        progress: Progress = no_progress,
    ) -> list[WatchedAnswer]:
        """See core.ports.AnswerWatcher. Raises EngineError if the engine has no position scores."""
        require_writer(self._workspace.config, "writing answers")
        return watcher_of(self.loaded).watched(prompts, sampling, prefixes, progress)
