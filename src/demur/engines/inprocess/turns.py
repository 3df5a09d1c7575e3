"""Whose prompts are read next: a tenant whose prompts took long waits while answers of others are written."""

from __future__ import annotations

from collections.abc import Collection, Mapping

WRITING_PER_READING = 2.0  # seconds of writing that others get for each second in which a tenant's prompts were read


class Turns:
    """Seconds of reading that tenants owe to the others. Belongs to the decoding thread."""

    def __init__(self) -> None:
        self._owed_s: dict[str, float] = {}

    def owed_s(self, tenant: str) -> float:
        """What a tenant owes; 0: nothing."""
        return self._owed_s.get(tenant, 0.0)

    def may_read(self, tenant: str, others: Collection[str]) -> bool:
        """Whether a tenant's prompts may be read beside these others: it owes no more than any of them."""
        return self.owed_s(tenant) <= min((self.owed_s(other) for other in others), default=float("inf"))

    def read(self, tokens: Mapping[str, int], seconds: float) -> None:
        """Prompts were read: tokens of each tenant, in so much time."""
        whole = sum(tokens.values())
        for tenant, its in tokens.items():
            self._owed_s[tenant] = self.owed_s(tenant) + seconds * its / whole

    def wrote(self, seconds: float) -> None:
        """Answers were written for so long: everybody owes less."""
        less = seconds / WRITING_PER_READING
        self._owed_s = {tenant: owed - less for tenant, owed in self._owed_s.items() if owed > less}
