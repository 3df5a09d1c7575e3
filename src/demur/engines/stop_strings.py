"""Stop strings in text that arrives in pieces: nothing of a stop string is ever let through,
however it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string; holds back what may yet turn out to be the
    start of one.

    The first is the one that ends first, so what comes out does not depend on how the text was cut
    into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._held = ""
        self.met = False  # whether a stop string was found; nothing comes out after it

    def feed(self, text: str) -> str:
        """What may be shown now that `text` has arrived."""
        if self.met:
            return ""
        self._held += text
        found = [(at + len(s), at) for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.met = True
            return self._release(min(found)[1], keep=0)
        return self._release(len(self._held) - self._undecided(), keep=self._undecided())

    def flush(self) -> str:
        """The text that was held back, now that no more will come."""
        return self._release(len(self._held), keep=0)

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(s) for s in self._stops), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next(
            (n for n in lengths if any(s.startswith(self._held[-n:]) for s in self._stops)), 0
        )

    def _release(self, shown: int, *, keep: int) -> str:
        text, self._held = self._held[:shown], self._held[len(self._held) - keep :]
        return text
