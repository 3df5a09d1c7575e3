"""Rows and news articles for commands that read no config: demur.sources beside a run's sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demur.assembly.config import build
from demur.assembly.wiring import explain_missing_extra
from demur.base.boundary import read_toml
from demur.core.ports import Progress
from demur.sources.benchmarks import BenchmarkSelection, load_benchmark, parse_selection
from demur.sources.config_draft import ConfigDraft
from demur.sources.guess import guess_file
from demur.sources.news import Cutoff, read_news
from demur.sources.temporal import QuestionBuilder

__all__ = [
    "BenchmarkSelection",
    "ConfigDraft",
    "Cutoff",
    "QuestionBuilder",
    "fetched_news",
    "guess_file",
    "hub_rows",
    "load_benchmark",
    "parse_selection",
    "read_news",
]


def hub_rows(*where: Any) -> Any:
    """Load rows of a dataset on the hub. Raises MissingDependency without package `datasets`."""
    with explain_missing_extra("a benchmark on the hub"):
        from demur.sources.hub import load_rows

    return load_rows(*where)


def fetched_news(settings: Path, progress: Progress) -> list[dict[str, object]]:
    """Fetch the articles of the news API that a TOML file describes.

    Raises ConfigError naming the file and the key.
    """
    with explain_missing_extra("a news API"):
        from demur.sources.news_api import NewsApi, fetch_news

    return fetch_news(build(NewsApi, read_toml(settings), str(settings)), progress)
