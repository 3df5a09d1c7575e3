"""Promises about slices on real prompts: the worst slice of each facet, with and without a goal in
every slice, over random halves.

    python bench/slices.py RUN [--halves 300] [--level 0.2] [--confidence 0.95] [--least 250]

RUN is a run folder whose calibrate and test rows are scored; no model is called. Both splits are
one pool, halved at random again and again, whole units at a time. Thresholds are certified on one
half and looked at on the other, which has as many rows and so a noise of its own: beside the rate
of the worst slice it is counted how often a slice lies above its level there at all, and how often
so far that an exact 95% interval of that half excludes the level. The other error is what
the promise costs: missed refusals beside a promise of false ones, and the other way round. Slices
with fewer rows than --least in the pool are one slice, "rest".
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from demur.base.arrays import Bools, Ints
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goals
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.core.rows.facets import FACETS, Facet
from demur.core.score import ScoreTable
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores, label_scores, traits_from
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

REST = "rest"
MEASURES = ("false_refusal", "missed_refusal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Half:
    """What one half says of the thresholds that the other half certified."""

    worst: float  # the highest rate of a slice
    above: bool  # whether some slice is above the level here
    surely: bool  # whether an exact 95% interval of this half says so
    price: float  # the other error, over all rows: what the promise costs


def pooled(run: Path, least: int) -> tuple[Policy, LabelledScores]:
    """The policy of a run without thresholds, and its calibrate and test rows together."""
    folder = RunFolder(run)
    policy = read_policy(folder.policy)
    never = dict.fromkeys(policy.taxonomy.names, NEVER)
    template = replace(policy.with_thresholds(never), promises=())
    examples = [e for split in ("calibrate", "test") for e in read_examples(folder.split(split))]
    tables = [read_scores(folder.scores(split))[0] for split in ("calibrate", "test")]
    table = ScoreTable(
        ids=tuple(i for t in tables for i in t.ids),
        logp_NC=np.concatenate([t.logp_NC for t in tables]),
    )
    rows = label_scores(examples, template.taxonomy, table)
    assert rows.traits is not None  # rows of the data stage have them
    common: dict[Facet, list[str]] = {}
    for facet in rows.traits.columns:
        value_N = rows.traits.of(facet).tolist()
        times = Counter(value_N)
        # categories are the taxonomy's: a goal in every category speaks of all of them
        if facet != "category":
            value_N = [value if times[value] >= least else REST for value in value_N]
        common[facet] = value_N
    return template, replace(rows, traits=traits_from(common))


def half(rows: LabelledScores, at: Ints) -> LabelledScores:
    """Some of the rows."""
    assert rows.traits is not None
    assert rows.group_N is not None
    assert rows.count_N is not None
    return LabelledScores(
        table=ScoreTable(
            ids=tuple(rows.table.ids[n] for n in at.tolist()), logp_NC=rows.table.logp_NC[at]
        ),
        label_N=rows.label_N[at],
        group_N=rows.group_N[at],
        count_N=rows.count_N[at],
        traits=rows.traits.select(at),
    )


def halves(rows: LabelledScores, times: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Random halves of the rows, whole units at a time."""
    assert rows.group_N is not None
    rng, units = np.random.default_rng(seed), int(rows.group_N.max()) + 1
    for _ in range(times):
        first_N = rng.permutation(units)[rows.group_N] < units // 2
        yield np.flatnonzero(first_N), np.flatnonzero(~first_N)


def slices_of(rows: LabelledScores, facet: Facet, measure: str) -> list[Bools]:
    """The rows of each slice that the measure speaks of."""
    assert rows.traits is not None
    among_N = (rows.label_N == 0) == (measure == "false_refusal")
    return [
        among_N & rows.traits.within(facet, (name,)) for name in rows.traits.values(facet, among_N)
    ]


def looked_at(
    policy: Policy, rows: LabelledScores, facet: Facet, measure: str, level: float
) -> Half:
    """The slices of other rows under certified thresholds."""
    refused_N = decide_many(policy, rows.table.logp_NC).refuses_N
    error_N = refused_N if measure == "false_refusal" else ~refused_N
    rates = [
        Rate(hits=int(error_N[own_N].sum()), of=int(own_N.sum()))
        for own_N in slices_of(rows, facet, measure)
    ]
    return Half(
        worst=max(rate.value for rate in rates),
        above=any(rate.value > level for rate in rates),
        surely=any(rate.interval()[0] > level for rate in rates),
        price=float((~error_N)[(rows.label_N == 0) != (measure == "false_refusal")].mean()),
    )


def certified(
    goal: str, template: Policy, rows: LabelledScores, confidence: float
) -> Policy | None:
    """The policy that a half certifies; None where it certifies none."""
    how = CertifyOptions(confidence=confidence, explained=False)
    found = certify(parse_goals(goal), template, rows, how)
    if not isinstance(found, Granted):
        return None
    thresholds = zip(template.taxonomy.names, found.certified.thresholds, strict=True)
    return template.with_thresholds(dict(thresholds))


def line(name: str, seen: Sequence[Half], times: int) -> str:
    """A row of the table."""
    if not seen:
        return f"| {name} | 0 % | - | - | - | - | - |"
    worst = [one.worst for one in seen]
    shares = [sum(one.above for one in seen), sum(one.surely for one in seen)]
    return (
        f"| {name} | {100 * len(seen) / times:.0f} % | {100 * np.mean(worst):.1f} % | "
        f"{100 * np.quantile(worst, 0.95):.1f} % | "
        + " | ".join(f"{100 * n / len(seen):.0f} %" for n in shares)
        + f" | {100 * np.mean([one.price for one in seen]):.0f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--halves", type=int, default=300)
    parser.add_argument("--level", type=float, default=0.2)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--least", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    template, rows = pooled(args.run, args.least)
    print(f"{len(rows.label_N)} rows, level {args.level:g}, confidence {args.confidence:g}\n")
    print(
        "| promise | granted | worst slice, mean | 95 % quantile | above | surely | other error |"
    )
    print("|---|---|---|---|---|---|---|")
    for facet in FACETS:
        for measure in MEASURES:
            parts = slices_of(rows, facet, measure)
            # what rows to be answered only resemble is no slice of them
            if len(parts) < 2 or (facet, measure) == ("category", "false_refusal"):
                continue
            for every in ("", f" in every {facet}"):
                goal, seen = f"{measure} <= {args.level:g}{every}", []
                for first, other in halves(rows, args.halves, args.seed):
                    policy = certified(goal, template, half(rows, first), args.confidence)
                    if policy is not None:
                        seen.append(
                            looked_at(policy, half(rows, other), facet, measure, args.level)
                        )
                name = f"`{measure} <= {args.level:g}`{every} ({len(parts)} slices by {facet})"
                print(line(name, seen, args.halves), flush=True)


if __name__ == "__main__":
    sys.exit(main())
