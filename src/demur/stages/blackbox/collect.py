"""Ask a model behind an endpoint each prompt once; every reply is stored as it comes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from demur.base.errors import DataError
from demur.core.judging.cached_chat import CachedChat, not_asked
from demur.core.judging.judge import ChatAnswer, ChatModel, ChatQuestion, Declined, NoAnswer
from demur.core.ports import Progress, no_progress
from demur.store.answers.blackbox_file import BlackboxFolder, write_unanswered
from demur.store.answers.reply_file import ReplyFile
from demur.store.prompts_file import PromptRow, Prompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """The replies, and counts of prompts without one. Shapes: A answered prompts."""

    prompts: Prompts
    asked: tuple[PromptRow, ...]  # A, those that got an answer or were declined
    replies: tuple[ChatAnswer | Declined, ...]  # A
    model: str  # the name under which it answered
    asked_model: str  # the name in the request: an alias of it, perhaps
    asked_as: str  # model name and sampling settings: whatever may change an answer
    known: int  # replies from earlier calls
    not_asked: int  # prompts left when the budget was spent
    failed: dict[str, int]  # reason -> prompts, the most frequent first
    failed_requests: int  # that these prompts stand for


def run(
    prompts: Prompts, chat: ChatModel, folder: BlackboxFolder, progress: Progress = no_progress
) -> Collected:
    """Ask the prompts that have no answer yet. Progress counts prompts. A call that was stopped may
    be repeated.

    A prompt that got no answer is in unanswered.jsonl with the reason; it is asked again by the
    next call. A decline by a filter in front of the model counts as an answer. Raises EngineError,
    naming both, if the endpoint answers under two names, and DataError if there is no answer at
    all.
    """
    rows, replies = prompts.rows, ReplyFile(folder.replies)
    asker = CachedChat(chat=chat, replies=replies)
    try:
        found = asker.ask(
            [ChatQuestion(messages=p.messages) for p in rows], lambda n: progress(n, len(rows))
        )
    finally:
        replies.close()
    pairs = list(zip(rows, found, strict=True))
    said = [(p, r) for p, r in pairs if not isinstance(r, NoAnswer)]
    unsaid = [(p, r) for p, r in pairs if isinstance(r, NoAnswer)]
    write_unanswered(folder.unanswered, [(p, r.reason) for p, r in unsaid])
    failed = Counter(r.reason for _, r in unsaid if not not_asked(r))
    # No reply named a model: nothing but declines by the filter, failures, or a spent budget.
    if asker.model is None:
        declined = f"a filter declined {len(said)} of them" if said else None
        why = declined or (failed.most_common(1)[0][0] if failed else unsaid[0][1].reason)
        raise DataError(
            f"none of {len(rows)} prompts was answered: {why}",
            f"the reasons are in {folder.unanswered}",
        )
    return Collected(
        prompts=prompts,
        asked=tuple(p for p, _ in said),
        replies=tuple(r for _, r in said),
        model=asker.model,
        asked_model=chat.model,
        asked_as=chat.asked_as,
        known=len(rows) - asker.asked,
        not_asked=len(unsaid) - failed.total(),
        failed=dict(failed.most_common()),
        failed_requests=sum(p.count for p, r in unsaid if not not_asked(r)),
    )
