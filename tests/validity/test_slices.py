"""Goals about slices: over many draws few certificates are broken in any slice that they speak of.

Contrast rows are few and score like rows to be refused, so that a slice is far worse than the mix.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.goals.parse import parse_goals
from demur.core.score import ScoreTable
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores, traits_from
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from tests.validity.population import DELTA, Case, at_the_edges, population

DRAWS = 2000
CONTRAST, SOURCES = 0.2, ("one", "two", "three")
TENANTS, LATER = "abcde", 0.15  # of later turns
CASES = {
    "one slice": Case(
        goals="false_refusal[contrast] <= 0.2", method="shared", rows=(400, 120, 60, 30), sharp=True
    ),
    "every kind": Case(
        goals="false_refusal <= 0.15 in every kind", method="shared", rows=(400, 120, 60, 30)
    ),
    "the whole and a slice": Case(
        goals="false_refusal <= 0.1; false_refusal[contrast] <= 0.2", method="shared"
    ),
    "every source, along a path": Case(
        goals="false_refusal <= 0.1 in every source", method="path", rows=(900, 120, 60, 30)
    ),
    "every tenant, each at the whole of delta": Case(
        goals="false_refusal <= 0.2 in every tenant",
        method="shared",
        rows=(700, 120, 60, 30),
        least_granted=0.3,
    ),
    "later turns": Case(
        goals="missed_refusal[turn=later] <= 0.4; false_refusal <= 0.3 in every turn",
        method="shared",
        rows=(500, 300, 150, 75),
    ),
    "both sides": Case(
        goals="false_refusal <= 0.2 in every source; missed_refusal[source=one + two] <= 0.25",
        method="shared",
    ),
}


@pytest.fixture(scope="module")
def people():
    """(logits of refusing less for ordinary rows, labels, kinds, sources) of a population with
    contrast rows.
    """
    plain = population(signal=3.5)
    rng = np.random.default_rng(5)
    rows = len(plain.label_N)
    contrast_N = (plain.label_N == 0) & (rng.random(rows) < CONTRAST)
    source_N = rng.choice(SOURCES, rows, p=(0.5, 0.3, 0.2))
    logits_NC = plain.logp_NC.astype(np.float64)
    logits_NC[contrast_N, 1:] += 1.2  # they resemble what is to be refused
    logits_NC[source_N == "three", 1:] += 0.6
    tenant_N = rng.choice(list(TENANTS), rows)
    logits_NC[tenant_N == "e", 1:] += 0.6
    turn_N = np.where(rng.random(rows) < LATER, "later", "first")
    logits_NC[turn_N == "later", 1:] -= 0.8  # refusals are missed more often there
    logits_NC -= np.logaddexp.reduce(logits_NC, axis=1, keepdims=True)
    kind_N = np.where(plain.label_N > 0, "refusal", np.where(contrast_N, "contrast", "benign"))
    traits = traits_from(
        {
            "kind": kind_N.tolist(),
            "source": source_N.tolist(),
            "tenant": tenant_N.tolist(),
            "turn": turn_N.tolist(),
        }
    )
    table = ScoreTable(
        ids=tuple(map(str, range(rows))), logp_NC=np.minimum(logits_NC, 0).astype(np.float32)
    )
    return replace(plain, logp_NC=table.logp_NC), LabelledScores(
        table=table, label_N=plain.label_N, traits=traits
    )


SORTED = {}  # goal -> log q of its rows per category, sorted once: there is one population


def true_rate(goal, thresholds, people):
    """The rate of the slice over the whole population, from scores sorted once per goal and
    group.
    """
    _, rows = people
    if goal.risk not in SORTED:
        among_N = rows.label_N == 0 if goal.name == "false_refusal" else rows.label_N != 0
        for facet, names in goal.where:
            among_N = among_N & rows.traits.within(facet, names)
        heaviest_N = rows.table.logp_NC[:, 1:].argmax(axis=1)
        logq_N = rows.table.logp_NC[:, 1:].max(axis=1).astype(np.float64)
        SORTED[goal.risk] = [np.sort(logq_N[among_N & (heaviest_N == g)]) for g in range(3)]
    sorted_G = SORTED[goal.risk]
    log_t = [np.inf if t == NEVER else np.log(max(t, 1e-300)) for t in thresholds]
    refused = sum(
        len(v) - np.searchsorted(v, t, side="left") for v, t in zip(sorted_G, log_t, strict=True)
    )
    rate = refused / sum(map(len, sorted_G))
    return 1 - rate if goal.name == "missed_refusal" else rate


def drawn(people, rng, counts):
    plain, rows = people
    at = np.concatenate(
        [own[rng.integers(len(own), size=n)] for own, n in zip(plain.of_class, counts, strict=True)]
    )
    table = ScoreTable(ids=tuple(map(str, range(len(at)))), logp_NC=rows.table.logp_NC[at])
    return LabelledScores(table=table, label_N=rows.label_N[at], traits=rows.traits.select(at))


@pytest.mark.parametrize("name", CASES)
def test_promises_about_slices_are_broken_in_at_most_delta_of_the_draws(name, people):
    case, rng = CASES[name], np.random.default_rng(1)
    granted = broken = 0
    for _ in range(DRAWS):
        rows, seed = drawn(people, rng, case.rows), int(rng.integers(2**31))
        found = at_the_edges(case, people[0].template, rows, seed, DELTA)
        granted += bool(found)
        broken += any(true_rate(g, t, people) > g.level for t, goals in found for g in goals)
    assert broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted >= case.least_granted * DRAWS
    # nearly all of delta is spent: an error would show
    assert broken >= (0.3 * DELTA * DRAWS if case.sharp else 0)


def test_the_mix_hides_a_slice_that_its_own_goal_bounds(people):
    rows = drawn(people, np.random.default_rng(2), (3000, 400, 200, 100))
    (contrast,) = parse_goals("false_refusal[contrast] <= 0.1")
    rates = []
    for goals in ("false_refusal <= 0.1", "false_refusal <= 0.1 in every kind"):
        found = certify(
            parse_goals(goals),
            people[0].template,
            rows,
            CertifyOptions(confidence=0.9, method="shared"),
        )
        assert isinstance(found, Granted)
        rates.append(true_rate(contrast, found.certified.thresholds, people))
    assert rates[0] > 0.15  # the average was kept, and the slice was not
    assert rates[1] <= 0.1
