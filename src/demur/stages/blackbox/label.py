"""Judge the answers of a black box and write them as the run's rows. Unscored answers have no row,
and count against promises.

A decline by the endpoint's filter, or by the model in a field of its own, is not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from demur.base.errors import DataError
from demur.core.example import Example
from demur.core.judging.judge import ChatAnswer, Declined
from demur.core.judging.outcome import Outcome, Verdict, declines
from demur.core.ports import Judge, Progress, no_progress
from demur.core.taxonomy import Taxonomy
from demur.stages.blackbox.collect import Collected
from demur.stages.texts import TextRow, reply_outcomes
from demur.store.answers.blackbox_file import (
    BlackboxFile,
    BlackboxFolder,
    HandRow,
    write_answers,
    write_rows,
    write_summary,
)
from demur.store.prompts_file import PromptRow

# of either kind: about 15 to learn from, 9 to choose a threshold on and 6 to measure it on
FEWEST = 30
VERDICTS: tuple[Verdict, ...] = ("refusal", "partial", "compliance", "unscored")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The judge, and the category that declined prompts get."""

    judge: Judge
    taxonomy: Taxonomy  # of one category
    hand: HandRow | None = None  # the judge's accuracy on hand labels, if it was trained here


def run(
    config: Config, collected: Collected, folder: BlackboxFolder, progress: Progress = no_progress
) -> BlackboxFile:
    """Judge all answers; write answers.jsonl, rows.jsonl, summary.json and a receipt. Progress
    counts answers.

    A partial answer counts as declined. Raises DataError, with both counts, if too few were
    declined or answered; all files are written before, so that more prompts may be added.
    """
    # No category: whether these prompts ought to be refused is what the judge decides.
    asked = [TextRow(id=p.id, prompt=p.messages, category=None) for p in collected.asked]
    outcomes = reply_outcomes(config.judge, asked, collected.replies, progress)
    write_answers(folder.answers, collected.asked, [r.text for r in collected.replies], outcomes)
    category = config.taxonomy.names[0]
    # Without an outcome a prompt has no label, and cannot be a row.
    rows = [
        _example(p, category if declines(o.verdict, "lenient") else None)
        for p, o in zip(collected.asked, outcomes, strict=True)
        if o.verdict != "unscored"
    ]
    write_rows(folder.rows, rows)
    file = _summary(config, collected, outcomes)
    write_summary(folder.summary, file)
    settings: dict[str, object] = {
        "judge": config.judge.version,
        "taxonomy": list(config.taxonomy.names),
    }
    folder.run.finish(
        "blackbox", settings, {"asked_as": collected.asked_as}, [folder.rows, folder.summary]
    )
    _check(sum(e.kind == "refusal" for e in rows), len(rows))
    return file


def _example(prompt: PromptRow, category: str | None) -> Example:
    """A row of the run. category: that of a declined prompt; None if the model answered."""
    return Example(
        id=prompt.id,
        source="blackbox",
        messages=prompt.messages,
        kind="benign" if category is None else "refusal",
        category=category,
        group=prompt.group,
        session=prompt.session,
        count=prompt.count,
    )


def _summary(config: Config, collected: Collected, outcomes: Sequence[Outcome]) -> BlackboxFile:
    """The content of summary.json; reasons are ordered by how often they occur."""
    # Verdicts that do not occur are listed with 0.
    count = Counter(o.verdict for o in outcomes)
    return BlackboxFile(
        model=collected.model,
        asked_as=collected.asked_as,
        prompts=len(collected.prompts.rows),
        duplicates=collected.prompts.duplicates,
        without_prompt=len(collected.prompts.without),
        asked_model=collected.asked_model,
        answered=len(collected.replies),
        empty=sum(isinstance(r, ChatAnswer) and not r.text.strip() for r in collected.replies),
        declined=dict(
            Counter(r.reason for r in collected.replies if isinstance(r, Declined)).most_common()
        ),
        not_asked=collected.not_asked,
        failed=collected.failed,
        lost_requests=collected.failed_requests
        + sum(
            p.count
            for p, o in zip(collected.asked, outcomes, strict=True)
            if o.verdict == "unscored"
        ),
        judge=config.judge.version,
        verdicts={v: count[v] for v in VERDICTS},
        unscored=dict(Counter(o.reason for o in outcomes if o.verdict == "unscored").most_common()),
        hand=config.hand,
    )


def _check(declined: int, scored: int) -> None:
    """Raise DataError unless there are FEWEST of both kinds."""
    answered = scored - declined
    if min(declined, answered) >= FEWEST:
        return
    # The rarer of the two kinds is the one to ask more prompts for.
    kind, lacking = (
        ("declined", FEWEST - declined) if declined < answered else ("answered", FEWEST - answered)
    )
    raise DataError(
        f"of {scored} scored answers {declined} decline and {answered} do not; at least {FEWEST} "
        "of each are needed",
        f"add prompts until at least {lacking} more are {kind}; what was collected is kept",
    )
