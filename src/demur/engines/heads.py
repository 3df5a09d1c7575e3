"""The output head on chosen positions only, so that logits exist only where they are needed.

Logits of all positions are the largest tensor of a forward pass (positions x vocabulary). A hook in
front of the head drops the hidden states of other positions; the architecture's own code then
applies its scales, soft caps and biases to the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from demur.base.arrays import Floats
from demur.base.errors import EngineError
from demur.core.score import from_logits

Select = Callable[[torch.Tensor], torch.Tensor]  # (B, T, d) hidden states -> (B', T', d)


@contextmanager
def head_on(model: nn.Module, select: Select) -> Iterator[None]:
    """Within the block, apply the model's output head to `select(hidden)` only.

    Raises EngineError if the model has no output head.
    """
    # Every transformers model has the method; nn.Module does not declare it.
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise EngineError(
            f"{type(model).__name__} has no output embeddings", "use a causal language model"
        )
    handle = head.register_forward_pre_hook(lambda _, inputs: (select(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def last_rows(lengths_B: torch.Tensor) -> Select:
    """Select the hidden state of the last token of each right-padded row: (B, T, d) -> (B, 1,
    d).
    """

    def select(hidden_BTd: torch.Tensor) -> torch.Tensor:
        rows_B = torch.arange(len(lengths_B), device=hidden_BTd.device)
        return hidden_BTd[rows_B, lengths_B.to(hidden_BTd.device) - 1][:, None]

    return select


def marked_rows(mask_BT: torch.Tensor) -> Select:
    """Select the hidden states where mask_BT is True: (B, T, d) -> (1, M, d)."""

    def select(hidden_BTd: torch.Tensor) -> torch.Tensor:
        return hidden_BTd[mask_BT.to(hidden_BTd.device)][None]

    return select


def control_scores(logits_BV: torch.Tensor, control_ids: Sequence[int]) -> Floats:
    """Scores (B, C) of raw logits (B, V): natural-log probabilities over the whole vocabulary."""
    logits_BV = logits_BV.float()  # the score's convention: logsumexp in half precision loses mass
    logsumexp_B = torch.logsumexp(logits_BV, dim=1)
    return from_logits(logits_BV[:, list(control_ids)].cpu().numpy(), logsumexp_B.cpu().numpy())
