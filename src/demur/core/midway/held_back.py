"""Tokens that a stream withholds, so that a stop can still cut them: one code for every backend.

1. A part of an answer is sent once so many newer tokens have been written.
2. At the end of the answer the rest is sent. An answer shorter than that is sent at its end.
3. At a stop, of what is withheld, whole sentences are sent (demur.core.midway.cut); the rest, and
   all thoughts, never are.
"""

from __future__ import annotations

from collections import deque

from demur.core.midway.cut import sentence_end
from demur.core.serving import AnswerPart


class HeldBack:
    """The withheld end of one answer. least: newest tokens that are always withheld."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._parts: deque[AnswerPart] = deque()
        self._tokens = 0  # of the withheld parts
        # that were sent, for where a sentence ends depends on the text before it
        self._texts: list[str] = []
        self.sent = 0  # tokens of the parts that were sent, whole or partly

    def push(self, part: AnswerPart) -> list[AnswerPart]:
        """Withhold a part; returns those that are sent now, all of them at the answer's end."""
        self._parts.append(part)
        self._tokens += part.tokens
        if part.finish is not None:
            return [self._pop() for _ in range(len(self._parts))]
        ripe = []
        # A stop may still cut a part unless enough tokens follow it.
        while self._parts and self._tokens - self._parts[0].tokens >= self._least:
            ripe.append(self._pop())
        return ripe

    def cut(self) -> list[AnswerPart]:
        """What is still sent where the answer is stopped; the rest is dropped."""
        before = "".join(self._texts)
        whole = before + "".join(part.text for part in self._parts)
        text = whole[len(before) : sentence_end(whole, len(before))]
        left = len(text)
        for part in self._parts:
            if left <= 0:
                break
            self.sent, left = self.sent + part.tokens, left - len(part.text)
        self._parts.clear()
        return [AnswerPart(text=text)] if text else []

    def _pop(self) -> AnswerPart:
        part = self._parts.popleft()
        self._tokens -= part.tokens
        self._texts.append(part.text)
        self.sent += part.tokens
        return part
