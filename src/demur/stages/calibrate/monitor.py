"""The monitor of a policy before its threshold is chosen, and the answers to choose it on."""

from __future__ import annotations

from collections.abc import Sequence

from demur.base.errors import ConfigError, ScoreError
from demur.core.fingerprint import Fingerprint
from demur.core.goals.goal import Goal
from demur.core.midway.followed import AnswerScoring
from demur.core.midway.monitor import Monitor
from demur.core.settings import CalibrateSettings
from demur.core.taxonomy import Taxonomy
from demur.core.threshold import NEVER
from demur.store.run import RunFolder
from demur.store.scores.answer_peaks import AnswersFile, answers_path, read_answers

USUAL = "safety"  # the category that stops answers where none is named
_STRICTEST = 1.0  # stands where a threshold will be: "maximum" and "cusum" both have it


def require_answers(goals: Sequence[Goal], folder: RunFolder) -> None:
    """Raise ConfigError where a goal speaks of stops and the run has no followed answers."""
    asked = next((goal for goal in goals if goal.midway), None)
    if asked is None:
        return
    made = folder.require("score").made
    if str(answers_path(folder, "calibrate").relative_to(folder.root)) not in made:
        raise ConfigError(
            f"goal {asked.text!r} speaks of whole answers, and the score stage followed none",
            f"run: demur score {folder.root} --answers 256 (as many tokens as answers have in "
            "service), or set [score.answers]",
        )


def calibrate_answers(folder: RunFolder, model: Fingerprint) -> AnswersFile:
    """The followed answers to the calibrate rows. model: that scored the rows.

    Raises ArtifactError on a damaged file, ScoreError where another model wrote them.
    """
    file = read_answers(answers_path(folder, "calibrate"))
    if differing := file.fingerprint.differences(model.as_scored):
        raise ScoreError(
            f"the followed answers are of another model than the scores: {', '.join(differing)} "
            "differ",
            "score again: demur score",
        )
    return file


def starting_monitor(
    config: CalibrateSettings, taxonomy: Taxonomy, scoring: AnswerScoring
) -> Monitor:
    """The monitor before its threshold is chosen; it stops with certainty alone.

    Raises TaxonomyError on an unknown category, ConfigError where none may stop, or where the
    scored answers are others than those that will be served, PolicyError on what no monitor has.
    """
    served, scored = config.monitor.served, scoring.answers
    if served is not None and not scored.covers(served):
        raise ConfigError(
            f"answers were scored with {scored.text}, and calibrate.monitor.served has "
            f"{served.text}",
            "score answers as they will be served: as long, and sampled alike; a promise on "
            "others says nothing of these",
        )
    names = _stopping(config, taxonomy)
    thresholds = [_STRICTEST if name in names else NEVER for name in taxonomy.names]
    return scoring.monitor(thresholds, config.monitor.held_back)


def _stopping(config: CalibrateSettings, taxonomy: Taxonomy) -> tuple[str, ...]:
    """The categories that may stop an answer."""
    silent = [*config.inactive, *(n for n, o in config.override.items() if o == "suppress")]
    for name in config.monitor.categories:
        taxonomy.index(name)
        if name in silent:
            raise ConfigError(
                f"calibrate.monitor.categories names {name!r}, which is inactive or suppressed",
                "name others, or let it be emitted",
            )
    if config.monitor.categories:
        return config.monitor.categories
    active = tuple(name for name in taxonomy.names if name not in silent)
    if not active:
        raise ConfigError("no category is active, so none may stop an answer", "activate one")
    return (USUAL,) if USUAL in active else active
