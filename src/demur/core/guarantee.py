"""What was aimed at, what was promised, on what data, how surely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from demur.core.rates import Rate

Status = Literal["certified", "measured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """A statement about a policy that can be checked later.

    "certified": risk <= level on new requests of the same kind, with the stated confidence over the draw of the
    calibration rows. "measured": only what was observed on the calibration rows, no guarantee.
    """

    risk: str  # what is bounded: "false_refusal", "refusal_rate[safety]", "f1", ...
    level: float | None  # the bound asked for; None where the goal was an optimum
    confidence: float | None  # 1 - delta; None for "measured"
    status: Status
    rate: Rate | None  # what the chosen thresholds do on the calibration rows; None where it is not a rate
    data_digest: str  # of the rows and scores it was chosen on
    method: str  # procedure and its source


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """The most lenient threshold that keeps a promise."""

    threshold: float  # probability in [0, 1], or inf: never refuse
    rate: Rate  # errors at that threshold, out of the rows that could err


@dataclass(frozen=True, kw_only=True, slots=True)
class Infeasible:
    """No threshold keeps the promise on these rows."""

    reason: str
    rows: int  # rows at hand
    rows_needed: int  # the fewest rows with which the promise could be kept (with no error among them)
