import numpy as np
import pytest

from demur.base.errors import DataError
from demur.stats.text.choice import STRENGTHS, VIEWS, choose_recipe
from demur.stats.text.fit import fit_text_classifier

NOUNS = (
    "river",
    "clock",
    "garden",
    "letter",
    "engine",
    "mirror",
    "castle",
    "violin",
    "ladder",
    "pepper",
)
PLACES = (
    "Spain",
    "winter",
    "school",
    "the attic",
    "a novel",
    "May",
    "the harbour",
    "Peru",
    "a dream",
    "court",
)


def texts_of(count, noise, seed=0):
    """Requests of which those that name a lock are declined, but for a share that is turned
    round.
    """
    rng = np.random.default_rng(seed)
    texts, declined = [], []
    for n in range(count):
        lock = rng.random() < 0.4
        a, b, place = rng.choice(NOUNS), rng.choice(NOUNS), rng.choice(PLACES)
        texts.append(
            f"Tell {n} ways to {'pick the lock of' if lock else 'paint'} the {a} and {b} in {place}"
        )
        declined.append(lock != (rng.random() < noise))
    return texts, np.array(declined)


def test_every_recipe_is_tried_and_the_best_beats_the_base_rate_on_other_texts():
    texts, declined_N = texts_of(400, noise=0.1)
    choice = choose_recipe(texts, declined_N, [None] * 400)
    losses = [t.log_loss for t in choice.trials]
    assert len(losses) == len(VIEWS) * len(STRENGTHS)
    assert losses == sorted(losses)
    made = fit_text_classifier(texts, declined_N, choice.best.recipe)
    others, truth_N = texts_of(2000, noise=0.1, seed=1)
    sign_N = np.where(truth_N, -1.0, 1.0)
    loss = np.logaddexp(0.0, sign_N * np.array([made.log_odds(t) for t in others])).mean()
    assert loss == pytest.approx(choice.best.log_loss, abs=0.06)
    assert loss < choice.base_loss - 0.2
    assert choice.base_loss == pytest.approx(0.68, abs=0.02)  # entropy of 0.42


def test_where_words_say_nothing_the_strongest_penalty_wins():
    texts, _ = texts_of(300, noise=0.0)
    noise_N = np.random.default_rng(2).random(300) < 0.5
    assert choose_recipe(texts, noise_N, [None] * 300).best.recipe.c == min(STRENGTHS)


def test_copies_do_not_teach_what_is_held_out():
    """Every text four times with one coin's label: within a group it is known, across groups it
    cannot be.
    """
    texts, _ = texts_of(60, noise=0.0)
    coin_N = np.repeat(np.random.default_rng(3).random(60) < 0.5, 4)
    copies = [f"{t}, copy {'ABCD'[n]}" for t in texts for n in range(4)]
    names = [str(n // 4) for n in range(240)]
    for groups in (names, [None] * 240):  # near copies are found without being named
        choice = choose_recipe(copies, coin_N, groups)
        assert choice.best.log_loss > choice.base_loss - 0.05


def test_texts_that_cannot_be_held_out_are_refused():
    texts, _ = texts_of(40, noise=0.0)
    with pytest.raises(DataError, match="40 texts, 3 of them yes"):
        choose_recipe(texts, np.arange(40) < 3, [None] * 40)
    with pytest.raises(DataError, match="all texts of one kind are near copies"):
        choose_recipe(texts, np.arange(40) < 8, ["g" if n < 8 else None for n in range(40)])
