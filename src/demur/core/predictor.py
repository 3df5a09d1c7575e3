"""Scores for models that have no control tokens: the probability of a refusal by a separate
predictor takes their place.

A prompt classifier that was fitted on what a model declined, or a guard model, gives one
probability p per prompt; its score has two columns, (log(1 - p), log p), so that calibration,
promises and policies of a taxonomy with one category work on it unchanged. The fingerprint says
which kind of number it is, and no policy mixes the kinds up. Shapes: N prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Floats
from demur.base.errors import ScoreError, TaxonomyError
from demur.core.fingerprint import PREDICTED, Fingerprint
from demur.core.ports import Prompt

PROMPTS = "prompts"  # the engine that reads a prompt classifier, and the kind of its scores
LEAST = 1e-12  # a probability of 0 has no logarithm; no such predictor means anything by less
# in a fingerprint: there is no tokenizer or template of ours that could change the number
NONE = "none"


def prompt_text(messages: Prompt) -> str:
    """The text that a prompt classifier reads: all that the user said, earlier turns too, a turn a
    line.

    Not what system or assistant messages say: a deployment's fixed text is no part of what people
    ask.
    """
    return "\n".join(m.content for m in messages if m.role == "user")


def predictor_scores(probability_N: npt.NDArray[np.floating] | Sequence[float]) -> Floats:
    """(N, 2) natural-log probabilities, float32, of probabilities that a prompt is refused; all
    finite.

    Raises ScoreError, naming the first, on what is no probability.
    """
    p_N = np.asarray(probability_N, dtype=np.float64)
    bad_N = ~((p_N >= 0.0) & (p_N <= 1.0))  # so that NaN is bad
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise ScoreError(
            f"row {row} has probability {p_N[row]}, not one in [0, 1]", "the predictor is broken"
        )
    p_N = np.clip(p_N, LEAST, 1.0 - LEAST)
    return np.stack([np.log1p(-p_N), np.log(p_N)], axis=1).astype(np.float32)


def predictor_fingerprint(digest: str, tokens: tuple[str, ...], kind: str) -> Fingerprint:
    """The fingerprint of such scores.

    digest: of everything that decides the number, with or without "sha256:". tokens: the
    taxonomy's, respond first. kind: the engine, such as "prompts". Raises TaxonomyError unless
    there is exactly one category.
    """
    require_one_category(tokens)
    return Fingerprint(
        model_digest=f"sha256:{digest.removeprefix('sha256:')}",
        tokenizer_digest=NONE,
        template_digest=NONE,
        tokens=tokens,
        token_ids=(0, 1),
        dtype="float32",
        logprobs=f"{PREDICTED}{kind}/float32",
    )


def require_one_category(tokens: tuple[str, ...]) -> None:
    """Raise TaxonomyError unless these are the control tokens of a taxonomy with one category."""
    if len(tokens) != 2:
        raise TaxonomyError(
            f"one probability of refusal for {len(tokens) - 1} categories: {', '.join(tokens[1:])}",
            "use a taxonomy with one category, such as taxonomy = 'single'",
        )
