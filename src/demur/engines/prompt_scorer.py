"""A prompt classifier as Scorer: fitted on the prompts that a model declined; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demur.base.arrays import Floats
from demur.core.classifiers.text import TextClassifier
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Progress, Prompt, no_progress
from demur.core.predictor import (
    PROMPTS,
    predictor_fingerprint,
    predictor_scores,
    prompt_text,
    require_one_category,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptScorer:
    """Scores prompts by a text classifier. Implements demur.core.ports.Scorer.

    Raises TaxonomyError unless there is exactly one category.
    """

    classifier: TextClassifier
    digest: str  # of the classifier's file
    tokens: tuple[str, ...]  # of the run's taxonomy, respond first

    def __post_init__(self) -> None:
        require_one_category(self.tokens)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the classifier's file, as a predictor of kind "prompts"."""
        return predictor_fingerprint(self.digest, self.tokens, PROMPTS)

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """(N, 2) natural-log probabilities that a prompt is answered and that it is refused."""
        probability_N = []
        for n, prompt in enumerate(prompts, start=1):
            probability_N.append(self.classifier.probability(prompt_text(prompt)))
            progress(n, len(prompts))
        return predictor_scores(probability_N)
