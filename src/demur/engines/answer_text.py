"""Token ids to text while an answer is being written: whole characters only, no special tokens, no
stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from demur.engines.stop_strings import StopStrings

HALF = "\ufffd"  # what decoders show in place of bytes that are no character, or not yet
LONGEST = 4  # bytes of a character in UTF-8, so tokens that it may take


class Detokenizer:
    """Ids in, the text that they add out; a character that is not complete yet waits for its last
    token.

    decode: of ids to text, leaving out special tokens. Only the last few ids are decoded anew:
    those of the piece shown last, since decoders treat the first id of a text otherwise than the
    rest, and those that came after it.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # how many of the ids belong to the piece shown last
        self._shown = 0  # characters of the decoded ids that were shown

    def push(self, token_id: int) -> str:
        """The text that may be shown now."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        if text.endswith(HALF):
            # Four tokens that are no character never will be, but the last of them may begin
            # another.
            settled = text[:-1] if len(self._ids) - self._context >= LONGEST else ""
            return self._show(settled)
        new = self._show(text)
        self._ids = self._ids[self._context :]
        self._context, self._shown = len(self._ids), len(self._decode(self._ids))
        return new

    def end(self) -> str:
        """What is left to show, now that no more ids will come. Half a character is left out."""
        return self._show(self._decode(self._ids).rstrip(HALF))

    def _show(self, text: str) -> str:
        new, self._shown = text[self._shown :], max(self._shown, len(text))
        return new


class AnswerText:
    """The text of one answer, up to the first stop string."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self._whole = Detokenizer(decode)
        self._stop = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met: nothing comes after it."""
        return self._stop.met

    def push(self, token_id: int) -> str:
        """The text that may be shown now that this id was written."""
        return self._stop.feed(self._whole.push(token_id))

    def end(self) -> str:
        """The rest, when the answer ends here."""
        return self._stop.feed(self._whole.end()) + self._stop.flush()
