"""Scores of the prompts that fit into the model's context; one that does not must not cost the
others.
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
    """(indices of the prompts that fit, their scores in that order, shape (len(indices), C))."""
    found: list[tuple[list[int], Floats]] = []
    for start in range(0, len(prompts), PART_PROMPTS):
        part = range(start, min(start + PART_PROMPTS, len(prompts)))
        found += _fitting(scorer, prompts, part)
        progress(part.stop, len(prompts))
    fit = [n for indices, _ in found for n in indices]
    empty = np.zeros((0, len(scorer.fingerprint.tokens)), dtype=np.float32)
    return fit, np.concatenate([empty, *(logp_NC for _, logp_NC in found)])


def _fitting(
    scorer: Scorer, prompts: Sequence[Prompt], part: Sequence[int]
) -> list[tuple[list[int], Floats]]:
    """The same for a part. An engine refuses all of it for one long prompt: it is halved until that
    is found.
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
