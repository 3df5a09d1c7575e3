"""Time that connections without a key get: a fifth of the event loop's for each address that they
come from.

1. A connection is a stranger until one of its requests has been let in with a key.
2. What strangers cost is charged to their address: being accepted, heads and bodies that are
   parsed, answers.
3. After each piece of work the address rests for four times as long. Its strangers wait in line
   meanwhile, unread, in the order in which they spoke; where too many wait, further ones are hung
   up on. Other addresses, and connections that have shown a key, are served as if nobody waited.
4. Who shows a key has cost the address nothing: clients that make a connection for each request do
   not slow each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

REST_FACTOR = 2.0  # times as long as the work before it, for one connection or one key
ADDRESS_REST_FACTOR = 4.0  # the same for all strangers of one address
ACCEPT_S = 0.0003  # that making a connection takes
REQUEST_S = 0.02  # that answering a request without a key takes at most; it may also have waited
MOST_WAITING = 128  # strangers of one address
MOST_ADDRESSES = 4096  # addresses kept before those that rest no more are forgotten


class AddressBudget:
    """One address. Belongs to the event loop."""

    def __init__(self) -> None:
        self._free_s = 0.0  # when it has rested
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Whether a stranger is served at once."""
        return not self._waiting and perf_counter() >= self._free_s

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be remembered of it."""
        return self.is_free and self._timer is None

    def charge(self, used_s: float) -> None:
        """Work was done for it."""
        self._free_s = max(self._free_s, perf_counter()) + ADDRESS_REST_FACTOR * used_s

    def refund(self, used_s: float) -> None:
        """Work was done for somebody with a key."""
        self._free_s -= ADDRESS_REST_FACTOR * used_s

    def wait(self, go: Callable[[], None]) -> bool:
        """Call back when it is this stranger's turn. False: too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append(go)
        self._set_timer()
        return True

    def _set_timer(self) -> None:
        if self._timer is None:
            rest_s = max(0.0, self._free_s - perf_counter())
            self._timer = asyncio.get_running_loop().call_later(rest_s, self._next)

    def _next(self) -> None:
        self._timer = None
        if perf_counter() >= self._free_s:
            self._waiting.popleft()()
        if self._waiting:
            self._set_timer()


class ConnectionBudget:
    """One connection's standing. is_known: a request of it was let in with a key."""

    def __init__(self, source: AddressBudget) -> None:
        self._address = source
        self._cost_s = 0.0  # charged to its address
        # with its first words, which are not to wait for it, or when it leaves without any
        self._unpaid_s = ACCEPT_S
        self.is_authenticated = False

    @property
    def may_parse(self) -> bool:
        """Whether what it says is looked at now."""
        return self.is_authenticated or self._address.is_free

    def wait(self, go: Callable[[], None]) -> bool:
        """See Source.wait."""
        return self._address.wait(go)

    def charge(self, used_s: float) -> None:
        """Work was done for it: a stranger's address pays."""
        if not self.is_authenticated:
            cost_s, self._unpaid_s = used_s + self._unpaid_s, 0.0
            self._cost_s += cost_s
            self._address.charge(cost_s)

    def authenticate(self) -> None:
        """A request of it came with a key."""
        if not self.is_authenticated:
            self.is_authenticated = True
            self._address.refund(self._cost_s)

    def charge_request(self, used_s: float, *, authenticated: bool) -> None:
        """A request of it is over. used_s: with what it waited for."""
        if authenticated:
            self.authenticate()
        self.charge(min(used_s, REQUEST_S))


class AddressBudgets:
    """The addresses that a server's connections come from. Belongs to the event loop."""

    def __init__(self) -> None:
        self.by_address: dict[str, AddressBudget] = {}

    def connection(self, address: str) -> ConnectionBudget:
        """A new connection. address: of its other end, "" where it has none."""
        if len(self.by_address) >= MOST_ADDRESSES:
            for idle in [name for name, source in self.by_address.items() if source.is_idle]:
                del self.by_address[idle]
        return ConnectionBudget(self.by_address.setdefault(address, AddressBudget()))
