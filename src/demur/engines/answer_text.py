"""Incremental detokenization: the text that each new token id adds to an answer.

A byte-level tokenizer may spread one character over several tokens, and many decoders treat the
first id of a text differently (they drop its leading space). So

1. ids are decoded together with those of the piece before them, and only the difference is shown;
2. a text that ends in a replacement character is held back until its character is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from demur.engines.stop_strings import StopStrings

HALF = "\ufffd"  # replacement character: bytes that are no character, or not a whole one yet
LONGEST = 4  # bytes of the longest character in UTF-8, and so the most tokens it may take


class Detokenizer:
    """Turns a sequence of token ids into text, one id at a time, in whole characters.

    decode: ids to text, without special tokens. Only the ids of the piece shown last and those
    after it are decoded, so an answer's cost does not grow with its square.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # how many of the ids belong to the piece shown last
        self._shown = 0  # characters of the decoded ids that were returned already

    def push(self, token_id: int) -> str:
        """Append an id; returns the text that it completes, "" while a character is incomplete."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        if text.endswith(HALF):
            # Four tokens that are no character never will be one: their replacement characters are
            # shown, but for the last, which may begin another character.
            settled = text[:-1] if len(self._ids) - self._context >= LONGEST else ""
            return self._show(settled)
        new = self._show(text)
        # The ids shown before this piece are dropped; this piece is the next one's context.
        self._ids = self._ids[self._context :]
        self._context, self._shown = len(self._ids), len(self._decode(self._ids))
        return new

    def end(self) -> str:
        """Return the rest of the text at the end of the ids; an incomplete character is dropped."""
        return self._show(self._decode(self._ids).rstrip(HALF))

    def _show(self, text: str) -> str:
        new, self._shown = text[self._shown :], max(self._shown, len(text))
        return new


class AnswerText:
    """Text of one answer, id by id, cut before the first stop string."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, stops
        self._whole = Detokenizer(decode)
        self._stop = StopStrings(stops)

    def anew(self) -> AnswerText:
        """An empty text with the same stop strings."""
        return AnswerText(self._decode, self._stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met; the text ends before it."""
        return self._stop.met

    def push(self, token_id: int) -> str:
        """Append an id; returns the text that is certain not to belong to a stop string."""
        return self._stop.feed(self._whole.push(token_id))

    def end(self) -> str:
        """Return the rest of the text at the end of the answer."""
        return self._stop.feed(self._whole.end()) + self._stop.flush()
