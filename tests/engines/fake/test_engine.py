"""The fake engine: deterministic, calibrated by construction, judged as intended."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import EngineError, TaxonomyError
from demur.core.example import Message
from demur.core.midway.monitor import AnswerSampling
from demur.core.ports import AnswerWatcher, Generator, Prompt, Scorer
from demur.core.score import ScoreTable
from demur.core.taxonomy import Category, Taxonomy, coconot
from demur.engines.fake.engine import LEFTOVER, FakeEngine
from demur.judges.phrases import PhraseJudge


def ask(text: str) -> Prompt:
    return (Message(role="user", content=text),)


def balanced(n: int) -> tuple[list[Prompt], dict[str, str | None]]:
    """n prompts whose labels are spread evenly over respond and the five categories."""
    choices = (None, *coconot().names)
    labels = {f"prompt {i}": choices[i % len(choices)] for i in range(n)}
    return [ask(text) for text in labels], labels


def test_it_is_a_scorer_and_a_generator() -> None:
    engine = FakeEngine(taxonomy=coconot())
    scorer: Scorer = engine
    generator: Generator = engine
    assert scorer.fingerprint == generator.fingerprint


@given(
    texts=st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True),
    seed=st.integers(0, 2**31),
)
def test_a_score_depends_on_its_own_prompt_and_the_seed_alone(texts: list[str], seed: int) -> None:
    prompts = [ask(t) for t in texts]
    engine = FakeEngine(taxonomy=coconot(), seed=seed)
    together = engine.logp(prompts)
    alone = np.concatenate([FakeEngine(taxonomy=coconot(), seed=seed).logp([p]) for p in prompts])
    assert np.array_equal(together, alone)
    assert not np.array_equal(together, FakeEngine(taxonomy=coconot(), seed=seed + 1).logp(prompts))


def test_scores_are_log_probabilities_with_the_declared_leftover_mass() -> None:
    prompts, labels = balanced(300)
    logp_NC = FakeEngine(taxonomy=coconot(), labels=labels).logp(prompts)
    table = ScoreTable(ids=tuple(labels), logp_NC=logp_NC)
    assert np.allclose(table.leftover_N, LEFTOVER, atol=1e-5)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_probabilities_are_calibrated_when_labels_are_equally_frequent(sharpness: float) -> None:
    prompts, labels = balanced(6000)
    engine = FakeEngine(taxonomy=coconot(), labels=labels, sharpness=sharpness, seed=7)
    p_NC = np.exp(engine.logp(prompts).astype(np.float64)) / (1 - LEFTOVER)
    right_N = p_NC.argmax(axis=1) == np.array([engine.truth(p) for p in prompts])
    top_N = p_NC.max(axis=1)
    for low in (0.0, 0.4, 0.7):
        band_N = (top_N >= low) & (top_N < low + 0.4)
        if band_N.sum() >= 200:
            slack = 4 * np.sqrt(0.25 / band_N.sum())
            assert abs(right_N[band_N].mean() - top_N[band_N].mean()) < slack


def test_a_sharper_engine_is_right_more_often() -> None:
    prompts, labels = balanced(1200)
    engines = [
        FakeEngine(taxonomy=coconot(), labels=labels, sharpness=s) for s in (0.0, 1.0, 2.0, 5.0)
    ]
    truth_N = [engines[0].truth(p) for p in prompts]
    accuracy = [float(np.mean(e.logp(prompts).argmax(axis=1) == truth_N)) for e in engines]
    assert accuracy == sorted(accuracy)
    assert accuracy[-1] > 0.99


def test_the_truth_is_the_label_of_the_text_or_else_its_cue() -> None:
    engine = FakeEngine(taxonomy=coconot(), labels={"a safety question": None, "x": "humanizing"})
    cues = ["a safety question", "x", "Unsupported, please", "good morning", "unsafety"]
    assert [engine.truth(ask(t)) for t in cues] == [0, 1, 5, 0, 0]


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(TaxonomyError, match="humanising"):
        FakeEngine(taxonomy=coconot(), labels={"x": "humanising"}).truth(ask("x"))


@pytest.mark.parametrize(
    "name", ["humanizing", "incomplete", "indeterminate", "safety", "unsupported", "legal"]
)
def test_texts_are_judged_as_the_token_before_them_says(name: str) -> None:
    own = Taxonomy(
        name="t",
        respond_token="[y]",
        categories=(Category(name=name, token="[n]", description="d"),),
    )
    prompts = [ask(f"question {i}") for i in range(30)]
    for branches in FakeEngine(taxonomy=own).branches(prompts, [(0, 1)] * len(prompts)):
        judge = PhraseJudge()
        assert judge.judge("", branches[0].text, None).verdict == "compliance"
        assert judge.judge("", branches[0].text, name).verdict == "compliance"
        assert judge.judge("", branches[1].text, name).verdict == "refusal"


def test_only_the_asked_branches_are_written_and_a_wrong_column_is_an_error() -> None:
    engine = FakeEngine(taxonomy=coconot())
    assert [sorted(b) for b in engine.branches([ask("a"), ask("b")], [(0, 3), ()])] == [[0, 3], []]
    with pytest.raises(EngineError, match="column 6"):
        engine.branches([ask("a")], [(6,)])


def test_progress_reaches_the_total() -> None:
    seen: list[tuple[int, int]] = []
    FakeEngine(taxonomy=coconot()).logp(
        [ask("a"), ask("b")], lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]


def test_the_fingerprint_changes_with_every_setting_and_with_nothing_else() -> None:
    base = FakeEngine(taxonomy=coconot())
    others = [
        FakeEngine(taxonomy=coconot(), seed=1),
        FakeEngine(taxonomy=coconot(), sharpness=3.0),
        FakeEngine(taxonomy=coconot(), labels={"x": None}),
    ]
    assert base.fingerprint == FakeEngine(taxonomy=coconot()).fingerprint
    assert all(base.fingerprint.differences(o.fingerprint) == ("model_digest",) for o in others)


def test_the_module_needs_no_torch() -> None:
    code = (
        "import sys, demur.engines.fake.engine, demur.engines.gate; sys.exit('torch' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_position_scores_rise_on_refusals_alone_wherever_the_answer_is_cut() -> None:
    prompts, labels = balanced(600)
    watcher: AnswerWatcher = FakeEngine(taxonomy=coconot(), labels=labels)
    whole = watcher.watched(prompts, AnswerSampling(most_tokens=128))
    short = watcher.watched(prompts, AnswerSampling(most_tokens=5))
    peak_N = np.array([one.logp_TC[:, 1:].max() for one in whole])
    refused_N = np.array([label is not None for label in labels.values()])
    assert (peak_N[refused_N][:, None] > peak_N[~refused_N][None, :]).mean() > 0.95
    for label, one, cut in zip(labels.values(), whole, short, strict=True):
        ScoreTable(ids=tuple(map(str, range(len(one.logp_TC)))), logp_NC=one.logp_TC)
        assert len(one.logp_TC) == one.answer.tokens > cut.answer.tokens == len(cut.logp_TC) == 5
        assert (cut.logp_TC == one.logp_TC[:5]).all()
        assert not cut.answer.finished
        if label is not None and one.logp_TC[:, 1:].max() > -4.0:
            column = int(one.logp_TC[:, 1:].max(axis=0).argmax()) + 1
            assert column == coconot().column(label)


def test_a_prefix_changes_the_position_scores_and_nothing_else() -> None:
    engine, sampling = FakeEngine(taxonomy=coconot()), AnswerSampling(most_tokens=64)
    (plain,) = engine.watched([ask("a safety matter")], sampling)
    (begun,) = engine.watched([ask("a safety matter")], sampling, ["Step 1:"])
    assert plain.answer == begun.answer == engine.branches([ask("a safety matter")], [[0]])[0][0]
    assert (plain.logp_TC != begun.logp_TC).all()
