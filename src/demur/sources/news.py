"""Read dated news and sort the articles by their side of a knowledge cutoff.

1. A line of the file: {"date": "2024-05-14", "title": "...", "body": "..."}; other keys are
   ignored.
2. News services repeat articles, so equal ones are kept once.
3. Articles that are not used are listed by reason and place.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
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
FEWEST_CHARS = 40  # of a body: a shorter one describes no event


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutoff:
    """A model's knowledge cutoff and the margin before it. Raises ConfigError below 0 days."""

    day: date
    # News reach training texts late and in small numbers, so a model may not know of the last days.
    margin_days: int = 90

    def __post_init__(self) -> None:
        if self.margin_days < 0:
            raise ConfigError(
                f"margin of {self.margin_days} days",
                "0 or more: days before the cutoff that are left out",
            )

    def side(self, event: date) -> Side | None:
        """The side of an event: answerable before cutoff - margin, unanswerable after the cutoff.

        None between: the model may know of it or not.
        """
        if event < self.day - timedelta(days=self.margin_days):
            return "answerable"
        return "unanswerable" if event > self.day else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Article:
    """The parts of an article that are used, and its side of the cutoff."""

    day: date
    title: str
    opening: str  # the first sentences of its body
    side: Side


def read_news(path: Path, cutoff: Cutoff) -> tuple[list[Article], dict[str, list[str]]]:
    """Read a news file: (articles, reason -> places of rejected ones, such as "news.jsonl:3").

    Raises DataError when the file cannot be read or holds no article.
    """
    # Not splitlines(), which also breaks at characters that a JSON string may hold, such as U+2028.
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
    # The sides alternate, so that a small budget of questions covers both. The shorter side is
    # filled up with None, which is dropped.
    paired = zip_longest(kept["unanswerable"], kept["answerable"])
    return [a for a in chain.from_iterable(paired) if a is not None], dict(rejected)


def _article(line: str, cutoff: Cutoff) -> Article | str:
    """The article of a line, or the reason why it is not used."""
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
