"""The stages of a run with their sources, engine and judge: for `demur run` and single stages.

1. `check` finds what would stop a stage later, before anything is written.
2. `perform` runs one stage, or finds it done, and reports to an Observer.
3. A stage is imported when it is performed, so that one does not import another's statistics.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from demur.assembly.config import RunConfig, build_sources
from demur.assembly.judges import JudgeSettings, build_judge, read_judge_settings
from demur.assembly.predictors import GUARDS, PREDICTORS, make_predictor, require_writer
from demur.assembly.run import RunEngine, Workspace
from demur.assembly.wiring import JUDGES, SOURCES, explain_missing_extra, import_by_name
from demur.base.errors import ConfigError, DataError, GoalError, TaxonomyError
from demur.base.files import sweep
from demur.base.text import duration
from demur.core.example import Example
from demur.core.goals.parse import parse_goals
from demur.core.goals.reader import lines_of
from demur.core.policy import Policy
from demur.core.ports import Progress, TrainedModel, no_progress
from demur.core.predictor import PROMPTS
from demur.core.settings import NONE as NO_CALIBRATOR
from demur.core.taxonomy import Taxonomy
from demur.core.training.settings import TrainSettings
from demur.core.training.summary import summary_lines
from demur.store.rows import read_examples
from demur.store.run import STAGES, RunFolder, Stage

if TYPE_CHECKING:
    from demur.stages.data import DataSummary
    from demur.store.results.metrics_file import Evaluation


class Observer(Protocol):
    """Receiver of a run's notes and progress, such as a terminal."""

    def note(self, text: str) -> None:
        """Report one line on what was found or done."""

    def bar(self, label: str, doing: str = "") -> AbstractContextManager[Progress]:
        """Return a context that reports the progress of one stage. doing: what takes its time."""


class SilentObserver:
    """An observer that reports nothing."""

    def note(self, text: str) -> None:
        """Ignore a line."""

    # both arguments are for those that show something
    def bar(self, label: str, doing: str = "") -> AbstractContextManager[Progress]:  # noqa: ARG002
        """Return a context whose progress is ignored."""
        return nullcontext(no_progress)


