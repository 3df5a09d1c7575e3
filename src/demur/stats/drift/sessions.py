"""Sessions: requests of one conversation or user err together, so a session is one unit of
evidence.

1. A request that names no session is a unit of its own, at once.
2. The requests of a session are gathered until it ends: after IDLE_S without a request of it, or
   with its request MOST_REQUESTS. So one name for all traffic hides no traffic.
3. The unit that a session becomes has the score of one of its requests, each as likely, and the
   share of them that errs. So units are as exchangeable as sessions are, whatever happens within
   one, if the order in which sessions end tells nothing of their scores.
   A session of more than MOST_REQUESTS becomes several units, taken to be independent.
4. At most MOST_OPEN sessions stay open. Further ones are left out until there is room: which ones
   depends on no score. So the state has one size at most, however much traffic comes. Where all
   sessions end with the rows at hand, none stays open and none is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Floats

IDLE_S = 1800.0  # the custom of web statistics
MOST_REQUESTS = 100  # of a session
MOST_OPEN = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSession:
    """What is kept of a session that has not ended."""

    key: str  # stands for the session
    last_s: float  # when its last request came
    requests: int
    logp_C: tuple[float, ...]  # the score of one of its requests, each as likely
    errors_A: tuple[int, ...]  # of its requests, for each promise about all traffic


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveRows:
    """T live scores in order, with what is needed to tell sessions apart."""

    logp_TC: Floats
    error_TA: Bools  # whether each errs, for each promise about all traffic
    session_T: Sequence[str | None]  # None: a unit of its own
    at_T: Sequence[float]  # when they came, in seconds; all alike where that is not known
    draw_T: Doubles  # uniform in [0, 1): draws the request that stands for a session


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Units:
    """U units of evidence in the order in which they were complete."""

    logp_UC: Floats
    requests_U: Doubles
    errors_UA: Doubles


def gather(
    open_sessions: Sequence[OpenSession], rows: LiveRows, *, ended: bool
) -> tuple[Units, tuple[OpenSession, ...]]:
    """Add live scores to the open sessions: the units that are complete, and what is open then.

    ended: all sessions end with these rows.
    """
    # by key, the one whose last request is the oldest first
    found = {s.key: s for s in open_sessions}
    done: list[OpenSession] = []
    for t, (key, at) in enumerate(zip(rows.session_T, rows.at_T, strict=True)):
        while found and (oldest := next(iter(found.values()))).last_s < at - IDLE_S:
            done.append(found.pop(oldest.key))
        alone = _opened(rows, t)
        if key is None:
            done.append(alone)
            continue
        if key not in found and not ended and len(found) >= MOST_OPEN:
            continue
        session = _joined(found.pop(key), alone, rows.draw_T[t]) if key in found else alone
        if session.requests >= MOST_REQUESTS:
            done.append(session)
        else:
            found[key] = session
    if ended:
        done += found.values()
        found = {}
    return _units(done, rows), tuple(found.values())


def units_of_sessions(session_N: Sequence[str | None]) -> list[str | None]:
    """The unit of each row: its session, of which each MOST_REQUESTS rows are one; None: alone."""
    seen: dict[str, int] = {}
    found: list[str | None] = []
    for session in session_N:
        if session is None:
            found.append(None)
            continue
        rows = seen[session] = seen.get(session, -1) + 1
        found.append(f"{rows // MOST_REQUESTS} {session}")
    return found


def shares_of(error_N: Bools, session_N: Sequence[str | None]) -> Doubles:
    """The error share of each unit among labelled requests, in the order of its last request."""
    counts: dict[str, list[int]] = {}
    for n, (error, session) in enumerate(zip(error_N.tolist(), session_N, strict=True)):
        # no key of a session begins with "#"
        key = f"#{n}" if session is None else session
        hits, of = counts.pop(key, [0, 0])
        counts[key] = [hits + error, of + 1]
    return np.array([hits / of for hits, of in counts.values()], dtype=np.float64)


def _opened(rows: LiveRows, t: int) -> OpenSession:
    """A session of one request."""
    return OpenSession(
        key=rows.session_T[t] or "",
        last_s=float(rows.at_T[t]),
        requests=1,
        logp_C=tuple(rows.logp_TC[t].tolist()),
        errors_A=tuple(rows.error_TA[t].astype(int).tolist()),
    )


def _joined(session: OpenSession, more: OpenSession, draw: float) -> OpenSession:
    """A session with one more request."""
    requests = session.requests + 1
    # The n-th request takes the place with probability 1 / n: then each of n is as likely to have
    # it (reservoir sampling).
    logp_C = more.logp_C if draw * requests < 1.0 else session.logp_C
    errors = zip(session.errors_A, more.errors_A, strict=True)
    return replace(
        session,
        last_s=max(session.last_s, more.last_s),
        requests=requests,
        logp_C=logp_C,
        errors_A=tuple(a + b for a, b in errors),
    )


def _units(done: Sequence[OpenSession], rows: LiveRows) -> Units:
    """Sessions that have ended, as arrays."""
    units, columns, audits = len(done), rows.logp_TC.shape[1], rows.error_TA.shape[1]
    return Units(
        logp_UC=np.array([s.logp_C for s in done], dtype=np.float32).reshape(units, columns),
        requests_U=np.array([s.requests for s in done], dtype=np.float64),
        errors_UA=np.array([s.errors_A for s in done], dtype=np.float64).reshape(units, audits),
    )
