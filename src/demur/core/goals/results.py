"""What was aimed at, what was promised, on what data, how surely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from demur.core.goals.kinds import Goal
from demur.core.goals.promised import PromisedGoal
from demur.core.rates import Rate
from demur.core.slices import Slice

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One goal at the thresholds in question: errors counted, and how surely the level holds."""

    goal: PromisedGoal
    rate: Rate  # errors out of the rows that the goal speaks of
    p_value: float  # P(Binomial(rows, level) <= errors): exact, small when the level surely holds
    # one-sided Clopper-Pearson bound of the rate at the confidence asked for; 1 without rows
    upper: float
    mix: tuple[Slice, ...] = ()  # the same errors and rows by kind, category and source


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """Thresholds that keep every goal of a request, jointly, with the confidence asked for."""

    # probabilities in [0, 1] or inf: one per category, or a single one for one score
    thresholds: tuple[float, ...]
    evidence: tuple[Evidence, ...]  # one per goal, in the order of the request
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CertifiedRange:
    """Every threshold t of one score with lowest <= t <= highest keeps every goal, jointly."""

    lowest: float
    highest: float
    evidence: tuple[Evidence, ...]  # at lowest for false refusals, at highest for missed ones
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncertified:
    """Not certified on these rows, though nothing shows that the goals cannot be met."""

    reason: str
    blocking: PromisedGoal  # the goal that is furthest from being certified
    rows: int  # rows at hand that this goal speaks of
    rows_needed: int | None  # rows of that kind that would do; None if more rows alone would not
    evidence: tuple[Evidence, ...]  # at the thresholds that come closest; empty if there are none


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How low one rate can be made on these rows while every other goal is kept; None: not even
    those can be.
    """

    goal: PromisedGoal
    lowest: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Infeasible:
    """The scores at hand do not allow the goals together, whatever the thresholds."""

    reason: str
    # the first goal, in order of priority, that cannot be met beside those before it
    blocking: PromisedGoal
    reachable: tuple[Reach, ...]  # the trade-off: one per goal
    # whether this holds of all traffic with the confidence asked for, not only of these rows
    proven: bool = False


Failure = Uncertified | Infeasible
