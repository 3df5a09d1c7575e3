"""Rows and news for verbs that read no config: what demur.sources offers beside the sources of a
run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demur.assembly.config import build
from demur.assembly.wiring import explain_missing_extra
from demur.base.boundary import read_toml
from demur.core.ports import Progress
from demur.sources.benchmarks import BenchmarkSelection, load_benchmark, parse_selection
from demur.sources.config_draft import ConfigDraft
from demur.sources.guess import FileGuess, guess_file
from demur.sources.news import Cutoff, read_news
from demur.sources.temporal import Question, QuestionBuilder, QuestionSet

__all__ = [
    "BenchmarkSelection",
    "ConfigDraft",
    "Cutoff",
    "FileGuess",
    "Question",
    "QuestionBuilder",
    "QuestionSet",
    "fetched_news",
    "guess_file",
    "hub_rows",
    "load_benchmark",
    "parse_selection",
    "read_news",
]


def hub_rows(*where: Any) -> Any:
    """Rows of a dataset on the hub. Raises MissingDependency without the package `datasets`."""
    with explain_missing_extra("a benchmark on the hub"):
        from demur.sources.hub import load_rows

    return load_rows(*where)


def fetched_news(settings: Path, progress: Progress) -> list[dict[str, object]]:
    """The articles of a news API that a TOML file names. Raises ConfigError naming the file and the
    key.
    """
    with explain_missing_extra("a news API"):
        from demur.sources.news_api import NewsApi, fetch_news

    return fetch_news(build(NewsApi, read_toml(settings), str(settings)), progress)
