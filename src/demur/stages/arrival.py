"""The calibrate rows that thresholds were chosen on: which they are, and their order under the
method "anytime": as their labels came, over all looks at them.

1. Rows of earlier looks keep the places that the ledger gave them. All of them must still be there,
   labelled as they were: labels that leave or change could undo evidence that spoke against a goal.
2. New rows come after them, in an order drawn by the seed: they were labelled since the last look,
   in whatever order the file has them. Rows of one unit stay together, in an order that
   is drawn, too.
3. The first rows of the first look fix the thresholds that are tested.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demur.base.errors import ConfigError, DataError
from demur.base.files import digest_json
from demur.core.example import Example
from demur.core.goals.goal import Goal
from demur.core.goals.promised import PromisedGoal
from demur.core.settings import NONE, CalibrateSettings
from demur.stats.sample import DividedRows, divide_rows, whole
from demur.stats.thresholds.problem import Arrived
from demur.store.locks import locked
from demur.store.policies.choice_file import read_choice
from demur.store.policies.ledger_file import Arrivals, Marks, add_arrivals, read_ledger
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder

METHOD = "anytime"
LEARN_SHARE = 0.4  # of the first look's rows
_OF_ARRIVALS = 0xA441  # a stream of its own, whatever the caller's seed also drew


def left_rows(folder: RunFolder, sources: Sequence[str] | None = None) -> DividedRows:
    """The calibrate rows as the calibration divided them: all are left for thresholds where no
    calibrator was fitted. sources: None: those that the run's policy was calibrated on.
    """
    examples = read_policy_rows(folder, "calibrate", sources)
    choice = read_choice(folder.calibrator)
    return whole(examples) if choice is None else divide_rows(examples, choice.share, choice.seed)


def check_anytime(config: CalibrateSettings, goals: Sequence[Goal], missing: int) -> None:
    """Raise ConfigError on what changes with rows that come later, beside the method "anytime"."""
    beside = {
        f"calibrator = {config.calibrator!r}": config.calibrator != NONE,
        "human_labels": config.human_labels is not None,
        "mix": bool(config.mix),
        "mix_by": config.mix_by is not None,
        "spend": config.spend is not None,
        f"{missing} prompts without an outcome": missing > 0,
        "goals in every slice": any(isinstance(g, PromisedGoal) and g.every for g in goals),
    }
    if found := [name for name, given in beside.items() if given]:
        raise ConfigError(
            f"method {METHOD!r} beside {', '.join(found)}: what it tests must stay as it was at "
            "the first look, whatever rows come later",
            "leave one out; name slices one by one",
        )


def in_arrival_order(
    config: CalibrateSettings, folder: RunFolder, examples: Sequence[Example]
) -> tuple[list[Example], Arrived]:
    """The rows in the order in which they came, and how many fix the thresholds. New rows are added
    to the run's ledger.

    Raises DataError where rows of an earlier look are gone or labelled otherwise.
    """
    key = arrival_key(config.seed, config.sources)
    with locked(folder.ledger):
        known = read_ledger(folder.ledger).arrivals.get(key)
        ordered, fresh = _ordered(known, examples, config.seed)
        learn = 0 if known is not None else _learning(fresh)
        if fresh:
            marks = _marks([*ordered, *fresh])[len(ordered) :]
            add_arrivals(folder.ledger, key, learn, marks)
    if known is None:
        return fresh, Arrived(learn=learn, first=len(fresh))
    return [*ordered, *fresh], Arrived(learn=known.learn, first=known.first)


def in_known_order(
    folder: RunFolder, settings: Mapping[str, Any], examples: Sequence[Example]
) -> tuple[list[Example], Arrived]:
    """The rows in the order that an earlier look gave them. settings: of its receipt.

    Raises DataError where the run's ledger does not have them all.
    """
    seed = int(settings.get("seed", 0))
    key = arrival_key(seed, settings.get("sources", ()))
    known = read_ledger(folder.ledger).arrivals.get(key)
    ordered, fresh = _ordered(known, examples, seed)
    if known is None or fresh:
        raise DataError(
            f"{folder.ledger} does not hold the order of {len(fresh)} of the {len(examples)} rows",
            "restore it, or calibrate again",
        )
    return ordered, Arrived(learn=known.learn, first=known.first)


def arrival_key(seed: int, sources: Sequence[str]) -> str:
    """The digest of the settings that rows are ordered by."""
    return digest_json({"seed": seed, "sources": sorted(sources)})


def _ordered(
    known: Arrivals | None, examples: Sequence[Example], seed: int
) -> tuple[list[Example], list[Example]]:
    """The rows of earlier looks in their order, and the new ones in theirs."""
    marks = _marks(examples).tolist()
    by_mark = dict(zip(marks, examples, strict=True))
    places = [] if known is None else known.marks.tolist()
    if gone := sum(mark not in by_mark for mark in places):
        raise DataError(
            f"method {METHOD!r}: {gone} of the {len(places)} rows of earlier looks are gone from "
            "the calibrate rows, or labelled otherwise",
            "restore them, and only add rows; any other method may be used on these rows, as one "
            "more attempt",
        )
    old = set(places)
    fresh = [e for mark, e in zip(marks, examples, strict=True) if mark not in old]
    # Places of units, and of rows within each, drawn by the seed and the number of rows before.
    # The first row of a unit speaks for it, so the file must not choose it: of exponential times
    # with these rates, the first is each row's with its part of the unit's requests.
    rng = np.random.default_rng([seed, len(places), _OF_ARRIVALS])
    units = list(dict.fromkeys(_unit(e) for e in fresh))
    drawn = rng.permutation(len(units))
    place = {unit: int(drawn[n]) for n, unit in enumerate(units)}
    times = rng.exponential(size=len(fresh)).tolist()
    in_order = sorted(
        zip(fresh, times, strict=True),
        key=lambda one: (place[_unit(one[0])], one[1] / one[0].count),
    )
    return [by_mark[mark] for mark in places], [e for e, _ in in_order]


def _learning(rows: Sequence[Example]) -> int:
    """How many of these rows fix the thresholds: whole units, and at least their share."""
    learn = math.ceil(LEARN_SHARE * len(rows))
    while learn < len(rows) and _unit(rows[learn - 1]) == _unit(rows[learn]):
        learn += 1
    return learn


def _unit(example: Example) -> tuple[str, str]:
    return ("row", example.id) if example.unit is None else ("unit", example.unit)


def _marks(examples: Sequence[Example]) -> Marks:
    """A digest of each row's prompt and label; rows that are alike are numbered."""
    texts, seen = [], Counter[str]()
    for e in examples:
        text = json.dumps([[[m.role, m.content] for m in e.prompt], e.kind, e.label])
        texts.append(f"{seen[text]} {text}")
        seen[text] += 1
    found = b"".join(hashlib.sha256(t.encode()).digest()[:8] for t in texts)
    return np.frombuffer(found, dtype="<u8").astype(np.uint64)
