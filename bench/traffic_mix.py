"""Promises for traffic of another mix than the rows', which is known from unlabelled requests only.

Usage: python bench/traffic_mix.py [--draws 100]

Tenants: rows are mostly of tenant "easy", traffic is mostly of "hard", whose requests to be
answered are refused more often. Label shift: half of the rows are to be refused, a tenth of traffic
is. Every way is certified at 90 % on `--draws` draws of rows and of traffic, and measured on
50,000 fresh requests of the traffic's mix. Printed per way: the share of draws in which something
was promised, in which the promise does not hold on the fresh requests (at most 10 % may), and the
median of what the promised policies catch.

- rows' mix: nothing is known of traffic.
- seen as true: the shares that were seen, stated as if they were known (`mix`).
- within bounds: promised for every mix within the exact bounds of what was seen (`mix_by`).
- known: the true shares, stated: the oracle of shares.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from certify import CONFIDENCE, POLICY, simulated
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goals
from demur.core.score import ScoreTable
from demur.stats.labelled import LabelledScores, promised_for, traits_from, unlabelled_rows
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.traffic.mix import UnlabelledTraffic, promised_for_traffic

TENANTS = np.array(["easy", "hard"])
ROWS_HARD, TRAFFIC_HARD = 0.3, 0.7
HARDER = 1.5  # off the logit of respond, of requests of "hard" that are to be answered
TRAFFIC_REFUSED = 0.1
TENANT_GOAL, LABEL_GOAL = "false_refusal <= 0.05", "precision >= 0.6"
ROWS, REQUESTS, FRESH = (1000, 4000), (300, 3000), 50_000

Numbers = npt.NDArray[np.int64]
Way = Callable[[], LabelledScores]


@dataclass(frozen=True, kw_only=True, eq=False)
class Requests:
    """Scored requests, each with its tenant."""

    rows: LabelledScores
    tenant_N: Numbers

    def promised(self) -> LabelledScores:
        """The rows, which say their tenants."""
        names = {"tenant": TENANTS[self.tenant_N].tolist()}
        return replace(self.rows, traits=traits_from(names))  # type: ignore[arg-type]

    def traffic(self) -> UnlabelledTraffic:
        """The same without labels."""
        ids = tuple(f"live {i}" for i in self.rows.table.ids)
        table = ScoreTable(ids=ids, logp_NC=self.rows.table.logp_NC)
        return UnlabelledTraffic(
            rows=unlabelled_rows(table),
            values={"tenant": TENANTS[self.tenant_N].tolist()},
            name="traffic",
            digest="sha256:",
        )


def drawn(n: int, seed: int, *, hard: float, refused: float | None = None) -> Requests:
    """Requests of which this share is of "hard"; refused: the share to be refused, else half."""
    rows, rng = simulated(n if refused is None else 3 * n, seed), np.random.default_rng([seed, 7])
    at = np.arange(len(rows.label_N))
    if refused is not None:
        own = rng.random(n) < refused
        at = np.concatenate(
            [
                np.flatnonzero(rows.label_N != 0)[: int(own.sum())],
                np.flatnonzero(rows.label_N == 0)[: int((~own).sum())],
            ]
        )
    label_N = rows.label_N[at]
    tenant_N = (rng.random(len(at)) < hard).astype(np.int64)
    logit_NC = rows.table.logp_NC[at].astype(np.float64)
    logit_NC[:, 0] -= HARDER * ((tenant_N == 1) & (label_N == 0))
    logp_NC = logit_NC - np.logaddexp.reduce(logit_NC, axis=1, keepdims=True)
    table = ScoreTable(
        ids=tuple(map(str, range(len(at)))), logp_NC=np.minimum(logp_NC, 0).astype(np.float32)
    )
    return Requests(rows=LabelledScores(table=table, label_N=label_N), tenant_N=tenant_N)


def measured(goal: str, rows: LabelledScores, fresh: LabelledScores) -> tuple[bool, float] | None:
    """(whether the promise holds on fresh requests, share caught); None where none is made."""
    how = CertifyOptions(confidence=CONFIDENCE, explained=False)
    (asked,) = parse_goals(goal)
    found = certify([asked], POLICY, rows, how)
    if not isinstance(found, Granted):
        return None
    names = dict(zip(POLICY.taxonomy.names, found.certified.thresholds, strict=True))
    refused_N = decide_many(POLICY.with_thresholds(names), fresh.table.logp_NC).refuses_N
    wrong = refused_N & (fresh.label_N == 0)
    of = refused_N if goal.startswith("precision") else fresh.label_N == 0
    assert asked.level is not None
    return wrong.sum() / max(of.sum(), 1) <= asked.level, refused_N[fresh.label_N != 0].mean()


def tenant_ways(n: int, requests: int, seed: int) -> dict[str, Way]:
    """The ways to promise for another mix of tenants."""
    rows = drawn(n, seed, hard=ROWS_HARD)
    live = drawn(requests, 10**5 + seed, hard=TRAFFIC_HARD)
    own = rows.promised()

    def stated(hard: float) -> LabelledScores:
        # half of the requests of either tenant are to be answered
        return promised_for(own, {"tenant": {"easy": 1.0 - hard, "hard": hard}})

    return {
        "rows' mix": lambda: own,
        "seen as true": lambda: stated(float(live.tenant_N.mean())),
        "within bounds": lambda: promised_for_traffic(
            own, "tenant", live.traffic(), POLICY.taxonomy.choices
        ),
        "known": lambda: stated(TRAFFIC_HARD),
    }


def label_ways(n: int, requests: int, seed: int) -> dict[str, Way]:
    """The ways to promise for another share of refusals."""
    rows = drawn(n, seed, hard=0.0)
    live = drawn(requests, 10**5 + seed, hard=0.0, refused=TRAFFIC_REFUSED)
    return {
        "rows' mix": lambda: rows.rows,
        "within bounds": lambda: promised_for_traffic(
            rows.rows, "refusal", live.traffic(), POLICY.taxonomy.choices
        ),
    }


def table(
    goal: str, ways_of: Callable[[int, int, int], dict[str, Way]], fresh: LabelledScores, draws: int
) -> None:
    """Print a block per number of rows and of requests."""
    for n in ROWS:
        for requests in REQUESTS:
            print(f"\n{goal}: {n} rows, {requests} requests of traffic")
            print(f"{'':16} {'granted':>8} {'broken':>7} {'caught':>7}")
            found: dict[str, list[tuple[bool, float] | None]] = {}
            for seed in range(draws):
                for name, way in ways_of(n, requests, seed).items():
                    found.setdefault(name, []).append(measured(goal, way(), fresh))
            for name, each in found.items():
                made = [one for one in each if one is not None]
                broken = sum(not kept for kept, _ in made) / len(each)
                caught = f"{np.median([c for _, c in made]):7.1%}" if made else "      -"
                print(f"{name:16} {len(made) / len(each):8.0%} {broken:7.1%} {caught}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    print(f"{CONFIDENCE:.0%} confidence, {draws} draws")
    table(TENANT_GOAL, tenant_ways, drawn(FRESH, 10**6, hard=TRAFFIC_HARD).rows, draws)
    shifted = drawn(FRESH, 10**6, hard=0.0, refused=TRAFFIC_REFUSED).rows
    table(LABEL_GOAL, label_ways, shifted, draws)


if __name__ == "__main__":
    main()
