"""The output head on chosen rows only: logits where they are needed, whatever the architecture does
around its head.
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
    """Within the block, the model's output head sees only `select(hidden)`, so logits exist only
    for those rows.

    Soft caps, scales and biases that the architecture applies to its logits still apply, because
    its own code runs. Raises EngineError if the model has no output head.
    """
    # every transformers model has it
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
    """Scores, (B, C), of raw logits: float32 from here on, whatever they are; the whole vocabulary
    below the line.
    """
    logits_BV = logits_BV.float()
    logsumexp_B = torch.logsumexp(logits_BV, dim=1)
    return from_logits(logits_BV[:, list(control_ids)].cpu().numpy(), logsumexp_B.cpu().numpy())
