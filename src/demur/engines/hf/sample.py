"""Sampling: the next token of every row of a batch, each by its own temperature and top_p.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from demur.core.serving import Sampling

# At or below this temperature decoding is greedy: logits divided by less would overflow.
GREEDY = 1e-5


def next_tokens(
    logits_RV: torch.Tensor, samplings: Sequence[Sampling], draws_R: Sequence[float]
) -> list[int]:
    """Draw one token id per row.

    logits_RV: float32, banned ids at -inf. draws_R: uniform in [0, 1), unused by greedy rows.

    Temperature comes first, then top_p (nucleus sampling): the fewest tokens, most probable first,
    that hold at least top_p together. A row's token depends on its own logits, sampling and draw
    alone, so that a seed gives one answer in whatever batch it is written.
    """
    tokens = logits_RV.argmax(dim=1).tolist()
    drawn = [r for r, s in enumerate(samplings) if s.temperature > GREEDY]
    # Rows with and without top_p apart: sorting a vocabulary costs more than all the rest.
    for nucleus in (False, True):
        rows = [r for r in drawn if (samplings[r].top_p < 1.0) == nucleus]
        if rows:
            heat_R = logits_RV.new_tensor(
                [samplings[r].temperature for r in rows], dtype=torch.float64
            )
            p_RV = torch.softmax(logits_RV[rows].double() / heat_R[:, None], dim=1)
            top_p_R = heat_R.new_tensor([samplings[r].top_p for r in rows])
            draw_R = heat_R.new_tensor([draws_R[r] for r in rows])
            picked = _in_nucleus(p_RV, top_p_R, draw_R) if nucleus else _inverse(p_RV, draw_R)
            for r, token in zip(rows, picked.tolist(), strict=True):
                tokens[r] = token
    return [int(token) for token in tokens]


def _in_nucleus(p_RV: torch.Tensor, top_p_R: torch.Tensor, draw_R: torch.Tensor) -> torch.Tensor:
    """Draw ids (R,) among the most probable tokens that hold top_p together."""
    # stable: tokens of equal probability keep their order, so that a draw means one token
    sorted_RV, ids_RV = p_RV.sort(dim=1, descending=True, stable=True)
    before_RV = sorted_RV.cumsum(dim=1) - sorted_RV
    kept_RV = sorted_RV.where(before_RV < top_p_R[:, None], 0.0)
    kept_RV[:, 0] = sorted_RV[:, 0]  # also where top_p is 0
    return ids_RV.gather(1, _inverse(kept_RV, draw_R)[:, None])[:, 0]


def _inverse(weight_RV: torch.Tensor, draw_R: torch.Tensor) -> torch.Tensor:
    """Draw indices (R,) by inverting the distribution function: never one of weight 0.

    The drawn entry is the first at which the running sum exceeds draw x total.
    """
    sum_RV = weight_RV.cumsum(dim=1)
    at_R = torch.searchsorted(sum_RV, draw_R[:, None] * sum_RV[:, -1:], right=True)[:, 0]
    heaviest_R = weight_RV.argmax(dim=1)
    # Rounding may put the draw behind the last entry.
    return torch.where(at_R < weight_RV.shape[1], at_R, heaviest_R)
