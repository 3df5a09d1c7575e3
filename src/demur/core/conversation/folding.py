"""Conversations for chat templates that know no system role, or want users and assistants to take
turns.

Training, scoring and serving fold alike (demur.engines.chat_encoder calls `fold` wherever a
template refuses a conversation as it is), so that what is scored is what was trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from demur.core.example import Message, Role

BETWEEN = "\n\n"  # texts that were messages of their own


def alternate_turns(
    messages: Sequence[Message], columns: Sequence[int]
) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """The same texts in the same order, as turns of user and assistant that alternate.

    Instructions open the user's turn after them, or end the one before them where none follows.
    Neighbours of one role become one turn. columns: the control token of each assistant turn; a
    joined turn keeps its first one's.
    """
    folded: list[tuple[Role, str]] = []
    kept: list[int] = []
    turn = 0
    for message in messages:
        role: Role = "assistant" if message.role == "assistant" else "user"
        if folded and folded[-1][0] == role:
            folded[-1] = (role, BETWEEN.join(t for t in (folded[-1][1], message.content) if t))
        else:
            folded.append((role, message.content))
            if role == "assistant" and turn < len(columns):
                kept.append(columns[turn])
        turn += message.role == "assistant"
    return tuple(Message(role=role, content=text) for role, text in folded), tuple(kept)


def latest_turn(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages since the last answer, behind the instructions that open the conversation."""
    answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        return tuple(messages)
    opening = itertools.takewhile(lambda message: message.role == "system", messages)
    return (*opening, *messages[answers[-1] + 1 :])
