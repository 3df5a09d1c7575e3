import numpy as np
import pytest

from demur.core.decision import decide_many
from demur.core.example import Message
from demur.core.policy import natural
from demur.core.score import check_scores
from demur.core.taxonomy import coconot, single
from demur.engines.fake.constant import (
    always_refuse,
    answer_then_refuse,
    never_refuse,
    refuse_then_answer,
)
from tests.fake_run import JUDGE

PROMPTS = [(Message(role="user", content=text),) for text in ("Bake a cake", "Forge a pass", "")]
KINDS = {
    always_refuse: ("refuse", "refuse"),
    never_refuse: ("answer", "answer"),
    refuse_then_answer: ("refuse", "answer"),
    answer_then_refuse: ("answer", "refuse"),
}


@pytest.mark.parametrize("taxonomy", [coconot(), single()])
@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_does_the_same_whatever_it_is_asked(kind, taxonomy):
    subject = kind(taxonomy)
    decides, writes = KINDS[kind]
    logp_NC = subject.logp(PROMPTS)
    check_scores(logp_NC)
    np.testing.assert_allclose(np.exp(logp_NC.astype(np.float64)).sum(axis=1), 1.0, atol=1e-6)
    refused_N = decide_many(natural(taxonomy, subject.fingerprint), logp_NC).refuses_N
    assert refused_N.tolist() == [decides == "refuse"] * len(PROMPTS)
    for by_column in subject.branches(PROMPTS, [[0, 1]] * len(PROMPTS)):
        for answer in by_column.values():
            assert JUDGE.judge("Bake a cake", answer.text, None).refuses == (writes == "refuse")


def test_four_subjects_are_four_models():
    assert len({kind(coconot()).fingerprint.model_digest for kind in KINDS}) == 4
