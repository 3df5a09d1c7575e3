"""Promises for the mix of unlabelled traffic, whose shares are known from some requests only. Taken
for the truth they break promises; within their bounds they do not.

A promise is broken where thresholds are certified whose true rate lies above the level. Thresholds
are tested in a fixed order, so that this happens with the probability that the test passes at the
first of them, where the true rate is the level: that is what is drawn here.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.rates import Rate
from demur.stats.traffic.bounds import SeenMix, ShareBounds, ShiftedMix, SpokenShares
from demur.stats.traffic.rows import rows_of_traffic
from demur.stats.units import count_rows, unit_rate

DRAWS, DELTA = 2000, 0.1
MOST = binom.ppf(0.999, DRAWS, DELTA)


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Traffic and rows by slice, and what is done with requests of each."""

    traffic: tuple[float, ...]  # shares
    rows: tuple[float, ...]  # shares
    spoken: tuple[float, ...]  # the part of each that is to be answered
    refused: tuple[float, ...]  # of these

    @property
    def rate(self):
        """The true rate of false refusals in traffic."""
        share_S = np.array(self.traffic) * self.spoken
        return float(share_S @ np.array(self.refused) / share_S.sum())


# half of the rows are of a tenant that is a twentieth of traffic, and errs far more often
TWO = Slices(traffic=(0.95, 0.05), rows=(0.5, 0.5), spoken=(0.8, 0.6), refused=(0.002, 0.6))
FOUR = Slices(
    traffic=(0.5, 0.3, 0.15, 0.05),
    rows=(0.25, 0.25, 0.25, 0.25),
    spoken=(0.9, 0.8, 0.7, 0.6),
    refused=(0.0, 0.01, 0.1, 0.5),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeenAsTrue(SeenMix):
    """Shares that were seen, taken for the truth."""

    def bounds(self, delta):
        return ShareBounds(low_S=self.share_S, high_S=self.share_S)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShiftAsTrue(ShiftedMix):
    """The likeliest shares of two labels, taken for the truth."""

    def bounds(self, delta):
        false, right = self.chosen[0][1].value, self.chosen[1][1].value
        share = min(max((self.seen[1].value - false) / (right - false), 0.0), 1.0)
        share_S = np.array([1.0 - share, share])
        return ShareBounds(low_S=share_S, high_S=share_S)


def mix_of(mix_class, slice_N, seen, **more):
    """A mix of slices of which so many requests were seen."""
    return mix_class(
        facet="tenant",
        names=tuple(f"s{n}" for n in range(len(seen))),
        slice_N=slice_N,
        share_S=np.array([rate.value for rate in seen]),
        seen=seen,
        requests="",
        **more,
    )


def by_tenant(slices, rows, requests, *, level=None, naive=False, unit=1):
    """The number of draws in which false refusals are certified; at their true rate where no other
    level is given. unit: rows of one group, of one tenant, that err alike in nine of ten cases.
    """
    rng, found = np.random.default_rng(5), 0
    group_N = np.arange(rows) // unit if unit > 1 else None
    for _ in range(DRAWS):
        first_N = rng.choice(len(slices.rows), size=rows, p=slices.rows)
        slice_N = first_N if unit == 1 else np.repeat(first_N[::unit], unit)[:rows]
        among_N = rng.random(rows) < np.array(slices.spoken)[slice_N]
        chance_N = rng.random(rows)
        if unit > 1:
            alike_N = rng.random(rows) < 0.9
            chance_N = np.where(alike_N, np.repeat(chance_N[::unit], unit)[:rows], chance_N)
        error_N = among_N & (chance_N < np.array(slices.refused)[slice_N])
        live_S = rng.multinomial(requests, slices.traffic).tolist()
        seen = tuple(Rate(hits=hits, of=requests) for hits in live_S)
        mix = mix_of(SeenAsTrue if naive else SeenMix, slice_N, seen, others=0.0)
        spoken = SpokenShares(
            rates=tuple(
                unit_rate(among_N, slice_N == s, group_N, None) for s in range(len(live_S))
            ),
            settled=naive,
        )
        counted = rows_of_traffic(count_rows(among_N, group_N, None, 0), mix, spoken)
        test = counted.test(slices.rate if level is None else level, DELTA)
        found += test is not None and test.passes(error_N)
    return found


def test_shares_of_few_requests_taken_for_the_truth_break_promises():
    assert by_tenant(TWO, 10_000, 300, naive=True) > MOST


@pytest.mark.parametrize(("slices", "rows"), [(TWO, 2500), (FOUR, 1500)])
@pytest.mark.parametrize("requests", [300, 3000])
def test_promises_for_a_mix_that_some_requests_show_are_kept(slices, rows, requests):
    assert by_tenant(slices, rows, requests) <= MOST


@pytest.mark.slow
def test_shares_of_three_thousand_requests_taken_for_the_truth_break_promises():
    assert by_tenant(TWO, 60_000, 3000, naive=True) > MOST


@pytest.mark.parametrize(("requests", "times"), [(300, 4.0), (3000, 2.0)])
def test_promises_for_a_mix_are_granted_where_rates_are_lower(requests, times):
    assert by_tenant(TWO, 2500, requests, level=times * TWO.rate) > 0.8 * DRAWS


@pytest.mark.slow
def test_promises_for_a_mix_are_kept_where_groups_err_alike():
    assert by_tenant(TWO, 1500, 300, unit=5) <= MOST


# label shift: half of the rows are to be refused, a tenth of traffic is
ROWS_REFUSED, TRAFFIC_REFUSED = 0.5, 0.1
CHOSEN = (0.03, 0.9)  # the model itself refuses so many of those to be answered, to be refused
KEPT = (0.01, 0.7)  # and the policy so many, all of which the model refuses, too
FALSE = (1 - TRAFFIC_REFUSED) * KEPT[0]
DISCOVERY = FALSE / (FALSE + TRAFFIC_REFUSED * KEPT[1])  # of traffic, .11; of the rows it is .014


def by_label(rows, requests, *, level=DISCOVERY, mix_class=ShiftedMix):
    """The number of draws in which precision is certified."""
    rng, found = np.random.default_rng(6), 0
    for _ in range(DRAWS):
        label_N = (rng.random(rows) < ROWS_REFUSED).astype(np.int64)
        chance_N = rng.random(rows)
        token_N, refused_N = (chance_N < np.array(rate)[label_N] for rate in (CHOSEN, KEPT))
        live = rng.binomial(
            requests, (1 - TRAFFIC_REFUSED) * CHOSEN[0] + TRAFFIC_REFUSED * CHOSEN[1]
        )
        chosen = tuple(
            tuple(unit_rate(token_N == j, label_N == s, None, None) for j in (False, True))
            for s in (0, 1)
        )
        seen = (Rate(hits=requests - live, of=requests), Rate(hits=live, of=requests))
        mix = mix_of(mix_class, label_N, seen, chosen=chosen)
        spoken = SpokenShares(rates=(Rate(hits=1, of=1),) * 2, settled=True)
        everyone = count_rows(np.ones(rows, dtype=bool), None, None, 0)
        counted = rows_of_traffic(everyone, mix, spoken, refused_N)
        found += counted.p_value(refused_N & (label_N == 0), level, DELTA) <= DELTA
    return found


def test_a_share_of_refusals_taken_for_the_truth_breaks_promises_of_precision():
    assert by_label(30_000, 150, mix_class=ShiftAsTrue) > MOST


@pytest.mark.parametrize("requests", [300, 3000])
def test_promises_of_precision_are_kept_under_a_shifted_share_of_refusals(requests):
    assert by_label(2000, requests) <= MOST


def test_promises_of_precision_under_a_shifted_share_are_granted():
    assert by_label(4000, 3000, level=4.0 * DISCOVERY) > 0.8 * DRAWS
