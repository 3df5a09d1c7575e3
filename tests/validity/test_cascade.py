"""A promise made on a cascade's scores holds of the cascade as served; one on the model's alone
does not carry over.

The front reads texts. A draw takes rows to be answered with replacement from a population whose
every rate is known.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.cascade.front import FrontEdges, cascade_scores
from demur.core.decision import compared_scores, decide_many
from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.stats.thresholds.closed_form import certify_false_refusal
from demur.stats.thresholds.results import Certified
from tests.front_parts import examples, front, model

DRAWS, ROWS, PEOPLE = 1000, 300, 5000
LEVEL, DELTA = 0.05, 0.1
BLANK = Policy(
    name="cascade",
    taxonomy=coconot(),
    rule="heaviest",
    categories=tuple(CategoryPolicy(threshold=NEVER) for _ in coconot().names),
)


def rash_front():
    """A front that wants to refuse everything, and is sure of about one request in four that ought
    to be answered.
    """
    made = front()
    intercept_C = made.linear.intercept_C.copy()
    intercept_C[1] += 20.0
    rash = replace(made, linear=replace(made.linear, intercept_C=intercept_C))
    odds = [rash.read(e.text).odds for e in examples(400, 78) if e.label is None]
    return replace(rash, edges=FrontEdges(answer=None, refuse=float(np.quantile(odds, 0.75))))


@cache
def answerable(rash: bool):
    """Scores of the rows to be answered, of a noisy model alone and of its cascade, and whether the
    front decides.
    """
    rows = [e for e in examples(PEOPLE, 77) if e.label is None]
    alone_NC = model(sharpness=1.5).logp([e.prompt for e in rows])
    made = rash_front() if rash else front()
    both_NC, front_N = cascade_scores(made, [e.prompt for e in rows], lambda at: alone_NC[at])
    return alone_NC, both_NC, front_N


def broken_promises(certified_NC, served_NC):
    """Of so many draws, the promises that are broken by what is served, and the mean true rate."""
    rng, broken, rates = np.random.default_rng(5), 0, []
    for _ in range(DRAWS):
        drawn = rng.integers(len(certified_NC), size=ROWS)
        found = certify_false_refusal(compared_scores(BLANK, certified_NC[drawn]), LEVEL, DELTA)
        assert isinstance(found, Certified)
        policy = BLANK.with_thresholds(dict.fromkeys(coconot().names, found.thresholds[0]))
        rates.append(decide_many(policy, served_NC).refuses_N.mean())
        broken += rates[-1] > LEVEL
    return broken, float(np.mean(rates))


@pytest.mark.parametrize("rash", [False, True])
def test_a_promise_on_the_cascade_is_broken_in_at_most_delta_of_the_draws(rash):
    _, both_NC, front_N = answerable(rash)
    assert front_N.any()
    assert not front_N.all()
    broken, rate = broken_promises(both_NC, both_NC)
    assert broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert rate > 0.5 * LEVEL  # no promise is easy to keep


def test_a_promise_of_the_model_alone_is_none_of_a_cascade():
    alone_NC, both_NC, _ = answerable(True)
    assert broken_promises(alone_NC, alone_NC)[0] <= binom.ppf(0.999, DRAWS, DELTA)
    assert broken_promises(alone_NC, both_NC)[0] > 2 * DELTA * DRAWS
