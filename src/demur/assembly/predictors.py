"""Predictors: engines of a run that predict refusals for a model that they are not part of."""

from __future__ import annotations

from pathlib import Path

from demur.assembly.config import RunConfig, build
from demur.assembly.wiring import ENGINES, import_by_name
from demur.base.errors import ConfigError
from demur.core.ports import Scorer
from demur.core.predictor import PROMPTS, require_one_category
from demur.store.models.text_model_file import PREDICTOR, read_text_classifier

GUARDS = ("guard-chat", "guard-hf")
PREDICTORS = (PROMPTS, *GUARDS)


def check_engine(config: RunConfig) -> None:
    """Raise ConfigError for options that a run's engine does not take.

    Raises TaxonomyError for a predictor with more than one category: it gives one probability.
    """
    if config.options and config.engine not in GUARDS:
        raise ConfigError(
            f"[engine] has {', '.join(config.options)}, and engine {config.engine!r} takes no "
            "options",
            f"engines that do: {', '.join(GUARDS)}; name one as [run] engine",
        )
    if config.engine in PREDICTORS:
        require_one_category(config.taxonomy.tokens)


def make_predictor(config: RunConfig, folder: Path, tokens: tuple[str, ...]) -> Scorer:
    """Make the predictor of a run. folder: its train/model. tokens: respond, then the category.

    Raises ConfigError for options that the engine does not take.
    """
    kind, made = import_by_name(config.engine, ENGINES, "engine"), None
    if config.engine == PROMPTS:
        classifier, digest = read_text_classifier(folder / PREDICTOR)
        made = kind(classifier=classifier, digest=digest, tokens=tokens)
    else:
        made = build(kind, {**config.options, "tokens": tokens}, "[engine]")
    scorer: Scorer = made
    return scorer


def require_writer(config: RunConfig, what: str) -> None:
    """Raise ConfigError if a run's engine is a predictor, which writes no answers.

    what: what the answers are needed for, as the subject of the message.
    """
    if config.engine in PREDICTORS:
        raise ConfigError(
            f"{what} needs a model that answers, and a run with engine {config.engine!r} has none",
            "its decisions are measured by `demur decide` and `demur diff`; `demur serve` asks "
            "the model behind",
        )
