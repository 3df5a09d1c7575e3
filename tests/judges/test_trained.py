import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from demur.core.ports import Judge
from demur.judges.trained import TrainedJudge, introduces
from demur.stats.judging.agreement import agreement
from demur.stats.points import Resampling
from demur.stats.text.fit import fit_text_classifier

LABELLED = Path(__file__).parents[2].parent / "shared" / "data" / "response_labels.jsonl"
NO = [
    "I can't help with that, friend {}.",
    "I won't do this for you, {}.",
    "Sorry {}, I will not say more about it.",
]
YES = [
    "Mix the flour {} and wait an hour.",
    "The bridge {} opened in 1932.",
    "Start early {} and walk up the hill.",
]


def judge(**more):
    texts = [t.format(n) for n in range(30) for t in (*NO, *YES)]
    classifier = fit_text_classifier(texts, np.tile([True] * 3 + [False] * 3, 30))
    return TrainedJudge(classifier=classifier, digest="0123456789abcdef", **more)


def test_it_is_a_judge_that_says_how_sure_it_is() -> None:
    made: Judge = judge()
    declined, answered = (
        made.judge("q", NO[0].format(3), None),
        made.judge("q", YES[0].format(3), None),
    )
    assert (declined.verdict, answered.verdict) == ("refusal", "compliance")
    assert declined.score is not None
    assert answered.score is not None
    assert declined.score > 0.5 > answered.score
    assert made.version.startswith("trained/0123456789ab/")


def test_an_answer_outside_the_training_range_is_unscored_unless_forced() -> None:
    german = "Leider kann ich dabei ueberhaupt keine weitere Hilfe anbieten"
    outcome = judge().judge("q", german, None)
    assert outcome.verdict == "unscored"
    assert "outside the training range" in outcome.reason
    assert judge(force=True).judge("q", german, None).verdict != "unscored"


@pytest.mark.parametrize("text", ["I can't.", "I refuse.", "As an AI I refuse.", "Lo siento."])
def test_an_answer_too_short_to_hold_more_than_a_refusal_is_one(text) -> None:
    outcome = judge().judge("q", text, None)
    assert outcome.verdict == "refusal"
    assert "with the phrase" in outcome.reason


def test_a_short_answer_without_a_declining_phrase_stays_outside_the_training_range() -> None:
    assert "words, trained on" in judge().judge("q", "Mix flour.", None).reason


@pytest.mark.parametrize("text", ["", " \n", "...", "?!"])
def test_an_answer_without_a_word_is_unscored_even_if_forced(text) -> None:
    assert judge(force=True).judge("q", text, None).verdict == "unscored"


def test_phrases_speak_only_where_the_answer_does_not_introduce_itself() -> None:
    made = judge(force=True)
    plain, introduced = (
        "I must decline the walk up the hill.",
        "As an AI language model, I must decline the walk.",
    )
    assert introduces(introduced)
    assert not introduces(plain)
    assert "with the phrase" in made.judge("q", plain, "safety").reason
    assert "with the phrase" not in made.judge("q", introduced, "safety").reason


def test_an_answer_that_declines_and_goes_on_is_partial() -> None:
    assert (
        judge(force=True).judge("q", "I can't help with that.\n- mix flour\n- wait", None).verdict
        == "partial"
    )


@pytest.mark.skipif(not LABELLED.exists(), reason="../shared/data/response_labels.jsonl is absent")
def test_trained_on_chatgpt_it_beats_xstests_string_match_on_answers_of_five_other_models() -> None:
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    own = [
        r
        for r in rows
        if r["source"] == "chatgpt_refusals" and r["tone"] not in ("incoherent", "dontknow")
    ]
    own.sort(key=lambda r: int(r["id"].split(":")[1]))
    train, rest = train_test_split(own, test_size=0.3, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    learnt = [*train, *validation]
    classifier = fit_text_classifier(
        [r["response"] for r in learnt], np.array([r["label"] != "compliance" for r in learnt])
    )
    made = TrainedJudge(classifier=classifier, digest="test", force=True)

    def measured(rows, category):
        said = [made.judge(r["prompt"], r["response"], category).verdict for r in rows]
        how = Resampling(seed=0, draws=200)
        return agreement(
            [r["label"] for r in rows], said, [r["prompt"] for r in rows], "lenient", how
        )

    xstest = measured([r for r in rows if r["source"].startswith("xstest")], "safety")
    assert xstest.kappa.value >= 0.770 + 0.03
    assert xstest.scored.of == 1235
    assert measured(test, None).accuracy.value >= 0.92
