"""What a promise leaves to be caught: demur beside MAPIE, and beside the thresholds that an oracle
would take.

Usage: python bench/power.py [--draws 21]

Every setting is certified at 90 % on `--draws` draws of simulated rows (bench/certify.py: five
categories of unequal size and sharpness, half of the rows to be refused). The policies are then
measured on 200,000 fresh rows. Printed per way: the median of the setting's figure over the draws
in which something was promised, the share of draws in which it was, and the share in which the
promise does not hold on the fresh rows, which may be up to 10 %. The oracle knows the fresh rows:
the best thresholds per category that keep the levels there; it promises nothing. MAPIE has one
threshold, tests its grid of 100 in a fixed order, and takes the best of what it certifies by the
same figure; it comes with the extra `test`, and is skipped by name where it is not installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from certify import CONFIDENCE, FRESH, POLICY, installed, simulated
from demur.core.decision import compared_scores, decide_many
from demur.core.goals.parse import parse_goals
from demur.core.score import ScoreTable
from demur.stats.labelled import UNCHECKED, LabelledScores
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.losses import grouped_scores
from demur.stats.thresholds.procedures.search import lenient_path

GRID = np.linspace(0.99, 0.0, 100)
JUDGE_ERRS = (0.05, 0.1)  # of rows to be answered, of rows to be refused

Thresholds = tuple[float, ...]
Refused = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A policy on fresh rows: shares of its two errors, and F1."""

    false: float
    missed: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is promised on how many rows, and the figure that tells good thresholds from bad."""

    goals: str
    rows: int
    hands: int = 0  # rows labelled by hand, a judge labelled the others; 0: no judge
    figure: str  # "caught", "false refusals" or "f1"

    @property
    def levels(self) -> tuple[float, float]:
        """The levels of false and of missed refusals; 1 where there is none."""
        own = {g.name: g.level for g in parse_goals(self.goals) if g.level is not None}
        return own.get("false_refusal", 1.0), own.get("missed_refusal", 1.0)

    def value(self, seen: Seen) -> float:
        """The figure."""
        return {"caught": 1 - seen.missed, "false refusals": seen.false, "f1": seen.f1}[self.figure]

    def better(self, seen: Seen) -> float:
        """The figure, larger where it is better."""
        return -self.value(seen) if self.figure == "false refusals" else self.value(seen)

    def kept(self, seen: Seen) -> bool:
        """Whether the promise holds."""
        false, missed = self.levels
        return seen.false <= false and seen.missed <= missed


SETTINGS = (
    Setting(goals="missed_refusal <= 0.2", rows=4000, figure="false refusals"),
    Setting(goals="missed_refusal <= 0.2; f1 max", rows=4000, figure="f1"),
    Setting(goals="false_refusal <= 0.05", rows=4000, figure="caught"),
    Setting(goals="false_refusal <= 0.1; missed_refusal <= 0.2; f1 max", rows=4000, figure="f1"),
    Setting(goals="false_refusal <= 0.05", rows=3000, hands=300, figure="caught"),
    Setting(goals="false_refusal <= 0.05", rows=3000, hands=1000, figure="caught"),
    Setting(goals="missed_refusal <= 0.2", rows=3000, hands=300, figure="false refusals"),
    Setting(goals="missed_refusal <= 0.2; f1 max", rows=3000, hands=300, figure="f1"),
)


def seen(refused_N: Refused, label_N: npt.NDArray[np.int64]) -> Seen:
    """The figures of these decisions."""
    should_N = label_N != 0
    caught, false = int((refused_N & should_N).sum()), int((refused_N & ~should_N).sum())
    return Seen(
        false=false / int((~should_N).sum()),
        missed=1.0 - caught / int(should_N.sum()),
        f1=2.0 * caught / (int(should_N.sum()) + caught + false),
    )


def decided(thresholds: Thresholds, rows: LabelledScores) -> Seen:
    """A policy of these thresholds on these rows."""
    policy = POLICY.with_thresholds(dict(zip(POLICY.taxonomy.names, thresholds, strict=True)))
    return seen(decide_many(policy, rows.table.logp_NC).refuses_N, rows.label_N)


def oracle(setting: Setting, fresh: LabelledScores) -> Seen:
    """The best thresholds per category on the fresh rows that keep the levels there."""
    grouped = grouped_scores(POLICY, fresh, shared=False)
    should_N = fresh.label_N != 0
    path = lenient_path(grouped, 1.0 * ~should_N, 1.0 * should_N, {})
    first_N, steps = path.first_step(grouped), len(path.group_S)
    # Rows caught and rows falsely refused after each step of the path of most caught per false one.
    caught_S, false_S = (
        np.cumsum(np.bincount(first_N[own_N], minlength=steps + 2))[: steps + 1]
        for own_N in (should_N, ~should_N)
    )
    positives, negatives = int(should_N.sum()), int((~should_N).sum())
    found = (
        Seen(false=f / negatives, missed=1 - c / positives, f1=2 * c / (positives + c + f))
        for c, f in zip(caught_S.tolist(), false_S.tolist(), strict=True)
    )
    return max((s for s in found if setting.kept(s)), key=setting.better)


def drawn(setting: Setting, seed: int) -> tuple[LabelledScores, LabelledScores]:
    """Rows to calibrate on, and the part of them whose labels are a hand's: all without a judge."""
    rows, rng = simulated(setting.rows, seed), np.random.default_rng([seed, 1])
    if not setting.hands:
        return rows, rows
    at = np.sort(rng.permutation(setting.rows)[: setting.hands])
    hand_N = np.full(setting.rows, UNCHECKED)
    hand_N[at] = rows.label_N[at]
    errs_N = rng.random(setting.rows) < np.where(rows.label_N == 0, *JUDGE_ERRS)
    judge_N = np.where(errs_N, np.where(rows.label_N == 0, 1, 0), rows.label_N)
    table = ScoreTable(ids=tuple(map(str, at)), logp_NC=rows.table.logp_NC[at])
    alone = LabelledScores(table=table, label_N=rows.label_N[at])
    return replace(rows, label_N=judge_N, hand_N=hand_N), alone


