"""Certification with its ledger: each attempt is written down before anybody sees its result, and
its promises say what confidence remains over all attempts on their rows.

1. The ledger is locked, so that of two attempts at once each knows of the other.
2. An attempt with the arguments of an earlier one costs nothing. A new one costs its delta, or
   takes the next share of the plan that its rows have.
3. It is solved at that delta, written down as granted or not, and its promises get the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from demur.base.errors import ConfigError, GoalInfeasible, PolicyError
from demur.base.files import digest_json
from demur.core.goals.attempts import Attempt, Attempts, Spend, together
from demur.core.goals.goal import Goal
from demur.core.policy import Policy
from demur.core.rates import decimal_fraction
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.certify import CertifyOptions
from demur.store.locks import locked
from demur.store.policies.ledger_file import (
    Ledger,
    Marks,
    add_attempt,
    marks_digest,
    read_ledger,
)
from demur.store.policies.policy_file import policy_to_json

# of a policy before its thresholds: what no threshold depends on
_BESIDE = ("name", "sensitivities", "promises", "signature")
# fields of rows that came later: rows that lack them keep their digest
_LATE = ("answers", "taught_N")
_BESIDE_A_CATEGORY = ("on_refuse", "translations", "curve", "defer_translations")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CertifyRequest:
    """A certification that is to be tried, and the ledger in which it counts."""

    ledger: Path
    goals: Sequence[Goal]
    before: Policy  # its thresholds are still to be chosen
    options: CertifyOptions
    marks: Marks  # of the rows
    data: str = ""  # digest of rows, labels and scores
    spend: Spend | None = None


def certify_counted(request: CertifyRequest, solve: Callable[[CertifyOptions], Policy]) -> Policy:
    """Solve, as an attempt that is written down. Where no goal is promised, only solve.

    Raises what `solve` does, GoalInfeasible also where the plan has no attempt left, ConfigError on
    a plan that contradicts the one that these rows have, and ArtifactError where the ledger cannot
    be read or written: nothing is certified then.
    """
    if not any(goal.promised for goal in request.goals):
        return solve(request.options)
    with locked(request.ledger):
        ledger = read_ledger(request.ledger)
        before = ledger.sharing(request.marks)
        attempt = _next_attempt(request, ledger, before)
        options = replace(request.options, confidence=1.0 - attempt.delta)
        if attempt.spend is None:  # without the float residue of 1 - 0.05
            options = request.options
        try:
            policy = solve(options)
        except (GoalInfeasible, PolicyError) as e:
            _write(request, ledger, attempt)
            words = together(before, attempt).words
            raise type(e)(e.message, "; ".join(filter(None, (e.hint, words)))) from None
        # promises of a kept policy were certified elsewhere, and have a digest
        ours = [p.status == "certified" and p.digest is None for p in policy.promises]
        attempt = replace(attempt, granted=any(ours))
        _write(request, ledger, attempt)
    counted = together(before, attempt)
    promises = (
        replace(p, attempts=counted) if own else p
        for p, own in zip(policy.promises, ours, strict=True)
    )
    return replace(policy, promises=tuple(promises))


def attempts_on(ledger: Path, marks: Marks) -> Attempts | None:
    """What all attempts on these rows come to by now; None without one."""
    found = read_ledger(ledger).sharing(marks)
    return together(found, found[-1]) if found else None


def scored_rows_digest(rows: LabelledScores) -> str:
    """The digest of scored, labelled rows, with all that a certification may read of them."""
    state = hashlib.sha256()
    for part in _parts(rows):
        state.update(f"{len(part)}:".encode())
        state.update(part)
    return f"sha256:{state.hexdigest()}"


def _parts(value: object) -> Iterator[bytes]:
    """The bytes of each field of a record, those of records within it likewise."""
    if is_dataclass(value):
        for one in fields(value):
            if one.name in _LATE and getattr(value, one.name) is None:
                continue
            yield one.name.encode()
            yield from _parts(getattr(value, one.name))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield str(name).encode()
            yield from _parts(one)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    else:
        yield repr(value).encode()


def _next_attempt(request: CertifyRequest, ledger: Ledger, before: Sequence[Attempt]) -> Attempt:
    """The attempt that this request is: the same as before, or a new one with its delta."""
    options = request.options
    key = _key(request)
    attempt = Attempt(
        key=key,
        rows=marks_digest(request.marks),
        goals=tuple(goal.text for goal in request.goals),
        method=options.method,
        seed=options.seed,
        confidence=options.confidence,
        delta=options.delta,
        policy=request.before.name,
        granted=False,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if (same := next((a for a in before if a.key == key), None)) is not None:
        # its own place in the plan, and so its own share of delta
        return replace(
            same, rows=attempt.rows, policy=attempt.policy, time=attempt.time, granted=False
        )
    if request.spend is None:
        return attempt
    return _of_plan(attempt, request.spend, ledger, before)


def _of_plan(attempt: Attempt, spend: Spend, ledger: Ledger, before: Sequence[Attempt]) -> Attempt:
    """The attempt with the next share of its rows' plan, or with the first of a new plan.

    Raises ConfigError where the plan is another, GoalInfeasible where it has no share left.
    """
    planned = [a for a in before if a.plan is not None]
    number, plan = 1, attempt.key
    if planned:
        last = planned[-1]
        if last.spend != spend.text or last.confidence != attempt.confidence:
            raise ConfigError(
                f"spend = {spend.text} at {attempt.confidence:g} beside the plan of these rows, "
                f"{last.spend} at {last.confidence:g}, first used at {planned[0].time}",
                f"go on with it: spend = {last.spend} at confidence {last.confidence:g}; or leave "
                "spend out: the attempt then counts in full beside the plan",
            )
        plan = last.plan or last.key
        # all of the plan, also those that share rows with others of it only
        number = 1 + len({a.key for a in ledger.attempts if a.plan == plan})
    if spend.parts is not None and number > spend.parts:
        raise GoalInfeasible(
            f"all {spend.parts} attempts that were planned on these rows are spent: "
            f"{', '.join(sorted({a.policy for a in planned}))}",
            "label new rows; or leave spend out: the attempt then counts in full beside the plan",
        )
    # delta in exact decimals, times the share
    delta = float(1 - decimal_fraction(attempt.confidence)) * spend.share(number)
    return replace(attempt, spend=spend.text, plan=plan, number=number, delta=delta)


def _write(request: CertifyRequest, ledger: Ledger, attempt: Attempt) -> None:
    """Write an attempt down, unless the same one with the same result stands there."""
    known = (a for a in ledger.attempts if a.key == attempt.key and a.rows == attempt.rows)
    if not any(a.granted == attempt.granted and a.policy == attempt.policy for a in known):
        add_attempt(request.ledger, ledger, attempt, request.marks)


def _key(request: CertifyRequest) -> str:
    """The digest of all arguments that a result depends on. The policy's name is none."""
    options = request.options
    before: dict[str, Any] = policy_to_json(request.before)
    policy = {key: value for key, value in before.items() if key not in _BESIDE}
    policy["categories"] = [
        {key: value for key, value in row.items() if key not in _BESIDE_A_CATEGORY}
        for row in before["categories"]
    ]
    return digest_json(
        {
            "goals": [goal.text for goal in request.goals],
            "confidence": options.confidence,
            "method": options.method,
            "seed": options.seed,
            "learn_share": options.learn_share,
            "shares": None if options.shares is None else dict(options.shares),
            "on_failure": options.on_failure,
            "kept": None if options.kept is None else policy_to_json(options.kept),
            "policy": policy,
            "data": request.data,
            "spend": None if request.spend is None else request.spend.text,
        }
    )
