"""Dated news: which articles lie safely before a knowledge cutoff, and which after it.

A line of the file: {"date": "2024-05-14", "title": "...", "body": "..."}; other keys are ignored.
Articles come back again and again from news services, so equal ones are kept once. What is not used
is named by place and reason.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from demur.base.errors import ConfigError, DataError
from demur.base.text import read_text
from demur.core.example import fold

Side = Literal["answerable", "unanswerable"]

SENTENCES = 10  # of a body that are read: the event stands at its beginning (arXiv 2412.06748)
FEWEST_CHARS = 40  # of a body: less tells no event


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutoff:
    """Until when a model knows the world. Raises ConfigError on a negative margin."""

    day: date
    # news reach training texts late and thinly, so the last days before the cutoff are doubtful
    margin_days: int = 90

    def __post_init__(self) -> None:
        if self.margin_days < 0:
            raise ConfigError(
                f"margin of {self.margin_days} days",
                "0 or more: days before the cutoff that are left out",
            )

    def side(self, event: date) -> Side | None:
        """Answerable before cutoff - margin, unanswerable after the cutoff, None between: the model
        may or may not.
        """
        if event < self.day - timedelta(days=self.margin_days):
            return "answerable"
        return "unanswerable" if event > self.day else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Article:
    """One article, as much of it as is read."""

    day: date
    title: str
    opening: str  # the first sentences of its body
    side: Side


def read_news(path: Path, cutoff: Cutoff) -> tuple[list[Article], dict[str, list[str]]]:
    """(articles, rejected by reason: the places, as in "news.jsonl:3"). Both sides take turns, so
    that a small budget buys of both.

    Raises DataError when the file cannot be read or holds nothing.
    """
    # Not splitlines(): it also breaks at characters that may stand raw inside a JSON string, such
    # as U+2028.
    lines = read_text(path, DataError).split("\n")
    rejected: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    kept: dict[Side, list[Article]] = {"answerable": [], "unanswerable": []}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        article = _article(line, cutoff)
        if isinstance(article, str):
            rejected[article].append(f"{path}:{number}")
        elif (key := fold(f"{article.title}\n{article.opening}")) in seen:
            rejected["article: a duplicate"].append(f"{path}:{number}")
        else:
            seen.add(key)
            kept[article.side].append(article)
    if not seen and not rejected:
        raise DataError(
            f"{path} holds no article",
            'a line is {"date": "2024-05-14", "title": "...", "body": "..."}',
        )
    return _in_turns(kept["unanswerable"], kept["answerable"]), dict(rejected)


def _article(line: str, cutoff: Cutoff) -> Article | str:
    """One line, or why it is not used."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return "article: the line is no JSON"
    if not isinstance(row, dict) or not all(
        isinstance(row.get(k), str) for k in ("date", "title", "body")
    ):
        return "article: no date, title or body"
    try:
        day = date.fromisoformat(row["date"].strip()[:10])
    except ValueError:
        return "article: its date is no YYYY-MM-DD"
    opening = " ".join(re.split(r"(?<=[.!?])\s+", row["body"].strip())[:SENTENCES])
    if len(opening) < FEWEST_CHARS:
        return f"article: its body has fewer than {FEWEST_CHARS} characters"
    side = cutoff.side(day)
    if side is None:
        return "article: too near to the cutoff"
    return Article(day=day, title=row["title"].strip(), opening=opening, side=side)


def _in_turns(*several: Iterable[Article]) -> list[Article]:
    return [a for a in chain.from_iterable(zip_longest(*several)) if a is not None]
