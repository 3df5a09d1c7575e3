"""The inputs of a calibration: goals, settings, files and their digests, checked before a row is
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demur.base.errors import ConfigError
from demur.base.files import digest_file, digest_json
from demur.core.example import RewriteName
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import Natural
from demur.core.goals.parse import parse_goals
from demur.core.maps import correctness
from demur.core.policy import Policy
from demur.core.settings import NONE, CalibrateSettings, MonitorSettings
from demur.core.taxonomy import Taxonomy
from demur.core.training.seen import require_unseen_ids
from demur.stages.calibrate.fallback import fallback_file
from demur.stages.calibrate.monitor import require_answers
from demur.store.answers.blackbox_file import prompts_without_outcome
from demur.store.models.front_file import FRONT, front_file
from demur.store.models.seen_file import SEEN, require_unseen_splits
from demur.store.policies.policy_file import read_policy
from demur.store.results.monitor_file import read_feedback
from demur.store.run import RunFolder
from demur.store.scores.answer_peaks import answers_path
from demur.store.scores.cascade_scores import require_unseen_by_front
from demur.store.scores.rewritten import rewritten_scores
from demur.store.scores.tables import read_scores


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inputs:
    """The checked settings of one calibration, and the digests that its receipt names."""

    folder: RunFolder
    goals: tuple[Goal, ...]
    rewrites: tuple[RewriteName, ...]  # those that the calibrator reads
    fallback: Path | None  # the file of on_failure = "keep:<file>"
    missing: int  # prompts of a black box without an outcome; a promise counts them as errors
    settings: dict[str, object]  # of the receipt
    made_from: dict[str, str]  # digests of all inputs, by name

    @property
    def digest(self) -> str:
        """The digest of all inputs. Promises carry it, so that `demur verify` can compare it."""
        return digest_json(self.made_from)

    def finished(self) -> Policy | None:
        """The policy that an earlier call wrote from these inputs; None if there is none."""
        if not self.folder.is_current("calibrate", self.settings, self.made_from):
            return None
        done = read_policy(self.folder.policy)
        # A policy of an older version holds promises without digests: it is made again.
        return None if any(p.status == "not certified" for p in done.promises) else done


def collect(config: CalibrateSettings, taxonomy: Taxonomy, folder: RunFolder) -> Inputs:
    """Check the settings, and that training saw no row that is used here; digest the files.

    Raises ConfigError on settings that exclude each other, and DataError, naming rows, if the model
    has seen rows of the calibrate split, of the hand labels or of the traffic.
    """
    goals = _goals(config)
    folder.require("data")
    require_answers(goals, folder)
    rewrites = _rewrites(config, folder)
    seen = require_unseen_splits(folder, ["calibrate"])
    # Hand labels and traffic are held to the same rule as the split: no row that training saw.
    for path in (config.human_labels, config.traffic):
        if path is not None:
            require_unseen_ids(seen, ids_in(path, taxonomy), str(path))
    if config.cascade:
        require_unseen_by_front(folder, "calibrate")
    # Of a black box: prompts without an outcome have no row, and count as errors of each promise.
    missing = prompts_without_outcome(folder) if any(goal.promised for goal in goals) else 0
    fallback = fallback_file(config.on_failure, folder)
    return Inputs(
        folder=folder,
        goals=goals,
        rewrites=rewrites,
        fallback=fallback,
        missing=missing,
        settings=_plain(config),
        made_from=_digests(config, folder, rewrites, fallback)
        | ({"blackbox": digest_json(missing)} if missing else {})
        | _digest_of_answers(goals, folder),
    )


def _digests(
    config: CalibrateSettings,
    folder: RunFolder,
    rewrites: Sequence[RewriteName],
    fallback: Path | None,
) -> dict[str, str]:
    """The digest of every file that a calibration reads, by the name in its receipt."""
    files = {
        "data/calibrate": folder.split("calibrate"),
        "score/calibrate": folder.scores("calibrate"),
        **{f"score/{name}": rewritten_scores(folder, "calibrate", name) for name in rewrites},
        f"train/model/{SEEN}": folder.model / SEEN if (folder.model / SEEN).exists() else None,
        f"distil/{FRONT}": front_file(folder) if config.cascade else None,
        "kept": fallback,
        "human_labels": config.human_labels,
        "traffic": config.traffic,
    }
    return {name: digest_file(path) for name, path in files.items() if path is not None}


def _digest_of_answers(goals: Sequence[Goal], folder: RunFolder) -> dict[str, str]:
    """The digest of the followed answers, where a goal speaks of stops."""
    if not any(goal.midway for goal in goals):
        return {}
    path = answers_path(folder, "calibrate")
    return {f"score/{path.stem}": digest_file(path)}


def _goals(config: CalibrateSettings) -> tuple[Goal, ...]:
    """Read the goals. Raises ConfigError on settings that contradict them or each other."""
    # parse_goals refuses every goal about first decisions beside "natural".
    goals = parse_goals(config.goal)
    natural = any(isinstance(goal, Natural) for goal in goals)
    if natural and config.calibrator != NONE:
        raise ConfigError(
            f"calibrator {config.calibrator!r} beside the goal 'natural', which is the model left "
            "to itself",
            "do without a calibrator, or choose another goal",
        )
    if natural and config.sensitivities:
        raise ConfigError(
            "sensitivities beside the goal 'natural', which has no thresholds",
            "choose another goal",
        )
    if config.human_labels is not None and not any(goal.promised for goal in goals):
        raise ConfigError(
            f"human labels beside {config.goal!r}, which promises nothing",
            "leave them out, or add a promise",
        )
    if config.cost_from == "probabilities" and config.calibrator == NONE:
        raise ConfigError(
            'calibrate.cost_from = "probabilities" without a calibrator: raw scores are no '
            "probabilities",
            'name a calibrator, such as "auto"',
        )
    mixed = "mix" if config.mix else "mix_by" if config.mix_by is not None else None
    if mixed is not None and not any(goal.promised for goal in goals):
        raise ConfigError(
            f"calibrate.{mixed} beside {config.goal!r}, which promises nothing",
            "leave it out, or add a promise",
        )
    if config.mix and config.human_labels is not None:
        raise ConfigError(
            "calibrate.mix beside human labels: a judge is corrected for the rows' own mix only",
            "leave one out",
        )
    if config.traffic is not None:
        _check_traffic(config)
    return goals


def _check_traffic(config: CalibrateSettings) -> None:
    """Raise ConfigError on settings beside `traffic` that need labels, or other scores than those
    in its file.
    """
    path = config.traffic
    if path is not None and (path.is_dir() or path.suffix != ".parquet"):
        found = "a folder" if path.is_dir() else "not named *.parquet"
        raise ConfigError(
            f"calibrate.traffic = {str(path)!r} is {found}, expected one file of scores",
            "name one file that a server wrote, or score prompts into one: demur score RUN "
            "--prompts FILE --out traffic.parquet",
        )
    # Each setting at the only value that needs no labels; beside a mix that is estimated, at the
    # only one that leaves the rows' labels and their mix to it.
    plain: dict[str, object] = {"cost_from": "labels", "human_labels": None, "mix": {}}
    why = "its mix is promised for by the rows' own labels"
    if config.mix_by is None:
        plain = {"method": "auto", "on_failure": "stop", **plain}
        why = "it has no labels"
    if beside := [name for name, value in plain.items() if getattr(config, name) != value]:
        raise ConfigError(f"calibrate.traffic beside {', '.join(beside)}: {why}", "leave one out")
    if config.calibrator == correctness.NAME:
        raise ConfigError(
            f"calibrate.traffic beside calibrator {config.calibrator!r}: other scores",
            "leave one out",
        )


def _rewrites(config: CalibrateSettings, folder: RunFolder) -> tuple[RewriteName, ...]:
    """The rewrites that were scored, if the calibrator reads them. Raises ConfigError if it does
    and none is scored.
    """
    scored: Any = folder.require("score").settings.get("rewrites", ())
    if config.calibrator != correctness.NAME:
        return ()
    if not scored:
        raise ConfigError(
            f"calibrator {correctness.NAME!r} looks at rewritten prompts, and none is scored",
            "score them: demur score RUN --rewrite case --rewrite typos --rewrite paraphrase",
        )
    # A kept policy decides on the model's own scores, these thresholds on scores seen through the
    # rewrites: a run serves one of them.
    if config.on_failure not in ("stop", "hard_only", "keep:natural"):
        raise ConfigError(
            f"on_failure = {config.on_failure!r} beside calibrator {correctness.NAME!r}: other "
            "scores",
            "stop instead",
        )
    return tuple(scored)


def _plain(config: CalibrateSettings) -> dict[str, object]:
    """The settings for the receipt, as JSON has them: no infinity, no path. The content of files is
    an input and has its digest.
    """
    limits = {k: list(map(str, v)) for k, v in config.limits.items()}
    plain = asdict(config)
    if not config.override:
        # absent as in receipts from before there were overrides: such runs stay finished
        del plain["override"]
    if not config.cascade:
        del plain["cascade"]  # likewise
    if config.monitor == MonitorSettings():
        del plain["monitor"]
    if not config.mix:
        del plain["mix"]
    if config.mix_by is None:
        del plain["mix_by"]
    if config.spend is None:
        del plain["spend"]
    del plain["ledger"]  # where attempts are counted changes no result
    files = {"human_labels": config.human_labels is not None, "traffic": config.traffic is not None}
    return {**plain, "limits": limits, "sources": list(config.sources), **files}


def ids_in(path: Path, taxonomy: Taxonomy) -> Sequence[str]:
    """The ids of a file of scores or of labels."""
    return (
        tuple(read_feedback(path, taxonomy))
        if path.suffix != ".parquet"
        else read_scores(path)[0].ids
    )
