"""The prompt classifier as Scorer, and a run of it through calibrate, decide and everything that
reads fingerprints.
"""

import subprocess
import sys

import numpy as np
import pytest

from demur.base.errors import PolicyError, TaxonomyError
from demur.core.example import Message
from demur.core.policy import natural
from demur.core.score import check_scores
from demur.core.taxonomy import coconot, single
from demur.engines.fake.engine import FakeEngine
from demur.engines.prompt_scorer import PromptScorer
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import read_scores
from tests.predictor_run import ANSWERED, DECLINED, predictor_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return predictor_run(tmp_path_factory.mktemp("run"))


def said(*texts):
    return tuple(Message(role="user", content=t) for t in texts)


def test_a_declined_prompt_scores_higher_than_an_answered_one(made):
    logp_NC = made[1].logp([said(DECLINED), said(ANSWERED)])
    check_scores(logp_NC)
    assert logp_NC.shape == (2, 2)
    assert np.exp(logp_NC[0, 1]) > 0.8
    assert np.exp(logp_NC[1, 1]) < 0.2


def test_an_earlier_turn_counts(made):
    alone, after = made[1].logp([said("And now?"), said(DECLINED, "And now?")])[:, 1]
    assert after > alone


def test_progress_counts_prompts_and_none_is_none(made):
    seen = []
    made[1].logp([said("a"), said("b")], lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]
    assert made[1].logp([]).shape == (0, 2)


def test_several_categories_are_refused(made):
    with pytest.raises(TaxonomyError, match="5 categories"):
        PromptScorer(classifier=made[1].classifier, digest="0", tokens=coconot().tokens)


def test_the_policy_is_for_this_classifier_and_no_model_with_tokens(made):
    folder, scorer = made
    policy = read_policy(folder.policy)
    policy.require_model(scorer.fingerprint)
    with pytest.raises(PolicyError, match="logprobs"):
        policy.require_model(FakeEngine(taxonomy=single()).fingerprint)
    other = PromptScorer(classifier=scorer.classifier, digest="b" * 64, tokens=scorer.tokens)
    with pytest.raises(PolicyError, match="model_digest differ"):
        natural(single(), other.fingerprint).require_model(scorer.fingerprint)


def test_its_scores_are_the_ones_that_a_policy_decides_on(made):
    folder, scorer = made
    path = decided_scores(folder, "test", read_policy(folder.policy).fingerprint)
    table, fingerprint = read_scores(path)
    rows = read_examples(folder.split("test"))
    assert path == folder.scores("test")
    assert fingerprint == scorer.fingerprint
    assert np.array_equal(table.logp_NC, scorer.logp([e.prompt for e in rows]))


def test_it_needs_no_torch():
    code = (
        "import sys, demur.engines.prompt_scorer\nprint('torch' in sys.modules, 'sklearn' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
