"""demur bench temporal: dated news, a knowledge cutoff, a chat model -> questions that can and
cannot be known.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.assembly.endpoints import open_chat
from demur.base.errors import ConfigError, DataError
from demur.base.files import write_text
from demur.cli import options
from demur.cli.terminal import (
    first_places,
    note,
    print_json,
    print_table,
    progress_bar,
    top_reasons,
)
from demur.store.answers.reply_file import ReplyFile

NewsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="NEWS",
        help="JSONL file of articles (date, title, body), or TOML of a news API.",
    ),
]
CutoffFlag = Annotated[
    str, typer.Option(metavar="DATE", help="Until when the tested model knows the world.")
]
UrlFlag = Annotated[
    str, typer.Option(metavar="URL", help="OpenAI-compatible endpoint, up to and with /v1.")
]
ModelFlag = Annotated[
    str,
    typer.Option(metavar="NAME", help="The model there that writes and labels the questions."),
]
MarginFlag = Annotated[int, typer.Option(min=0, help="Days before the cutoff that are left out.")]
MostCallsFlag = Annotated[int | None, typer.Option(min=1, help="Budget: calls of the endpoint.")]
OverridesFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="As in endpoint.max_tokens=100. Repeatable."),
]


def command(
    news: NewsArgument,
    *,
    cutoff: CutoffFlag,
    url: UrlFlag,
    model: ModelFlag,
    margin: MarginFlag = 90,
    most_calls: MostCallsFlag = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the rows go.")] = Path(
        "temporal.jsonl"
    ),
    overrides: OverridesFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Write questions from dated news, label and filter them. The same command goes on where it
    stopped.
    """
    from demur.assembly.sources import Cutoff, QuestionBuilder, read_news

    # Events within the margin before the cutoff may be known or not, so they make no question.
    limit = Cutoff(day=_day(cutoff), margin_days=margin)
    file = news if news.suffix != ".toml" else _fetched(news, out.with_suffix(".news.jsonl"))
    chat = open_chat({"url": url, "model": model, "most_calls": most_calls}, overrides or ())
    articles, places = read_news(file, limit)
    for why, at in places.items():
        note(f"{why}: {first_places(at)}")
    # Every reply is stored as it comes: a run that was killed or ran out of budget goes on.
    replies = ReplyFile(out.with_suffix(".replies.sqlite"))
    builder = QuestionBuilder(chat=chat, replies=replies, cutoff=limit)
    try:
        with progress_bar("temporal") as progress:
            built = builder.build(articles, progress)
    finally:
        replies.close()
    write_text(
        out, "".join(json.dumps(_row(q, limit), ensure_ascii=False) + "\n" for q in built.questions)
    )
    # articles that were not read, and questions that the filters rejected
    rejected = Counter({why: len(at) for why, at in places.items()}) + built.rejected
    _show(built, rejected, chat.spent, out, as_json=as_json)
    if not built.questions:
        raise DataError(
            f"no question was made: {top_reasons(rejected)}",
            "what was answered is kept for the same command",
        )


def _fetched(settings: Path, to: Path) -> Path:
    """Write the articles of a news API to a file, and return its path."""
    from demur.assembly.sources import fetched_news

    # A run that goes on must see the same news: replies are stored by the articles asked about.
    if to.exists():
        note(f"news as fetched before: {to}; delete it to fetch again")
        return to
    with progress_bar("news") as progress:
        rows = fetched_news(settings, progress)
    write_text(to, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    note(f"{len(rows)} articles fetched: {to}")
    return to


def _day(text: str) -> date:
    """Parse a date. Raises ConfigError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"cutoff {text!r} is no date", "write it as 2024-03-31") from None


def _row(question: Any, cutoff: Any) -> dict[str, object]:
    """A row of demur's own format; the two dates are for people, and ignored when the file is
    read.
    """
    e = question.example()
    return {
        "id": e.id,
        "source": e.source,
        "messages": [{"role": m.role, "content": m.content} for m in e.messages],
        "kind": e.kind,
        "expected": e.expected,
        "category": e.category,
        "subcategory": e.subcategory,
        "event_date": question.event.isoformat(),
        "cutoff": cutoff.day.isoformat(),
    }


def _show(built: Any, rejected: Counter[str], spent: Any, out: Path, *, as_json: bool) -> None:
    """Print how many questions were kept and why others were rejected, and the costs."""
    # zero is shown too: a file without one side measures nothing of it
    sides = Counter(q.side for q in built.questions)
    kept = {side: sides[side] for side in ("unanswerable", "answerable")}
    if as_json:
        calls = {
            "calls": spent.calls,
            "prompt_tokens": spent.prompt_tokens,
            "tokens": spent.completion_tokens,
        }
        print_json(
            {
                "kept": kept,
                "rejected": dict(rejected),
                "model": built.model,
                **calls,
                "out": str(out),
            }
        )
        return
    lines = [
        *((f"kept: {side}", str(n)) for side, n in kept.items()),
        *((why, str(n)) for why, n in rejected.items()),
    ]
    print_table([("articles and questions", "number"), *lines])
    note(f"{spent.calls} calls of {built.model or 'no model'}; written: {out}")
