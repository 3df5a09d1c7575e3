"""What a promise leaves to be caught: demur beside what is done without one, MAPIE, and the
thresholds that an oracle would take.

Usage: python bench/power.py [--draws 21] [--only "0.05"]

Every setting is certified at 90 % on `--draws` draws of simulated rows (bench/certify.py: five
categories of unequal size and sharpness, half of the rows to be refused). The policies are then
measured on 200,000 fresh rows. Printed per way, as rows of a table: the median of the setting's
figure over the draws in which something was promised and the range of nine draws in ten, the share
of draws in which it was promised, the realised risk (the promised rate on fresh rows; the larger
one in parts of its level, where two are promised) with its range, and the share of draws in which
the promise does not hold there, which may be up to 10 %.

- swept: one threshold for all, the best by the figure of those at which the rows themselves keep
  the levels; beside a judge by the judge's labels. It promises nothing.
- demur: "auto", and for promises about false refusals the procedures that divide level and delta
  over the categories.
- MAPIE: one threshold; it tests its grid of 100 in a fixed order, the best of what it certifies by
  the same figure; beside a judge on the rows labelled by hand. It comes with the extra `test`, and
  is skipped by name where it is not installed.
- oracle: knows the fresh rows; the best thresholds per category that keep the levels there.
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
    methods: tuple[str, ...] = ("auto",)  # of demur
    safety: float | None = None  # share of level and delta of one category, the others' alike

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

    def risk(self, seen: Seen) -> float:
        """The promised rate; of two, the larger in parts of its level."""
        pairs = [(r, own) for r, own in zip((seen.false, seen.missed), self.levels, strict=True)]
        asked = [(rate, level) for rate, level in pairs if level < 1.0]
        return asked[0][0] if len(asked) == 1 else max(rate / level for rate, level in asked)


DIVIDED = ("auto", "graphical", "budgets")

SETTINGS = (
    Setting(goals="missed_refusal <= 0.2", rows=4000, figure="false refusals"),
    Setting(goals="missed_refusal <= 0.2; f1 max", rows=4000, figure="f1"),
    Setting(goals="false_refusal <= 0.05", rows=1000, figure="caught", methods=DIVIDED),
    Setting(goals="false_refusal <= 0.05", rows=4000, figure="caught", methods=DIVIDED),
    Setting(goals="false_refusal <= 0.05", rows=4000, figure="caught", methods=DIVIDED, safety=0.6),
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


def ours(
    setting: Setting, rows: LabelledScores, seed: int, method: str = "auto"
) -> Thresholds | None:
    """Certified thresholds; None where nothing is certified."""
    shares = None
    if setting.safety is not None and method != "auto":
        shares = dict.fromkeys(POLICY.taxonomy.names, (1.0 - setting.safety) / 4)
        shares["safety"] = setting.safety
    how = CertifyOptions(
        confidence=CONFIDENCE,
        seed=seed,
        method=method,  # type: ignore[arg-type]
        explained=False,
        shares=shares,
    )
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


def swept(setting: Setting, rows: LabelledScores) -> Thresholds | None:
    """The best threshold of those that keep the levels on these rows: no promise."""
    p_N = np.exp(compared_scores(POLICY, rows.table.logp_NC).astype(np.float64))
    found = {float(t): seen(p_N >= t, rows.label_N) for t in np.unique(p_N)[:: len(p_N) // 500]}
    kept = {t: setting.better(own) for t, own in found.items() if setting.kept(own)}
    return (max(kept, key=lambda t: kept[t]),) * 5 if kept else None


def spread(values: list[float]) -> str:
    """The median, and the range of nine in ten."""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def row(setting: Setting, found: list[Seen | None]) -> str:
    """Figure, share granted, realised risk, share broken."""
    granted = [own for own in found if own is not None]
    if not granted:
        return "- | 0% | - | 0%"
    figure, risk = (spread([of(own) for own in granted]) for of in (setting.value, setting.risk))
    broken = sum(not setting.kept(own) for own in granted) / len(found)
    return f"{figure} | {len(granted) / len(found):.0%} | {risk} | {broken:.0%}"


Way = Callable[[tuple[LabelledScores, LabelledScores], int], Thresholds | None]


def ways_of(setting: Setting, version: str | None) -> dict[str, Way]:
    """What is compared, each a function of the rows, those labelled by hand, and a seed."""
    ways: dict[str, Way] = {"swept, no promise": lambda pair, _: swept(setting, pair[0])}
    for method in setting.methods:
        name = "demur" if method == "auto" else f"demur, {method}"
        ways[name] = lambda pair, seed, method=method: ours(setting, pair[0], seed, method)
    if setting.hands:
        ways["demur, hand labels alone"] = lambda pair, seed: ours(setting, pair[1], seed)
    if version:
        name = "MAPIE, hand labels" if setting.hands else "MAPIE"
        ways[name] = lambda pair, _: mapie(setting, pair[1])
    return ways


def main() -> None:
    """Print a table per setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=21)
    parser.add_argument("--only", default="", help="run the settings whose heading holds this")
    args = parser.parse_args()
    version = installed()
    told = version or "not installed: skipped"
    print(f"{CONFIDENCE:.0%} confidence, {args.draws} draws; MAPIE {told}")
    fresh = simulated(FRESH, seed=10**6)
    for setting in SETTINGS:
        judged = f", {setting.hands} by hand and the others by a judge" if setting.hands else ""
        shares = "" if setting.safety is None else f", {setting.safety:.0%} of shares for safety"
        heading = f"`{setting.goals}`, {setting.rows:,} rows{judged}{shares}"
        if args.only not in heading:
            continue
        print(f"\n| {heading} | {setting.figure} | granted | realised risk | broken |")
        print("|---|---|---|---|---|")
        pairs = [drawn(setting, seed) for seed in range(args.draws)]
        for name, way in ways_of(setting, version).items():
            chosen = [way(pair, seed) for seed, pair in enumerate(pairs)]
            found = [decided(t, fresh) if t is not None else None for t in chosen]
            print(f"| {name} | {row(setting, found)} |", flush=True)
        best = oracle(setting, fresh)
        print(f"| oracle | {setting.value(best):.1%} | | {setting.risk(best):.1%} | |")


if __name__ == "__main__":
    main()
