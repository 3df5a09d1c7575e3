"""Time budgets of connections without a key: each address gets a fifth of the event loop's time.

1. A connection is unauthenticated until one of its requests has been admitted with a key.
2. What unauthenticated connections cost is charged to their address: being accepted, parsing of
   heads and bodies, answers.
3. After work of t seconds the address rests for 4 t. Meanwhile its unauthenticated connections
   wait, unread, first come, first served; where too many wait, further ones are closed. Other
   addresses, and authenticated connections, are served as if nobody waited.
4. A connection that authenticates gets its charges refunded: clients that make a new connection for
   each request do not slow each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

# A rest of twice the work's length leaves a third of the time to one connection or one key, a rest
# of four times a fifth to all unauthenticated connections of one address.
REST_FACTOR = 2.0
ADDRESS_REST_FACTOR = 4.0
ACCEPT_S = 0.0003  # that making a connection takes
REQUEST_S = 0.02  # charged at most for answering a request without a key: it may also have waited
MOST_WAITING = 128  # unauthenticated connections of one address
MOST_ADDRESSES = 4096  # kept before those with nothing left to rest are dropped


class AddressBudget:
    """Budget of one address's unauthenticated connections. Belongs to the event loop."""

    def __init__(self) -> None:
        self._free_s = 0.0  # the time, by perf_counter, at which its rest is over
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Whether a connection is served at once: no rest is left, and nobody waits before it."""
        return not self._waiting and perf_counter() >= self._free_s

    @property
    def is_idle(self) -> bool:
        """Whether the budget may be dropped: a new one would behave the same."""
        return self.is_free and self._timer is None

    def charge(self, used_s: float) -> None:
        """Lengthen the rest for work of so many seconds."""
        self._free_s = max(self._free_s, perf_counter()) + ADDRESS_REST_FACTOR * used_s

    def refund(self, used_s: float) -> None:
        """Shorten the rest by what was charged for a connection that has authenticated since."""
        self._free_s -= ADDRESS_REST_FACTOR * used_s

    def wait(self, resume: Callable[[], None]) -> bool:
        """Queue a connection; `resume` is called on its turn. Returns False if too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append(resume)
        self._set_timer()
        return True

    def _set_timer(self) -> None:
        if self._timer is None:
            rest_s = max(0.0, self._free_s - perf_counter())
            self._timer = asyncio.get_running_loop().call_later(rest_s, self._resume_next)

    def _resume_next(self) -> None:
        """Resume the first connection, unless work since then has lengthened the rest."""
        self._timer = None
        if perf_counter() >= self._free_s:
            self._waiting.popleft()()
        if self._waiting:
            self._set_timer()


class ConnectionBudget:
    """What one connection may use. is_authenticated: a request of it was admitted with a key."""

    def __init__(self, address: AddressBudget) -> None:
        self._address = address
        self._cost_s = 0.0  # charged to its address
        # The cost of accepting it is charged with its first parsing, which is not to wait for it,
        # or when it closes without having sent anything.
        self._unpaid_s = ACCEPT_S
        self.is_authenticated = False

    @property
    def may_parse(self) -> bool:
        """Whether bytes of the connection may be parsed now."""
        return self.is_authenticated or self._address.is_free

    def wait(self, resume: Callable[[], None]) -> bool:
        """Queue the connection at its address: see AddressBudget.wait."""
        return self._address.wait(resume)

    def charge(self, used_s: float) -> None:
        """Charge work of so many seconds to the address, if the connection is unauthenticated."""
        if not self.is_authenticated:
            cost_s, self._unpaid_s = used_s + self._unpaid_s, 0.0
            self._cost_s += cost_s
            self._address.charge(cost_s)

    def authenticate(self) -> None:
        """Mark the connection as authenticated, and refund what it was charged."""
        if not self.is_authenticated:
            self.is_authenticated = True
            self._address.refund(self._cost_s)

    def charge_request(self, used_s: float, *, authenticated: bool) -> None:
        """Charge a request that is over. used_s: its seconds, those it waited included."""
        if authenticated:
            self.authenticate()
        self.charge(min(used_s, REQUEST_S))


class AddressBudgets:
    """Budgets of all addresses that a server's connections come from. Belongs to the event loop."""

    def __init__(self) -> None:
        self.by_address: dict[str, AddressBudget] = {}

    def connection(self, address: str) -> ConnectionBudget:
        """Return a new connection's budget. address: of its other end, "" if it has none."""
        # Budgets that still rest are kept, whatever their number: dropping one would forgive it.
        if len(self.by_address) >= MOST_ADDRESSES:
            for idle in [name for name, budget in self.by_address.items() if budget.is_idle]:
                del self.by_address[idle]
        return ConnectionBudget(self.by_address.setdefault(address, AddressBudget()))
