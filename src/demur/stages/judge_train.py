"""judge-train: labelled answers -> a trained judge, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demur.base.errors import DataError
from demur.core.classifiers.encoded import EncodedClassifier, Encoder
from demur.core.classifiers.text import TextClassifier
from demur.core.judging.outcome import declines
from demur.stats.text.encoded_fit import fit_encoded
from demur.stats.text.fit import PLACED, PUBLISHED, fit_text_classifier
from demur.store.answers.answers_file import read_answers
from demur.store.models.encoded_model_file import write_encoded
from demur.store.models.text_model_file import write_text_classifier

RECIPES = {"placed": PLACED, "published": PUBLISHED}
ENCODER = "encoder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The labelled answers, and the recipe of the classifier. Raises DataError on an unknown
    recipe, and where recipe and model do not fit together.
    """

    files: tuple[Path, ...]  # JSONL with "label"
    out: Path  # .npz
    recipe: str = "placed"
    model: str | None = None  # of recipe "encoder": folder or name of its checkpoint

    def __post_init__(self) -> None:
        known = (*RECIPES, ENCODER)
        if self.recipe not in known:
            raise DataError(f"unknown recipe {self.recipe!r}", f"known: {', '.join(known)}")
        if (self.recipe == ENCODER) != (self.model is not None):
            raise DataError(
                f"recipe {self.recipe!r} with model {self.model!r}", "--recipe encoder --model NAME"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The digest of the classifier, and counts of the answers that it was fitted on."""

    digest: str
    answers: int
    declining: int
    left_out: int  # rows without a label or an answer
    words: tuple[int, int]  # answers of so many words are judged


def run(config: Config, encoder: Encoder | None = None) -> Trained:
    """Fit and write the classifier; a partial answer counts as declining. Raises DataError unless
    both labels occur.

    encoder: of recipe "encoder", made from config.model.
    """
    texts, yes, left_out = [], [], 0
    for path in config.files:
        for row in read_answers(path):
            # An empty answer is unscored by every judge: it teaches nothing.
            if row.label is None or not row.item.answer.strip():
                left_out += 1
                continue
            texts.append(row.item.answer)
            yes.append(declines(row.label, "lenient"))
    # yes: whether the text declines
    yes_N = np.array(yes, dtype=bool)
    made: TextClassifier | EncodedClassifier
    if encoder is not None and config.model is not None:
        made = fit_encoded(encoder, texts, yes_N)
        digest = write_encoded(config.out, made, config.model)
    else:
        made = fit_text_classifier(texts, yes_N, RECIPES[config.recipe])
        digest = write_text_classifier(config.out, made)
    return Trained(
        digest=digest,
        answers=len(texts),
        declining=int(yes_N.sum()),
        left_out=left_out,
        words=(made.fewest_words, made.most_words),
    )
