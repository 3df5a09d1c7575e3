"""A chat model behind a cache of its replies: each question is paid for once.

ReplyCache is implemented by demur.store.answers.reply_file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from demur.base.errors import EngineError
from demur.core.judging.judge import (
    NOT_ASKED,
    ChatAnswer,
    ChatModel,
    ChatQuestion,
    ChatReply,
    Declined,
    NoAnswer,
)


class ReplyCache(Protocol):
    """A store of replies that were paid for."""

    def get(self, key: str) -> ChatAnswer | Declined | None:
        """The reply under a key, if there is one."""
        ...

    def put(self, key: str, reply: ChatAnswer | Declined) -> None:
        """Keep a reply, at once."""
        ...


@dataclass(kw_only=True, slots=True)
class CachedChat:
    """One chat model and the cache of its replies. Raises EngineError, naming both, when two models
    answer under one name.
    """

    chat: ChatModel
    replies: ReplyCache
    # the name under which the endpoint answers, once it has
    model: str | None = field(default=None, init=False)
    asked: int = field(default=0, init=False)  # questions that were not known before

    def ask(self, requests: Sequence[ChatQuestion], tell: Callable[[int], None]) -> list[ChatReply]:
        """Answer each question, in order: known replies come from the cache, new ones are kept as
        they arrive.

        tell: called with the number of replies so far. Failures are not kept: they are asked again.
        """
        keys = [_reply_key(self.chat.asked_as, r) for r in requests]
        found: dict[int, ChatReply] = {
            n: said for n, key in enumerate(keys) if (said := self.replies.get(key))
        }
        for known in found.values():
            self._check_model(known)
        todo = [n for n in range(len(requests)) if n not in found]

        def on_reply(place: int, reply: ChatReply) -> None:
            n = todo[place]
            found[n] = reply
            if not isinstance(reply, NoAnswer):
                self._check_model(reply)
                self.replies.put(keys[n], reply)
            tell(len(found))

        self.asked += len(todo)
        if todo:
            self.chat.ask_many([requests[n] for n in todo], on_reply)
        return [found[n] for n in range(len(requests))]

    def _check_model(self, reply: ChatReply) -> None:
        # a filter in front of the model may not name it
        if isinstance(reply, NoAnswer) or reply.model is None:
            return
        if self.model not in (None, reply.model):
            raise EngineError(
                f"the endpoint answered as {self.model!r} before and as {reply.model!r} now: "
                "replies of two models do not mix",
                "pin the model's full name, or start a new output",
            )
        self.model = reply.model


def not_asked(reply: ChatReply) -> bool:
    """Whether the budget ended before this question was sent."""
    return isinstance(reply, NoAnswer) and reply.reason.startswith(NOT_ASKED)


def _reply_key(asked_as: str, request: ChatQuestion) -> str:
    """The cache key of a question: whatever may change its answer."""
    messages = [[m.role, m.content] for m in request.messages]
    return sha256(json.dumps([asked_as, messages, request.json_schema]).encode()).hexdigest()
