"""The monitor of a policy's promises: its state, kept by a server, and the status that it gives
each promise.

1. A certified promise bounds a rate. Only that rate speaks against it: an audit that finds it above
   its level takes the support from that promise, and from no other. Labelled requests show false
   and missed refusals; every request shows whether it was refused.
2. It is about "new requests of the same kind". A martingale that rejects "the same kind" puts that
   assumption in doubt: drift is seen. The support stays. Requests of another kind, or a mere change
   in how many of each kind arrive, can leave every promised rate as it was: scores alone cannot
   tell, an audit can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from demur.base.arrays import Bools, Doubles, Floats
from demur.base.errors import DataError
from demur.core.goals.goal import Promise
from demur.core.goals.promised import promised
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.stats.drift import audit, martingale
from demur.stats.drift.audit import Audit
from demur.stats.drift.martingale import Martingale
from demur.stats.drift.scores import series_log_odds, series_names
from demur.stats.drift.sessions import LiveRows, OpenSession, gather, shares_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitor:
    """The state of one policy's monitor; plain numbers, to be stored and read back."""

    series: tuple[Martingale, ...]  # total, then the categories
    audits: tuple[Audit, ...]  # one per certified promise with a level
    open_sessions: tuple[OpenSession, ...] = ()  # not counted before they end
    requests: int = 0  # live scores so far, those of open sessions included

    @property
    def tests(self) -> int:
        """The number of tests, each a chance for a false alarm; alpha is shared among them."""
        return len(self.series) + len(self.audits)

    @property
    def seen(self) -> int:
        """The number of live scores and labels so far."""
        return self.requests + sum(a.rate.of for a in self.audits)

    @property
    def of_traffic(self) -> tuple[Audit, ...]:
        """The audits of promises about all traffic."""
        return tuple(a for a in self.audits if a.of_traffic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """An alarm: evidence against a promise, valid whenever one looks."""

    source: Literal["scores", "labels"]
    about: str  # the series that drifted, or the risk that was audited
    log_e: float  # natural log of the highest evidence so far
    after: int  # live scores or labels seen
    text: str

    @property
    def p_value(self) -> float:
        """Valid at any time: 1 / the highest evidence; alpha is shared among all tests of the
        monitor.
        """
        return math.exp(-self.log_e)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromiseState:
    """A promise with its present status: "no longer supported" if it was certified and there is an
    alarm.
    """

    promise: Promise
    alarms: tuple[Alarm, ...]  # against this promise: its rate is above its level
    drift: tuple[Alarm, ...] = ()  # against its assumption: live scores come from elsewhere
    # about stops, or a slice without a label so far: a rate above its level would go unnoticed
    unlabelled: bool = False


def start_monitor(policy: Policy, reference_NC: Floats, *, learns: bool = True) -> Monitor:
    """Start the monitor of a policy from the scores that its promises were made on. learns: see
    martingale.start_martingale.

    Raises ScoreError on bad scores, DataError without any.
    """
    if len(reference_NC) == 0:
        raise DataError("there is no reference score", "give the scores of the calibrate split")
    names, score_NS = series_names(policy.taxonomy), series_log_odds(reference_NC)
    goals = [
        promised(p.goal) for p in policy.promises if p.status == "certified" and p.level is not None
    ]
    return Monitor(
        series=tuple(
            martingale.start_martingale(n, score_NS[:, s], learns=learns)
            for s, n in enumerate(names)
        ),
        audits=tuple(Audit(goal=goal) for goal in {goal.risk: goal for goal in goals}.values()),
    )


def observe_traffic(
    monitor: Monitor, rows: LiveRows, rng: np.random.Generator, *, ended: bool
) -> Monitor:
    """Update the monitor with live scores and with what they say of promises about all traffic.

    A session counts as one unit, once it has ended; ended: all of them end with these rows. rng:
    breaks ties; it must not depend on scores. Raises what observe_scores raises.
    """
    units, open_sessions = gather(monitor.open_sessions, rows, ended=ended)
    u_US = rng.random((len(units.logp_UC), len(monitor.series)))
    after = observe_scores(monitor, units.logp_UC, u_US)
    audits = list(after.audits)
    for n, own in enumerate(after.of_traffic):
        error_U, of = units.errors_UA[:, n], int(units.requests_U.sum())
        rate = Rate(hits=int(error_U.sum()), of=of)
        at = audits.index(own)
        audits[at] = audit.update_audit(own, error_U / units.requests_U, rate)
    return replace(
        after,
        audits=tuple(audits),
        open_sessions=open_sessions,
        requests=monitor.requests + len(rows.logp_TC),
    )


def observe_scores(monitor: Monitor, logp_UC: Floats, u_US: Doubles) -> Monitor:
    """Update the series with scores that are units of evidence each, in order. u_US: uniform
    numbers, one per score and series.

    Raises ScoreError on bad scores, DataError where scores or uniforms are for another number of
    series.
    """
    score_US = series_log_odds(logp_UC)
    if score_US.shape[1] != len(monitor.series) or u_US.shape != score_US.shape:
        raise DataError(
            f"scores for {score_US.shape[1]} series and uniforms {u_US.shape}, "
            f"{len(monitor.series)} are watched",
            "one uniform number per score and series, scores of the policy's own taxonomy",
        )
    moved = (
        martingale.update_martingale(m, score_US[:, s], u_US[:, s])
        for s, m in enumerate(monitor.series)
    )
    return replace(monitor, series=tuple(moved), requests=monitor.requests + len(logp_UC))


def observe_labels(
    monitor: Monitor, risk: str, error_T: Bools, session_T: Sequence[str | None] | None = None
) -> Monitor:
    """Update the monitor with labels for one promise, in order; True is an error. Raises DataError
    if that risk is not promised.

    session_T: labels of one session are one unit. None: each label is.
    """
    if risk not in [a.risk for a in monitor.audits]:
        known = ", ".join(a.risk for a in monitor.audits) or "none"
        raise DataError(f"no promise about {risk!r} is watched", f"watched: {known}")
    share_U = shares_of(error_T, session_T or [None] * len(error_T))
    rate = Rate(hits=int(error_T.sum()), of=len(error_T))
    moved = (audit.update_audit(a, share_U, rate) if a.risk == risk else a for a in monitor.audits)
    return replace(monitor, audits=tuple(moved))


def check_promises(
    promises: Sequence[Promise], monitor: Monitor, alpha: float = 0.05
) -> tuple[PromiseState, ...]:
    """The status of each promise. Over the whole life of the monitor, P(any false alarm) <= alpha.

    Alpha is shared evenly among series and audits (Bonferroni). Alarms stay: after one, certify
    again on new rows.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha {alpha} must lie in (0, 1)")
    # Ville with alpha / tests for each: evidence of tests / alpha, in logarithms
    bar = math.log(monitor.tests / alpha)
    drifted = tuple(
        Alarm(
            source="scores",
            about=m.series,
            log_e=m.highest_log_e,
            after=m.steps,
            text=f"scores of {m.series} no longer look like the calibration scores",
        )
        for m in monitor.series
        if m.highest_log_e >= bar
    )
    broken = {a.risk: (_label_alarm(a),) for a in monitor.audits if a.highest_log_e >= bar}
    # which answers are stopped is in no live score: labels would have to say it
    unlabelled = {a.risk for a in monitor.audits if (a.sliced or a.goal.midway) and a.rate.of == 0}
    return tuple(
        with_status(
            PromiseState(
                promise=p,
                alarms=broken.get(p.risk, ()),
                drift=drifted,
                unlabelled=p.risk in unlabelled,
            )
        )
        for p in promises
    )


def with_status(watched: PromiseState) -> PromiseState:
    """The promise with the status that its alarms leave it: certified becomes "no longer
    supported".
    """
    if watched.promise.status == "certified" and watched.alarms:
        return replace(watched, promise=replace(watched.promise, status="no longer supported"))
    return watched


def merge_monitors(one: Monitor, other: Monitor) -> Monitor:
    """Merge two states of one monitor, one of which was updated later: the later, with the highest
    evidence of both.

    So an alarm that either has raised stays, whichever was written last.
    """
    late, early = (one, other) if one.seen >= other.seen else (other, one)
    series = (
        replace(a, highest_log_e=max(a.highest_log_e, b.highest_log_e))
        for a, b in zip(late.series, early.series, strict=True)
    )
    audits = (
        replace(a, highest_log_e=max(a.highest_log_e, b.highest_log_e))
        for a, b in zip(late.audits, early.audits, strict=True)
    )
    return replace(late, series=tuple(series), audits=tuple(audits))


def _label_alarm(a: Audit) -> Alarm:
    """The alarm of an audit whose rate is above its level."""
    errors = f"{a.rate.hits} errors among {a.rate.of} audited requests"
    return Alarm(
        source="labels",
        about=a.risk,
        log_e=a.highest_log_e,
        after=a.rate.of,
        text=f"{errors}, promised at most {a.level:g}",
    )
