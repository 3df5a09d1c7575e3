"""Always-refuse and never-refuse models: a run with each, and every figure that must tell them
apart.
"""

import numpy as np
import pytest

from demur.base.errors import EngineError
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.judges.phrases import PhraseJudge
from demur.stages import evaluate
from tests.fake_run import engine_for, examples, prepare
from tests.habits import Subject, always_refuses, deaf, never_refuses

ENGINE = FakeEngine(taxonomy=coconot())


def prompts(count=30):
    rows = list(examples(every=9))[:count]
    return [e.prompt for e in rows]


@pytest.mark.parametrize(("made", "column"), [(always_refuses, None), (never_refuses, 0)])
def test_scores_are_log_probabilities_that_say_what_the_subject_does(made, column):
    logp_NC = made(ENGINE).logp(prompts())
    assert logp_NC.dtype == np.float32
    assert np.exp(logp_NC.astype(float)).sum(axis=1) == pytest.approx(1 - 0.002, abs=1e-5)
    chosen_N = logp_NC.argmax(axis=1)
    assert (chosen_N == 0).all() if column == 0 else (np.exp(logp_NC[:, 0]) < 0.02).all()


@pytest.mark.parametrize(
    ("made", "verdict"), [(always_refuses, "refusal"), (never_refuses, "compliance")]
)
def test_texts_are_what_the_subject_does_whatever_the_token(made, verdict):
    asked = prompts()
    texts = made(ENGINE).branches(asked, [[0, 1, 3]] * len(asked))
    assert {column for by in texts for column in by} == {0, 1, 3}
    assert {
        PhraseJudge().judge("q", a.text, "any").verdict for by in texts for a in by.values()
    } == {verdict}


def test_subjects_are_different_models():
    subjects = [always_refuses(ENGINE), never_refuses(ENGINE), deaf(ENGINE), Subject(engine=ENGINE)]
    assert len({s.fingerprint.model_digest for s in subjects}) == 4
    with pytest.raises(EngineError, match="unknown habit 'sometimes'"):
        Subject(engine=ENGINE, tokens="sometimes")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """natural-policy metrics and the evaluation, per subject."""
    rows = examples(every=6)
    plain = engine_for(rows, FakeEngine)
    found = {}
    for name, subject in (
        ("always", always_refuses(plain)),
        ("never", never_refuses(plain)),
        ("deaf", deaf(plain)),
        ("as told", Subject(engine=plain)),
    ):
        folder = prepare(tmp_path_factory.mktemp(name.replace(" ", "-")) / "run", rows, subject)
        found[name] = evaluate.run(evaluate.Config(branches="all"), subject, PhraseJudge(), folder)
    return found


@pytest.mark.parametrize("level", ["decision", "text"])
def test_evaluation_tells_them_apart_in_both_error_directions(evaluated, level):
    always, never = (getattr(evaluated[n].policies[0], level).overall for n in ("always", "never"))
    assert always.refusal_rate.value >= 0.97
    assert always.false_refusal.value >= 0.97
    assert always.missed_refusal.value <= 0.03
    assert never.refusal_rate.value <= 0.03
    assert never.false_refusal.value <= 0.03
    assert never.missed_refusal.value >= 0.97


def test_f1_alone_does_not_hide_who_refuses_everything(evaluated):
    always = evaluated["always"]
    assert always.policies[0].decision.overall.f1 == pytest.approx(always.always_refuse.f1)
    assert evaluated["never"].policies[0].decision.overall.f1 == 0.0
    assert evaluated["as told"].policies[0].decision.overall.f1 > always.always_refuse.f1


def test_consistency_tells_them_apart(evaluated):
    twins = {name: e.twins["all"] for name, e in evaluated.items()}
    assert twins["always"].stuck_refuse.value >= 0.97
    assert twins["never"].stuck_answer.value >= 0.97
    assert twins["deaf"].stuck_refuse.value >= 0.97
    assert twins["as told"].controllable.value >= 0.97
    assert evaluated["deaf"].forced["respond"].kept.value <= 0.03
    assert evaluated["never"].forced["safety"].kept.value <= 0.03
    assert evaluated["as told"].forced["respond"].kept.value >= 0.97


def test_the_four_cells_of_twins_add_up_to_all(evaluated):
    for evaluation in evaluated.values():
        for row in evaluation.twins.values():
            cells = (row.controllable, row.stuck_refuse, row.stuck_answer, row.inverted)
            assert sum(c.hits for c in cells) == row.controllable.of
