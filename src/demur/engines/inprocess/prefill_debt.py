"""Fairness between long prompts and answers under way, by an account of time.

A prompt is read in one forward pass, and no answer goes on meanwhile. Short prompts do no harm, but
one tenant's long prompts, one after the other, would leave the others hardly any time. So

1. reading a long prompt adds its seconds to a debt;
2. writing answers pays the debt off, DECODE_PER_PREFILL seconds for each second;
3. while there is debt, a long prompt waits if other tenants' answers are under way.
"""

from __future__ import annotations

LONG_TOKENS = 256  # tokens of a long prompt, at least
DECODE_PER_PREFILL = 2.0  # seconds of writing that pay for one second of reading long prompts


class PrefillDebt:
    """Seconds of reading long prompts not yet paid for by writing. For the decoding thread only."""

    def __init__(self) -> None:
        self._owed_s = 0.0

    def may_prefill(self, tokens: int, *, beside_others: bool) -> bool:
        """Whether a prompt of so many tokens may be read now.

        beside_others: other tenants' answers are under way.
        """
        return tokens < LONG_TOKENS or not beside_others or self._owed_s <= 0.0

    def prefilled(self, longest: int, seconds: float) -> None:
        """Add the seconds in which prompts were read; longest: tokens of the longest of them."""
        if longest >= LONG_TOKENS:
            self._owed_s += seconds

    def decoded(self, seconds: float) -> None:
        """Subtract the seconds in which answers were written."""
        self._owed_s = max(0.0, self._owed_s - seconds / DECODE_PER_PREFILL)
