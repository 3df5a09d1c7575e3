"""Text classifiers: the same numbers as scikit-learn's, the published split figures, and what a
file keeps of them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from demur.base.errors import ArtifactError, DataError
from demur.core.classifiers.text import NgramView
from demur.stats.measure import auroc
from demur.stats.text.fit import PLACED, PUBLISHED, Recipe, fit_text_classifier
from demur.store.models.text_model_file import read_text_classifier, write_text_classifier

GOLDEN_FILE = json.loads((Path(__file__).parents[2] / "golden" / "judges.json").read_text())
GOLDEN, PROMPT_MODELS = GOLDEN_FILE["shared_data_pack"], GOLDEN_FILE["prompt_models"]
QUORA_FROM = 721  # the source's rows from here on are questions from Quora
LABELLED = Path(__file__).parents[3].parent / "shared" / "data" / "response_labels.jsonl"
needs_data = pytest.mark.skipif(
    not LABELLED.exists(), reason="../shared/data/response_labels.jsonl is absent"
)

TEXTS = [
    "I can't help with that. Ask someone who can.",
    "I won't do this, and nobody should.",
    "Sorry, I cannot say more about it.",
    "Mix flour and water. Then wait an hour.",
    "The bridge opened in 1932. It is still there.",
    "Start early and walk slowly up the hill.",
]
YES = np.array([True, True, True, False, False, False])


def split_of(part):
    """The published split of chatgpt-refusals, or of its Quora part: (train, validation, test)
    rows.
    """
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    rows = [
        r
        for r in rows
        if r["source"] == "chatgpt_refusals" and r["tone"] not in ("incoherent", "dontknow")
    ]
    rows.sort(key=number)
    rows = [r for r in rows if part == "all" or number(r) >= QUORA_FROM]
    train, rest = train_test_split(rows, test_size=0.3, random_state=0)
    return train, *train_test_split(rest, test_size=0.5, random_state=0)


def number(row):
    return int(row["id"].split(":")[1])


@pytest.fixture(scope="module")
def split():
    return split_of("all")


def declines(rows):
    return np.array([r["label"] != "compliance" for r in rows])


@pytest.mark.parametrize("damped", [False, True])
def test_log_odds_are_those_of_scikit_learns_vectorizer_and_regression(damped):
    recipe = Recipe(views=(NgramView(damped=damped),), c=10.0)
    ours = fit_text_classifier(TEXTS, YES, recipe)
    vectorizer = TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=damped)
    theirs = LogisticRegression(C=10, solver="liblinear", random_state=0).fit(
        vectorizer.fit_transform(TEXTS), YES
    )
    unseen = [*TEXTS, "Sorry, nobody can help with the bridge.", "quite other words entirely", ""]
    expected = theirs.decision_function(vectorizer.transform(unseen))
    assert [ours.log_odds(t) for t in unseen] == pytest.approx(expected, abs=1e-5)


def test_a_placed_n_gram_knows_its_sentence():
    view = NgramView(words="placed", most_words=2)
    assert view.terms("I won't. I won't! I won't? I won't.") == [
        *(
            f"{at} {term}"
            for at in (0, 1, 2, 2)
            for term in ("i", "will", "not", "i will", "will not")
        )
    ]


def test_labels_of_one_kind_teach_nothing():
    with pytest.raises(DataError, match="6 labels, 6 of them yes"):
        fit_text_classifier(TEXTS, np.ones(6, dtype=bool))
    with pytest.raises(DataError, match="0 views"):
        Recipe(views=(), c=1.0)


def test_texts_unlike_the_training_texts_are_out_of_range():
    many = [f"{t} Version {n} of it stands here." for n in range(40) for t in TEXTS]
    made = fit_text_classifier(many, np.tile(YES, 40))
    assert made.out_of_range(many[7]) is None
    assert "words, trained on" in (made.out_of_range("word " * 500) or "")
    german = (
        "Dabei kann ich leider gar nicht weiterhelfen, fragt bitte jemand anders, der es "
        "besser weiss"
    )
    assert "0% of its words are known" in (made.out_of_range(german) or "")


def test_a_classifier_reads_back_as_it_was_written(tmp_path):
    made = fit_text_classifier(TEXTS, YES, PLACED)
    digest = write_text_classifier(tmp_path / "j.npz", made)
    read, found = read_text_classifier(tmp_path / "j.npz")
    assert digest == f"sha256:{found}"
    for text in [*TEXTS, "Anything else."]:
        assert read.log_odds(text) == made.log_odds(text)
        assert read.out_of_range(text) == made.out_of_range(text)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 broken", b"no zip at all"])
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / "j.npz").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"j\.npz is no text classifier"):
        read_text_classifier(tmp_path / "j.npz")


def test_a_file_cannot_bring_code_along(tmp_path):
    np.savez(tmp_path / "j.npz", head=np.array([print], dtype=object))
    with pytest.raises(ArtifactError, match="is no text classifier"):
        read_text_classifier(tmp_path / "j.npz")


@needs_data
@pytest.mark.parametrize(("text", "golden"), [("response", "response_LR"), ("prompt", "prompt_LR")])
def test_the_published_split_gives_the_published_figures(split, text, golden):
    train, _, test = split
    made = fit_text_classifier([r[text] for r in train], declines(train), PUBLISHED)
    right = sum(
        (made.log_odds(r[text]) > 0) == yes for r, yes in zip(test, declines(test), strict=True)
    )
    assert right == GOLDEN[golden]["n_correct"]
    assert len(made.views[0].place) == GOLDEN[golden]["n_features"]
    assert len(test) == 256


@needs_data
@pytest.mark.slow
def test_the_published_forest_gives_its_figure_too(split):
    train, _, test = split
    vectorizer = TfidfVectorizer(ngram_range=(1, 3))
    x_NV = vectorizer.fit_transform([r["response"] for r in train])
    forest = RandomForestClassifier(n_estimators=300, min_samples_split=5, random_state=0).fit(
        x_NV, declines(train)
    )
    found = forest.predict(vectorizer.transform([r["response"] for r in test]))
    assert int((found == declines(test)).sum()) == GOLDEN["response_RF"]["n_correct"]


@needs_data
@pytest.mark.parametrize("part", ["all", "quora"])
def test_the_prompt_alone_tells_what_it_told_in_the_published_regression(part):
    train, _, test = split_of(part)
    golden = PROMPT_MODELS[f"{part}_LR"]
    assert (len(train), len(test)) == (golden["n_train"], golden["n_test"])
    made = fit_text_classifier([r["prompt"] for r in train], declines(train), PUBLISHED)
    log_odds = np.array([made.log_odds(r["prompt"]) for r in test])
    assert int(((log_odds > 0) == declines(test)).sum()) == golden["n_correct"]
    assert auroc(declines(test), log_odds).value == pytest.approx(golden["auc"], abs=1e-6)
    assert len(made.views[0].place) == golden["n_features"]


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("part", ["all", "quora"])
def test_the_prompt_alone_tells_what_it_told_in_the_published_forest(part):
    train, _, test = split_of(part)
    vectorizer = TfidfVectorizer(ngram_range=(1, 3))
    x_NV = vectorizer.fit_transform([r["prompt"] for r in train])
    forest = RandomForestClassifier(n_estimators=3000, min_samples_split=2, random_state=0).fit(
        x_NV, declines(train)
    )
    found = forest.predict(vectorizer.transform([r["prompt"] for r in test]))
    assert int((found == declines(test)).sum()) == PROMPT_MODELS[f"{part}_RF"]["n_correct"]
