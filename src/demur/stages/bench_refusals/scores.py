"""Scores of the prompts that fit into the model's context. A prompt that is too long must not cost
the others their scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import PromptTooLong
from demur.core.ports import Progress, Prompt, Scorer

PART_PROMPTS = 1000


def scores_of(
    scorer: Scorer, prompts: Sequence[Prompt], progress: Progress
) -> tuple[list[int], Floats]:
    """Score the prompts that fit: (their indices, their scores, shape (len(indices), C))."""
    found: list[tuple[list[int], Floats]] = []
    for start in range(0, len(prompts), PART_PROMPTS):
        part = range(start, min(start + PART_PROMPTS, len(prompts)))
        found += _fitting(scorer, prompts, part)
        progress(part.stop, len(prompts))
    fit = [n for indices, _ in found for n in indices]
    # `empty` gives the result its columns where no prompt fits at all.
    empty = np.zeros((0, len(scorer.fingerprint.tokens)), dtype=np.float32)
    return fit, np.concatenate([empty, *(logp_NC for _, logp_NC in found)])


def _fitting(
    scorer: Scorer, prompts: Sequence[Prompt], part: Sequence[int]
) -> list[tuple[list[int], Floats]]:
    """Score a part likewise. An engine refuses a whole part for one long prompt: the part is halved
    until that prompt stands alone (about 2 log2(len(part)) more calls a long prompt).
    """
    try:
        return [(list(part), scorer.logp([prompts[n] for n in part]))]
    except PromptTooLong:
        if len(part) == 1:
            return []
        middle = len(part) // 2
        return [
            *_fitting(scorer, prompts, part[:middle]),
            *_fitting(scorer, prompts, part[middle:]),
        ]
