"""One optimizer for transformers' Trainer: Muon on the matrices, AdamW on all other weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Newton-Schulz iterations of Muon; on matrices this small the usual five cost as much as the
# model's own arithmetic.
ORTHOGONAL_STEPS = 3


class MuonWithAdamW(torch.optim.Optimizer):
    """torch.optim.Muon for two-dimensional weights inside the layers, AdamW for embeddings, head
    and norms.

    Of those tried it trains the tiny model best in minutes of CPU time (docs/benchmarks.md). Both
    parts keep their own state; the learning-rate schedule scales both alike.
    """

    def __init__(
        self, model: nn.Module, *, lr_matrices: float, lr_rest: float, weight_decay: float
    ) -> None:
        tables: Any = model
        # Muon is made for the matrices of hidden layers: embedding and head get AdamW.
        embeddings = (tables.get_input_embeddings(), tables.get_output_embeddings())
        ends = {id(p) for e in embeddings for p in e.parameters()}
        trainable = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trainable if p.ndim == 2 and id(p) not in ends]
        chosen = {id(p) for p in matrices}
        rest = [p for p in trainable if id(p) not in chosen]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=lr_matrices, weight_decay=weight_decay, ns_steps=ORTHOGONAL_STEPS
            ),
            torch.optim.AdamW(rest, lr=lr_rest, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        super().__init__([{"params": matrices}, {"params": rest}], {})
        self._share_groups()

    def _share_groups(self) -> None:
        """Share the parts' parameter groups, so that a learning rate set here reaches the parts."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both parts. Closures are not supported: Trainer never passes one."""
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure")
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both parts."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()
