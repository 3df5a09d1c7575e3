"""Stop strings in streamed text: no part of a stop string is released, however the text is cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Releases streamed text up to the first stop string; holds back a possible start of one.

    The first stop string is the one that ends first, so the released text does not depend on how
    the stream was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._held = ""
        self.met = False  # whether a stop string was found; nothing is released after it

    def feed(self, text: str) -> str:
        """Append text; returns the part of the held text that belongs to no stop string."""
        if self.met:
            return ""
        self._held += text
        # (end, start) of each stop string's first occurrence: min() is the one that ends first, and
        # of several with one end the longest.
        found = [(at + len(s), at) for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.met = True
            return self._release(min(found)[1], keep=0)
        return self._release(len(self._held) - self._undecided(), keep=self._undecided())

    def flush(self) -> str:
        """Return the held text at the end of the stream."""
        return self._release(len(self._held), keep=0)

    def _undecided(self) -> int:
        """Length of the longest suffix of the held text that is a prefix of a stop string."""
        longest = max((len(s) for s in self._stops), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next(
            (n for n in lengths if any(s.startswith(self._held[-n:]) for s in self._stops)), 0
        )

    def _release(self, shown: int, *, keep: int) -> str:
        """Return the first `shown` held characters; go on holding the last `keep`."""
        text, self._held = self._held[:shown], self._held[len(self._held) - keep :]
        return text