class Steps:
    """Performs the stages of one run.

    observer: receives notes and progress. processes: how many train together; it is no setting of
    the stage, since a model is not out of date for the number that trained it. again: whether the
    rows may be split anew although a model was trained on them.
    """

    def __init__(
        self,
        workspace: Workspace,
        observer: Observer | None = None,
        *,
        processes: int | None = None,
        again: bool = False,
    ) -> None:
        self._observer = observer or SilentObserver()
        self._config = workspace.config
        self._folder = workspace.folder
        self._workspace = workspace
        self._processes = processes
        self._again = again

    @cached_property
    def engine(self) -> RunEngine:
        """The trained model, shared by all stages. Raises ArtifactError before it is trained."""
        return RunEngine(self._workspace)

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise the errors that these stages would raise later: see the other checks.

        Raises ConfigError also if several processes were started.
        """
        # set by torchrun in each of its processes
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "several processes cannot share `demur run`",
                "launch only the training so: torchrun ... -m demur train RUN",
            )
        self.check_goals()
        self.check_base()
        if "evaluate" in stages:
            self.check_judge()

    def check_judge(self) -> JudgeSettings:
        """Read the settings of the run's judge. Raises ConfigError for them or its name.

        No model is loaded.
        """
        config = self._config.evaluate
        import_by_name(config.judge, JUDGES, "judge")
        settings = read_judge_settings(
            config.judge_settings, (), self._folder.stage("evaluate") / "labels.sqlite"
        )
        return replace(settings, tokens=self._config.taxonomy.tokens)

    def check_base(self) -> None:
        """Raise EngineError if the base model of training that is due cannot be used.

        Raises MissingDependency if the base comes in a package that is not installed. A GGUF file
        is unpacked here.
        """
        from demur.stages import train

        config = self._config
        if config.engine in PREDICTORS or train.is_trained(
            config.train, config.taxonomy, self._folder
        ):
            return
        if config.train.base != "tiny":
            import_by_name("demur.engines.training.base_model.find:check_base", {}, "check")(
                config.train.base, config.train.chat_template
            )
        train.base_seen(config.train)

    def check_goals(self) -> None:
        """Check the goals, and that the files of calibrate and evaluate exist.

        Raises GoalError for a goal that cannot be read, TaxonomyError for one about an unknown
        category, ConfigError for a missing file.
        """
        config = self._config
        for goal in parse_goals(config.calibrate.goal):
            for name in goal.categories:
                config.taxonomy.index(name)
        files = {
            "calibrate.human_labels": config.calibrate.human_labels,
            "calibrate.traffic": config.calibrate.traffic,
            "evaluate.labels": config.evaluate.labels,
            "evaluate.judge_settings": config.evaluate.judge_settings,
        }
        for name, path in files.items():
            if path is not None and not path.exists():
                raise ConfigError(f"{name} = {path} does not exist", "correct it, or leave it out")

    def perform(self, stage: Stage) -> Any:
        """Run one stage, or find it done; return what its `run` returns."""
        sweep(self._folder.root)  # half-written files that a killed run left
        before, start = _made_at(self._folder, stage), time.monotonic()
        with self._observer.bar(stage, self._doing(stage)) as progress:
            result = getattr(self, f"_{stage}")(progress)
        # a stage that was run has written its receipt anew
        done = before is not None and _made_at(self._folder, stage) == before
        self._observer.note(
            f"{stage:<10} "
            f"{'already done' if done else f'done in {duration(time.monotonic() - start)}'}"
        )
        return result

    def _doing(self, stage: Stage) -> str:
        """Return what takes the time in a stage, for its progress bar; "" for a quick stage."""
        config = self._config
        base = "a model from nothing" if config.train.base == "tiny" else config.train.base
        return {
            "train": f"teaching {base} its control tokens",
            "score": "reading the probabilities of held-out prompts",
            "evaluate": "writing answers and judging them",
        }.get(stage, "")

    def _data(self, progress: Progress) -> DataSummary:
        from demur.stages import data

        sources = build_sources(self._config, lambda kind: import_by_name(kind, SOURCES, "source"))
        made = data.resplit if self._again else data.run
        summary = made(self._config.data, self._config.taxonomy, sources, self._folder, progress)
        self._warn_of_goals()
        return summary

    def _warn_of_goals(self) -> None:
        """Note goals that cannot be certified on the calibrate rows, before a model is trained."""
        from demur.stages import plan_labels

        settings = self._config.calibrate
        rows = read_examples(self._folder.split("calibrate"))
        # a calibrator is fitted on rows of its own, which no goal is tested on
        share = 1.0 if settings.calibrator == NO_CALIBRATOR else 1.0 - settings.calibrator_share
        plan = plan_labels.Config(
            goals=tuple(lines_of(settings.goal)),
            confidence=settings.confidence,
            method=settings.method,
            on_failure="hard_only" if settings.on_failure == "hard_only" else "stop",
            categories=len(self._config.taxonomy.names) - len(settings.inactive),
            shares=dict(settings.shares) or None,
        )
        # the rows that goals are about: [calibrate] may name some sources only
        own = [e for e in rows if not settings.sources or e.source in settings.sources]
        try:
            found = plan_labels.for_rows(plan, own, self._config.taxonomy, share)
        # calibrate will stop at it; the rows are made, and other goals may do
        except (GoalError, DataError, TaxonomyError) as e:
            self._observer.note(f"warning: the goals of [calibrate]: {e.message} ({e.hint})")
            return
        for row in found:
            if row.allowed is None:
                self._observer.note(f"warning: {plan_labels.sentence(row)}")

    def _train(self, progress: Progress) -> TrainedModel | None:
        from demur.stages import train
        from demur.stages.blackbox import predictor

        settings = self._config.train
        if self._config.engine == PROMPTS:
            return train.run(
                settings, self._config.taxonomy, predictor.PromptTrainer(), self._folder, progress
            )
        if self._config.engine in GUARDS:  # trained by others: only its receipt is written
            return self._adopt()
        # `train.run` calls the trainer only if the model is missing or out of date
        trainer = _LazyTrainer(replace(settings, processes=self._processes or settings.processes))
        trained = train.run(settings, self._config.taxonomy, trainer, self._folder, progress)
        if trained is not None and trained.origin is not None:
            self._observer.note(f"base: {trained.origin.text}")
        for line in summary_lines(trained.details) if trained is not None else ():
            self._observer.note(line)
        return trained

    def _adopt(self) -> TrainedModel:
        from demur.stages import train

        config = self._config
        guard = make_predictor(config, self._folder.model, config.taxonomy.tokens)
        options = {"engine": config.engine, **config.options}
        return train.adopt(options, config.taxonomy, guard, self._folder, config.train.seen)

    def _score(self, progress: Progress) -> Mapping[Any, Any]:
        from demur.stages import score

        return score.run(self._config.score, self.engine, self._folder, progress)

    def _calibrate(self, progress: Progress) -> Policy:
        from demur.stages import calibrate

        policy = calibrate.run(self._config.calibrate, self._config.taxonomy, self._folder)
        progress(1, 1)
        return policy

    def _evaluate(self, progress: Progress) -> Evaluation:
        from demur.sources.corpus import EverydayPrompts
        from demur.stages import evaluate

        require_writer(self._config, "evaluate")
        judge, spent = build_judge(self._config.evaluate.judge, self.check_judge())
        # costs are noted also if the evaluation fails half-way: they were paid
        try:
            evaluation = evaluate.run(
                self._config.evaluate, self.engine, judge, self._folder, progress
            )
        finally:
            for line in spent():
                self._observer.note(line)
        if self._config.evaluate.everyday:
            prompts = EverydayPrompts().read()
            evaluate.evaluate_everyday(tuple(prompts), self.engine, self._folder, progress)
        return evaluation

    def _report(self, progress: Progress) -> Path:
        from demur.stages import report
        from demur.stages.blackbox import page

        # a predictor of a black box has no answers to report on: its page is another one
        if self._config.engine == PROMPTS:
            path = page.run(self._folder, self._config.taxonomy)
        else:
            require_writer(self._config, "report")
            path = report.run(self._config.report, self._folder)
        progress(1, 1)
        return path


class _LazyTrainer:
    """A trainer that imports torch only when there is something to train."""

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings

    def train(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        folder: Path,
        progress: Progress = no_progress,
    ) -> TrainedModel | None:
        """Train as core.ports.Trainer says. Raises MissingDependency without the packages."""
        with explain_missing_extra("training"):
            from demur.engines.training.sft import SftTrainer
        from demur.judges.phrases import PhraseJudge

        trainer = SftTrainer(self._settings, judge=PhraseJudge())
        return trainer.train(examples, taxonomy, folder, progress)


def stages_of(config: RunConfig) -> tuple[Stage, ...]:
    """Return the stages of a whole run; a predictor's end before evaluate: it writes no answers."""
    return STAGES[: STAGES.index("evaluate")] if config.engine in PREDICTORS else STAGES


def _made_at(folder: RunFolder, stage: Stage) -> int | None:
    """Return when a stage's receipt was written, in nanoseconds; None if it has none."""
    path = folder.stage(stage) / "made.json"
    return path.stat().st_mtime_ns if path.exists() else None
