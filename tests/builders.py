"""Small real parts for the tests of core and stats: taxonomies, policies, score tables, and
Hypothesis strategies.
"""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from demur.core.fingerprint import Fingerprint
from demur.core.goals.goal import Promise
from demur.core.goals.parse import stated_goal
from demur.core.policy import RULES, CategoryPolicy, DoubtRule, Policy
from demur.core.rates import Rate
from demur.core.score import ScoreTable
from demur.core.taxonomy import Category, Taxonomy
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.losses import grouped_scores, losses_by_hand
from demur.stats.thresholds.procedures.corrected import hand_rate
from demur.store.policies.policy_file import bind_promises

BOUNDS = (0.0, 0.1, 0.5, 0.9, 1.0)  # of leftover mass
THRESHOLDS = (0.0, 0.05, 0.2, 0.3, 0.5, 0.8, 1.0, NEVER)


def taxonomy(k):
    names = ("safety", "humanizing", "incomplete", "unsupported", "indeterminate")[:k]
    categories = tuple(Category(name=n, token=f"[{n}]", description=n) for n in names)
    return Taxonomy(name="test", respond_token="[respond]", categories=categories)


def policy(k, rule="heaviest", thresholds=None, **category_fields):
    thresholds = thresholds or [NEVER] * k
    categories = tuple(CategoryPolicy(threshold=t, **category_fields) for t in thresholds)
    return Policy(name="test", taxonomy=taxonomy(k), rule=rule, categories=categories)


MODEL = Fingerprint(
    model_digest="m",
    tokenizer_digest="t",
    template_digest="c",
    tokens=taxonomy(2).tokens,
    token_ids=(7, 8, 9),
    dtype="float32",
)


def promise(level=0.05, hits=2, of=400):
    return Promise(
        goal=stated_goal("false_refusal", level),
        confidence=0.95,
        status="certified",
        rate=Rate(hits=hits, of=of),
        data_digest="sha256:rows",
        method="test",
    )


def certified(**fields):
    """A policy of two categories with a promise that is bound to it."""
    made = replace(policy(2, "heaviest", [0.3, 0.4]), fingerprint=MODEL, promises=(promise(),))
    return bind_promises(replace(made, **fields))


def undoubted(policy):
    """The policy without a bound on leftover mass, for scores that are no whole distribution."""
    return replace(policy, doubt=DoubtRule(most_leftover=1.0))


def with_category(policy, at, **fields):
    categories = list(policy.categories)
    categories[at] = replace(categories[at], **fields)
    return replace(policy, categories=tuple(categories))


def log_softmax(logits_NC):
    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    return np.minimum(logp_NC, 0.0).astype(np.float32)


def table(logp_NC):
    return ScoreTable(ids=tuple(f"row-{n}" for n in range(len(logp_NC))), logp_NC=logp_NC)


def labelled(logp_NC, label_N):
    return LabelledScores(table=table(logp_NC), label_N=np.asarray(label_N, dtype=np.int64))


def binary_rows(logq_N, label_N):
    """Rows of a single-token taxonomy with these refusal scores, natural log."""
    logq_N = np.asarray(logq_N, dtype=np.float32)
    with np.errstate(divide="ignore"):
        respond_N = np.log(-np.expm1(np.minimum(logq_N.astype(np.float64), -1e-30)))
    return labelled(
        np.stack([np.maximum(respond_N, -1e4).astype(np.float32), logq_N], axis=1), label_N
    )


def simulated_rows(n, k, seed, signal=2.0):
    """Rows with a share of each label, whose scores tell the labels apart the better the larger
    `signal`.
    """
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, k + 1, size=n) * (rng.random(n) < 0.6)
    logits_NC = rng.normal(size=(n, k + 1)) * 1.5
    logits_NC[np.arange(n), label_N] += signal
    return labelled(log_softmax(logits_NC), label_N)


@st.composite
def logp(draw, k, min_rows=1, max_rows=12):
    """Scores with many ties: logits are small integers."""
    n = draw(st.integers(min_rows, max_rows))
    row = st.lists(st.integers(-2, 3), min_size=k + 1, max_size=k + 1)
    return log_softmax(draw(st.lists(row, min_size=n, max_size=n)))


@st.composite
def rows(draw, k, min_rows=1, max_rows=12):
    logp_NC = draw(logp(k, min_rows, max_rows))
    label = st.lists(st.integers(0, k), min_size=len(logp_NC), max_size=len(logp_NC))
    return labelled(logp_NC, draw(label))


@st.composite
def policies(draw, k, rules):
    """Policies with inactive and suppressed categories, at most one of them forced."""
    rule = draw(st.sampled_from(rules))
    shared = draw(st.sampled_from(THRESHOLDS))
    forced = draw(st.none() | st.none() | st.none() | st.integers(0, k - 1))
    categories = tuple(
        CategoryPolicy(
            threshold=shared if rule == "sum" else draw(st.sampled_from(THRESHOLDS)),
            active=draw(st.booleans()) or draw(st.booleans()),
            bias=draw(st.sampled_from((0.0, -1.25, 2.25))),
            override="force" if at == forced else draw(st.sampled_from((None, None, "suppress"))),
        )
        for at in range(k)
    )
    return Policy(name="test", taxonomy=taxonomy(k), rule=rule, categories=categories)


@st.composite
def leaking(draw, k):
    """Scores of which a part of the probability, none to nearly all, lies outside the control
    tokens.
    """
    logp_NC = draw(logp(k))
    kept_N = draw(
        st.lists(
            st.sampled_from((1.0, 0.95, 0.4, 0.02)), min_size=len(logp_NC), max_size=len(logp_NC)
        )
    )
    return (logp_NC + np.log(np.array(kept_N, dtype=np.float32))[:, None]).astype(np.float32)


@st.composite
def locked(draw, k, rules=RULES):
    """Policies with a bound, of which any category may be locked."""
    found = draw(policies(k, rules))
    categories = tuple(replace(c, locked=draw(st.booleans())) for c in found.categories)
    return replace(
        found, categories=categories, doubt=DoubtRule(most_leftover=draw(st.sampled_from(BOUNDS)))
    )


def corrected_rate(goal, template, rows, hand_N):
    """A policy's rate by the hand's labels, from judged rows of which some were checked by hand."""
    grouped = grouped_scores(template, rows, shared=False)
    pair = losses_by_hand(goal, template, grouped, hand_N)
    refused_N = grouped.refused([template.category(names[0]).threshold for names in grouped.groups])
    return hand_rate(pair, refused_N, (hand_N >= 0, hand_N < 0), 0.95)
