"""Choosing the recipe of a text classifier by cross-validated log loss, because its probability is
used, not its label.

Shapes: N texts, L strengths of the penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from demur.base.arrays import Bools, Ints
from demur.base.errors import DataError
from demur.core.classifiers.text import NgramView
from demur.core.example import fold
from demur.core.rows.similarity import components, near_copies
from demur.stats.text.fit import PLACED, PUBLISHED, LearntView, Recipe, regression

FOLDS = 5
# N-grams as published (arXiv 2306.03423), ours by sentence, and shorter ones, for texts that share
# no phrases.
VIEWS = (
    PUBLISHED.views[0],
    PLACED.views[0],
    NgramView(words="all", most_words=2, damped=True),
    NgramView(words="all", most_words=1, damped=True),
)
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # published: 10; PLACED: 30


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeTrial:
    """One recipe, measured on texts held out in turn."""

    recipe: Recipe
    log_loss: float  # mean negative natural-log probability of the label


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeChoice:
    """All recipes by their log loss, the best first."""

    trials: tuple[RecipeTrial, ...]
    base_loss: float  # of the training folds' base rate: what a recipe that learns nothing has

    @property
    def best(self) -> RecipeTrial:
        """The one with the smallest log loss."""
        return self.trials[0]


def choose_recipe(texts: Sequence[str], yes_N: Bools, groups: Sequence[str | None]) -> RecipeChoice:
    """Compare the recipes of VIEWS and STRENGTHS over FOLDS stratified folds of whole groups.

    Texts of one group, and near copies (demur.core.rows.similarity), stay in one fold: to
    recognise them is no prediction. Raises DataError where a fold would be learnt from texts of
    one kind.
    """
    loss_VL, base_loss = np.zeros((len(VIEWS), len(STRENGTHS))), 0.0
    for train_M, held_M in _folds(texts, yes_N, groups):
        base = yes_N[train_M].mean()
        base_loss -= float(np.where(yes_N[held_M], np.log(base), np.log1p(-base)).sum()) / len(
            texts
        )
        for v, view in enumerate(VIEWS):
            learnt = LearntView(view, [texts[n] for n in train_M])
            held_MV = learnt.matrix([texts[n] for n in held_M])
            for c, strength in enumerate(STRENGTHS):
                log_odds_M = (
                    regression(strength).fit(learnt.x_NV, yes_N[train_M]).decision_function(held_MV)
                )
                sign_M = np.where(yes_N[held_M], -1.0, 1.0)
                loss_VL[v, c] += float(np.logaddexp(0.0, sign_M * log_odds_M).sum()) / len(texts)
    trials = [
        RecipeTrial(recipe=Recipe(views=(view,), c=strength), log_loss=float(loss_VL[v, c]))
        for v, view in enumerate(VIEWS)
        for c, strength in enumerate(STRENGTHS)
    ]
    return RecipeChoice(trials=tuple(sorted(trials, key=lambda t: t.log_loss)), base_loss=base_loss)


def _folds(
    texts: Sequence[str], yes_N: Bools, groups: Sequence[str | None]
) -> list[tuple[Ints, Ints]]:
    """(train, held out) row numbers of each fold."""
    # union of both relations: texts of one group, and near copies of one another, are one unit
    first: dict[str, int] = {}
    named = [(first.setdefault(g, n), n) for n, g in enumerate(groups) if g is not None]
    units = components(len(texts), [*named, *near_copies([fold(t) for t in texts])])
    if len(set(units)) < FOLDS or min(yes_N.sum(), (~yes_N).sum()) < FOLDS:
        raise DataError(
            f"{len(texts)} texts, {int(yes_N.sum())} of them yes, in {len(set(units))} groups: "
            "too few for folds",
            f"at least {FOLDS} of each kind and {FOLDS} groups",
        )
    split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(texts, yes_N, units)
    folds = [(np.asarray(train), np.asarray(held)) for train, held in split if len(held)]
    if any(yes_N[train].all() or not yes_N[train].any() for train, _ in folds):
        raise DataError(
            "all texts of one kind are near copies of one another, or of one group: nothing can "
            "be held out",
            "add texts of that kind that differ",
        )
    return folds
