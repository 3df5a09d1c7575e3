"""From requests through the data stage to a promise: it is about requests, however often they
repeat, whoever labelled them, and however alike they are.

Each case prepares 20 sets of requests, and draws the scores of their prompts 25 or 100 times.
Before rows kept their links and counts, .60 of 2,000 promises were broken by popular prompts, .89
by disputed ones, and .26 by families. True rates are known, because scores are normal.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from demur.core.example import Example, Message
from demur.core.goals.parse import parse_goals
from demur.core.policy import CategoryPolicy, Policy
from demur.core.score import ScoreTable
from demur.core.taxonomy import single
from demur.stages import data
from demur.stats.labelled import label_scores
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from tests.validity.population import DELTA

SETS = 20
# draws of scores for each set: 500 promises in a case, and 2,000 in `make test-slow`
EACH = pytest.mark.parametrize("draws", [25, pytest.param(100, marks=pytest.mark.slow)])
LEVEL = 0.05
ANSWER, REFUSE = norm(-2.0, 1.5), norm(2.0, 1.5)  # log-odds of refusing of ordinary prompts
TEMPLATE = Policy(name="mine", taxonomy=single(), rule="heaviest", categories=(CategoryPolicy(),))
CONFIG = data.Config(calibrate_share=0.4, test_share=0.2)


def row(name, text, kind="benign", **fields):
    category = "refuse" if kind == "refusal" else None
    turns = (Message(role="user", content=text),)
    return Example(id=name, source="s", messages=turns, kind=kind, category=category, **fields)


def ordinary(answer, refuse):
    """Prompts too short to have near copies, each once."""
    return [
        *(row(f"a{n}", f"ask {n}") for n in range(answer)),
        *(row(f"r{n}", f"reject {n}", "refusal") for n in range(refuse)),
    ]


def threshold(rows, logit_N, seed, level=LEVEL):
    """The log-odds that a policy with a certified promise refuses from; None without a promise."""
    logp_NC = -np.logaddexp(0.0, np.stack([logit_N, -logit_N], axis=1)).astype(np.float32)
    table = ScoreTable(ids=tuple(e.id for e in rows), logp_NC=logp_NC)
    options = CertifyOptions(confidence=1 - DELTA, seed=seed, method="shared")
    goals = parse_goals(f"false_refusal <= {level}")
    found = certify(goals, TEMPLATE, label_scores(rows, single(), table), options)
    if not isinstance(found, Granted):
        return None
    (t,) = found.certified.thresholds
    with np.errstate(divide="ignore"):
        return float(np.log(t) - np.log1p(-t)) if t < 1 else np.inf


def tally(requests, special, true_rate, draws):
    """(promises, of these broken). requests: a set of them, by seed. special: log-odds by the text
    of prompts that are not ordinary. draws: of scores, for each set.
    """
    granted = broken = 0
    for seed in range(SETS):
        splits, _ = data.prepare(replace(CONFIG, seed=seed), single(), requests(seed))
        rows, rng = splits["calibrate"], np.random.default_rng(seed)
        refuse_N = np.array([e.label is not None for e in rows])
        own_N = np.array([special.get(e.text, np.nan) for e in rows])
        for draw in range(draws):
            logit_N = rng.normal(np.where(refuse_N, 2.0, -2.0), 1.5)
            logit_N = np.where(np.isnan(own_N), logit_N, own_N)
            t = threshold(rows, logit_N, draws * seed + draw)
            if t is not None:
                granted += 1
                broken += true_rate(t) > LEVEL
    return granted, broken


POPULAR = {"how are you": 0.3, "who are you": 0.6, "good morning": 0.9}


@EACH
@pytest.mark.parametrize("how", ["count", pytest.param("repeats", marks=pytest.mark.slow)])
def test_three_popular_prompts_are_as_much_of_a_promise_as_they_are_of_traffic(how, draws):
    """12 % of requests. Kept once each, or all in one split, they broke it in nearly all draws."""

    def requests(seed):
        asked = np.random.default_rng(seed).multinomial(800, [0.04] * 3 + [0.88])
        rows = ordinary(asked[3], 200)
        for text, n in zip(POPULAR, asked, strict=False):
            if how == "count":
                rows.append(row(text, text, count=int(n)))
            else:
                rows += [row(f"{text} {k}", text) for k in range(n)]
        return rows

    def true_rate(t):
        return 0.88 * ANSWER.sf(t) + 0.04 * sum(own >= t for own in POPULAR.values())

    granted, broken = tally(requests, POPULAR, true_rate, draws)
    assert broken <= binom.ppf(0.999, SETS * draws, DELTA)
    assert granted > SETS * draws / 2


@EACH
def test_disputed_prompts_count_as_the_share_of_their_labels(draws):
    """A sixth of the requests to be answered are of prompts that others would refuse, and score
    between the two kinds. Dropped, they broke the promise in nearly all draws.
    """
    dispute = norm(0.5, 0.7)
    texts = [f"dispute {n}" for n in range(160)]
    rows = ordinary(800, 200)
    for n, text in enumerate(texts):
        rows += [row(f"y{n}", text), row(f"n{n}", text, "refusal")]

    def requests(_):
        return rows

    def true_rate(t):
        return (800 * ANSWER.sf(t) + 160 * dispute.sf(t)) / 960

    drawn = dict(zip(texts, dispute.rvs(len(texts), random_state=1), strict=True))
    granted, broken = tally(requests, drawn, true_rate, draws)
    assert broken <= binom.ppf(0.999, SETS * draws, DELTA)
    assert granted > SETS * draws / 2


@EACH
def test_sixty_families_of_near_copies_are_sixty_pieces_of_evidence(draws):
    """A member scores as its family does with probability .95, else by itself."""
    families, size = 60, 10
    copies = [
        row(
            f"f{n}-{k}",
            " ".join([*(f"word{n}-{w}" for w in range(9)), f"own{k}"]).replace("-", "x"),
            split="calibrate",
        )
        for n in range(families)
        for k in range(size)
    ]
    splits, summary = data.prepare(data.Config(), single(), [*ordinary(60, 800), *copies])
    rows = splits["calibrate"]
    assert summary.units["calibrate"] == len(rows) - families * (size - 1)

    level, rng, broken, granted = 0.1, np.random.default_rng(5), 0, 0
    mean_N = np.array([2.0 if e.label else -2.0 for e in rows])
    # the member of a family that the others are likely to score as; an ordinary row is its own
    at = {e.id: n for n, e in enumerate(rows)}
    first_N = np.array([at.get(f"{e.id.partition('-')[0]}-0", n) for n, e in enumerate(rows)])
    for draw in range(SETS * draws):
        logit_N = rng.normal(mean_N, 1.5)
        logit_N = np.where(rng.random(len(rows)) < 0.95, logit_N[first_N], logit_N)
        t = threshold(rows, logit_N, draw, level)
        granted += t is not None
        broken += t is not None and ANSWER.sf(t) > level
    assert broken <= binom.ppf(0.999, SETS * draws, DELTA)
    assert granted > SETS * draws / 2
