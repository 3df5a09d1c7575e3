"""When a long prompt may be read beside other tenants' answers: when they were written for longer
than the last took.

A prompt is read in one piece, and nobody's answer goes on meanwhile. Short prompts are no trouble;
long ones of one tenant, one after the other, would leave the others hardly any time.
"""

from __future__ import annotations

LONG_TOKENS = 256  # from here on a prompt is long
DECODE_PER_PREFILL = 2.0  # seconds of writing after each second in which long prompts were read


class PrefillDebt:
    """Seconds of reading long prompts that writing has not made up for. Belongs to the decoding
    thread.
    """

    def __init__(self) -> None:
        self._owed_s = 0.0

    def may_prefill(self, tokens: int, *, beside_others: bool) -> bool:
        """Whether a prompt of so many tokens may be read now."""
        return tokens < LONG_TOKENS or not beside_others or self._owed_s <= 0.0

    def prefilled(self, longest: int, seconds: float) -> None:
        """Prompts were read, the longest of so many tokens, in so much time."""
        if longest >= LONG_TOKENS:
            self._owed_s += seconds

    def decoded(self, seconds: float) -> None:
        """Answers were written for so long."""
        self._owed_s = max(0.0, self._owed_s - seconds / DECODE_PER_PREFILL)
