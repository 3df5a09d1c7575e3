"""The prompt classifier: the probability that the model declines, from the prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demur.core.example import Example
from demur.core.ports import Progress, TrainedModel, no_progress
from demur.core.predictor import PROMPTS, predictor_fingerprint, prompt_text
from demur.core.taxonomy import Taxonomy
from demur.stats.text.choice import RecipeChoice, RecipeTrial, choose_recipe
from demur.stats.text.fit import fit_text_classifier
from demur.store.models.text_model_file import PREDICTOR, write_text_classifier

TRIAL = "log loss of "  # how a trial's key in the details of demur.json begins


class PromptTrainer:
    """The trainer of a black-box run (implements demur.core.ports.Trainer)."""

    def train(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        folder: Path,
        progress: Progress = no_progress,
    ) -> TrainedModel:
        """Choose a recipe by cross-validation on the train rows, fit it on all of them, write
        model/predictor.npz.

        Raises DataError where the rows are too few or too much alike, TaxonomyError unless there is
        one category.
        """
        texts = [prompt_text(e.prompt) for e in examples]
        declined_N = np.array([e.label is not None for e in examples])
        # Prompts of one group are in one fold: near copies would flatter the cross-validation.
        choice = choose_recipe(texts, declined_N, [e.group for e in examples])
        progress(1, 2)
        made = fit_text_classifier(texts, declined_N, choice.best.recipe)
        digest = write_text_classifier(folder / "model" / PREDICTOR, made)
        progress(2, 2)
        return TrainedModel(
            fingerprint=predictor_fingerprint(digest, taxonomy.tokens, PROMPTS),
            # no gradient steps and no new token rows, as for a language model
            steps=0,
            history=(),
            row_change=(),
            details={
                "base": PROMPTS,
                "rows": len(texts),
                "declined": int(declined_N.sum()),
                **_details(choice),
            },
        )


def _details(choice: RecipeChoice) -> dict[str, str | float]:
    """The recipe and the log losses of all trials, for demur.json."""
    best = choice.best
    return {
        "recipe": recipe_text(best),
        "why": f"the lowest of {len(choice.trials)} cross-validated log losses, "
        f"{best.log_loss:.4f}; the base rate has {choice.base_loss:.4f}",
        "base_loss": choice.base_loss,
        **{f"{TRIAL}{recipe_text(t)}": t.log_loss for t in choice.trials},
    }


def recipe_text(trial: RecipeTrial) -> str:
    """A recipe in words: which words, how many in a row, and the regularisation."""
    # The recipes tried here have one view each.
    view = trial.recipe.views[0]
    kind = {
        "long": "words of 2 letters or more",
        "all": "all words",
        "placed": "words by sentence",
    }[view.words]
    runs = "one by one" if view.most_words == 1 else f"1 to {view.most_words} in a row"
    return f"{kind}, {runs}, C = {trial.recipe.c:g}"
