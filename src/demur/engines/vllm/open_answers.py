"""Answers that a policy's monitor may still stop inside vLLM, and the token that is forced there.

1. An answer is open from its second token on, until a refusal token stands in it.
2. Its scores at a position come from the logits that the next token is drawn from. Where the
   monitor stops it, its refusal token is forced there, and the model's own refusal follows.
3. A position counts only where the model would write a token. vLLM draws the token later, so a stop
   draws one here first, in vLLM's manner; if it ends the answer, the answer ends with it.
4. Nothing is kept from one position to the next, since vLLM may read unfinished and preempted
   answers more than once. So only the statistic "maximum" is taken.

Shapes: W open answers, C control tokens (column 0 = respond), K categories, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch

from demur.base.arrays import Doubles, Floats
from demur.base.errors import ScoreError
from demur.core.midway.monitor import Monitor, first_stop
from demur.core.policy import Policy
from demur.core.serving import Sampling
from demur.core.threshold import NEVER
from demur.engines.hf.sample import GREEDY, next_tokens

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenAnswer:
    """An answer under a policy with a monitor."""

    policy: Policy
    monitor: Monitor  # the policy's
    sampling: Any  # vLLM's SamplingParams
    draws: Random  # of tokens drawn at a stop


def open_answer(policy: Policy, sampling: Any, draws: Random) -> OpenAnswer | None:
    """The answer of a request that enters the batch; None: its policy has no monitor.

    draws: for requests without a seed. It must go the same way in every process that samples.
    """
    if policy.monitor is None:
        return None
    # At most one token of an answer is drawn here: the stop comes, or the answer ends.
    seed = getattr(sampling, "seed", None)
    own = draws if seed is None else Random(seed)
    return OpenAnswer(policy=policy, monitor=policy.monitor, sampling=sampling, draws=own)


def stop_columns(answers: Sequence[OpenAnswer], logp_WC: Floats) -> dict[int, int]:
    """The answers that are stopped at this position: place in `answers` -> refusal column."""
    # Compared for all at once, since nearly no position stops. Not "at or above": NaN is no pass.
    passes_WK = logp_WC[:, 1:].astype(np.float64) < _log_thresholds(tuple(answers))
    clear_W = passes_WK.all(axis=1) & np.isfinite(logp_WC).all(axis=1)
    stops: dict[int, int] = {}
    for at in np.flatnonzero(~clear_W).tolist():
        column = _stop_column(answers[at], logp_WC[at])
        if column is not None:
            stops[at] = column
    return stops


@lru_cache(maxsize=8)  # a batch stays the same for many steps
def _log_thresholds(answers: tuple[OpenAnswer, ...]) -> Doubles:
    """Natural log of each answer's thresholds, (W, K)."""
    with np.errstate(divide="ignore"):
        return np.log([a.monitor.thresholds for a in answers])


def _stop_column(answer: OpenAnswer, logp_C: Floats) -> int | None:
    """The refusal column of a stop at this position; None: the answer goes on.

    An invalid score stops the answer: an error would stop the server for every request.
    """
    try:
        # "maximum" looks at one position at a time.
        stop = first_stop(answer.monitor, logp_C[None])
    except ScoreError as e:
        thresholds = answer.monitor.thresholds
        column = next(k for k, t in enumerate(thresholds, start=1) if t != NEVER)
        LOG.error(
            "policy %r: an answer that cannot be watched is stopped with column %d: %s",
            answer.policy.name,
            column,
            e.message,
        )
        return column
    return None if stop is None else stop.column


def ending_id(logits_V: torch.Tensor, answer: OpenAnswer) -> int | None:
    """The id that ends an answer at this position, if the model would end it here.

    logits_V: float32, control tokens at -inf.
    """
    params = answer.sampling
    ends = set(params.stop_token_ids or ())
    if not params.ignore_eos and params.eos_token_id is not None:
        ends.add(params.eos_token_id)
    sampling = Sampling(temperature=params.temperature, top_p=params.top_p)
    draw = answer.draws.random() if params.temperature > GREEDY else 0.0
    (token,) = next_tokens(logits_V[None], [sampling], [draw])
    return token if token in ends else None
