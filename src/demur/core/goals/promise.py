"""The promise that a policy carries: a goal, and how surely it holds on which rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from demur.core.goals.goal import Goal
from demur.core.goals.slices import Slice
from demur.core.rates import Rate

Status = Literal["certified", "measured", "uncertified", "no longer supported", "not certified"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """A statement about a policy that can be checked later.

    "certified": risk <= level on new requests of the same kind, with the stated confidence over the
    draw of the calibration rows; all certified promises of a policy hold together with that
    confidence. "measured": only what was observed on the calibration rows, no guarantee.
    "uncertified": asked for and not granted; `on_failure` says what the caller had chosen for that
    case. "no longer supported": was certified, but live requests or labels speak against it
    (demur.stats.drift). "not certified": its file says certified, and does not bear that out
    (demur.store.policies.binding); `fault` says why.
    """

    # what is bounded, and where; or of what it is the best. As `stated`: files hold its risk and
    # level
    goal: Goal
    confidence: float | None  # 1 - delta; None unless certified, now or once
    status: Status
    # what the chosen thresholds do on the rows it was tested on; None where it is not a rate
    rate: Rate | None
    data_digest: str  # of the rows and scores it was chosen on
    method: str  # procedure and its source
    on_failure: str = "stop"  # the caller's choice: stop, hard_only, or keep:<name of a policy>
    # the rows of `rate` by kind, category and source: what the promise averages over
    mix: tuple[Slice, ...] = ()
    # digest of the ids of the rows of `rate`; None where they are not the run's, or not known
    rows: str | None = None
    digest: str | None = (
        # of what it speaks of: demur.store.policies.binding; None in files that older versions
        # wrote
        None
    )
    fault: str | None = None  # why it is "not certified", found on reading; no file holds it

    @property
    def risk(self) -> str:
        """What it is about: "false_refusal", "refusal_rate[safety]", "f1", ..."""
        return self.goal.risk

    @property
    def level(self) -> float | None:
        """The bound, or the rate to be met; None where the goal was an optimum."""
        return self.goal.level