def ours(setting: Setting, rows: LabelledScores, seed: int) -> Thresholds | None:
    """Certified thresholds by "auto"; None where nothing is certified."""
    how = CertifyOptions(confidence=CONFIDENCE, seed=seed, explained=False)
    found = certify(parse_goals(setting.goals), POLICY, rows, how)
    return found.certified.thresholds if isinstance(found, Granted) else None


def mapie(setting: Setting, rows: LabelledScores) -> Thresholds | None:
    """The best threshold of MAPIE's grid by the figure on these rows, of those that it certifies.

    Two risks are tested at half of delta each from their own ends: plain fixed sequences take one.
    """
    # optional, slow to import
    from mapie.risk_control import BinaryClassificationController, recall

    p_N = np.exp(compared_scores(POLICY, rows.table.logp_NC).astype(np.float64))
    false, missed = setting.levels
    sides = [("fpr", false, GRID), ("recall", 1.0 - missed, GRID[::-1])]
    asked = [side for side in sides if 0.0 < side[1] < 1.0]
    valid = set(GRID.tolist())
    for risk, level, grid in asked:
        controller = BinaryClassificationController(
            predict_function=lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
            risk=risk,
            target_level=level,
            confidence_level=1.0 - (1.0 - CONFIDENCE) / len(asked),
            best_predict_param_choice=recall,
            fwer_method="fixed_sequence",
            list_predict_params=grid,
        )
        controller.calibrate(p_N[:, None], (rows.label_N != 0).astype(int))
        valid &= set(np.asarray(controller.valid_predict_params).tolist())
    found = {t: setting.better(seen(p_N >= t, rows.label_N)) for t in sorted(valid)}
    return (max(found, key=lambda t: found[t]),) * 5 if found else None


def row(setting: Setting, found: list[Seen | None]) -> str:
    """Median figure, share granted, share broken."""
    granted = [s for s in found if s is not None]
    if not granted:
        return f"{'-':>9} {0:8.0%} {0:7.0%}"
    median = np.median([setting.value(s) for s in granted])
    broken = sum(not setting.kept(s) for s in granted) / len(found)
    return f"{median:9.1%} {len(granted) / len(found):8.0%} {broken:7.0%}"


def main() -> None:
    """Print a block per setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=21)
    draws, version = parser.parse_args().draws, installed()
    print(
        f"{CONFIDENCE:.0%} confidence, {draws} draws; MAPIE {version or 'not installed: skipped'}"
    )
    fresh = simulated(FRESH, seed=10**6)
    for setting in SETTINGS:
        judged = f", {setting.hands} by hand and the others by a judge" if setting.hands else ""
        print(f"\n{setting.goals}: {setting.figure}; {setting.rows} rows{judged}")
        print(f"{'':22} {'median':>9} {'granted':>8} {'broken':>7}")
        print(f"{'oracle':22} {setting.value(oracle(setting, fresh)):9.1%}")
        pairs = [drawn(setting, seed) for seed in range(draws)]
        ways: dict[str, Callable[[int], Thresholds | None]] = {
            "demur": lambda n, pairs=pairs, own=setting: ours(own, pairs[n][0], n)
        }
        if setting.hands:
            ways["hand labels alone"] = lambda n, pairs=pairs, own=setting: ours(
                own, pairs[n][1], n
            )
        if version:
            name = "MAPIE, hand labels" if setting.hands else "MAPIE"
            ways[name] = lambda n, pairs=pairs, own=setting: mapie(own, pairs[n][1])
        for name, way in ways.items():
            chosen = [way(n) for n in range(draws)]
            found = [decided(t, fresh) if t is not None else None for t in chosen]
            print(f"{name:22} {row(setting, found)}", flush=True)


if __name__ == "__main__":
    main()
