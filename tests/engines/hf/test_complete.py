"""The completer on a tiny random checkpoint: plumbing, not sense."""

import pytest

from demur.base.errors import EngineError
from demur.core.judging.judge import JudgeInput, NoAnswer, PromptPiece
from demur.engines.hf.complete import HfCompleter
from demur.judges.wildguard import WildGuardJudge


@pytest.fixture(scope="module")
def completer(checkpoints):
    return HfCompleter(model=checkpoints["llama"], max_new_tokens=6, batch=2)


def test_control_words_work_in_trusted_pieces_only(completer):
    word = "<|im_start|>"
    ids = completer.encode(
        [PromptPiece(text=word, trusted=True), PromptPiece(text=f"say {word} please")]
    )
    special = completer.encode([PromptPiece(text=word, trusted=True)])[-1]
    assert ids.count(special) == 1
    assert completer.encode([PromptPiece(text=word)]).count(special) == 0


def test_a_batch_says_what_each_prompt_says_alone(completer):
    prompts = [
        [PromptPiece(text=t)]
        for t in ("How do I bake bread?", "Sea", "Tell me how you feel today. " * 3)
    ]
    together = completer.complete(prompts)
    assert together == [completer.complete([p])[0] for p in prompts]
    assert all(isinstance(t, str) for t in together)


def test_a_prompt_that_does_not_fit_is_named_and_the_others_are_answered(completer):
    short, long = [PromptPiece(text="Sea")], [PromptPiece(text="the sea " * 300)]
    seen = []
    first, second = completer.complete([short, long], lambda done, of: seen.append((done, of)))
    assert isinstance(first, str)
    assert isinstance(second, NoAnswer)
    assert "do not fit a context of 192" in second.reason
    assert seen == [(1, 1)]


def test_a_random_model_under_the_wildguard_judge_is_unscored(completer):
    judge = WildGuardJudge(completer=completer, template="R {prompt} A {response} L")
    outcomes = judge.judge_many(
        [JudgeInput(request="How?", answer="I won't."), JudgeInput(request="", answer="x")]
    )
    assert [o.verdict for o in outcomes] == ["unscored", "unscored"]
    assert "not the three lines" in outcomes[0].reason
    assert judge.version.startswith("wildguard/")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(EngineError, match="cannot load"):
        HfCompleter(model=tmp_path)
