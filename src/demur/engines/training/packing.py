"""Check that packed rows do not attend to each other."""

from __future__ import annotations

from typing import Any

import torch

from demur.base.errors import EngineError

# Difference of logits; attention across rows moves them by whole units, bfloat16 by hundredths.
TOLERANCE = 1e-2


def check_packing(model: Any) -> None:
    """Compare a row's logits alone and behind another row in one packed sequence.

    Raises EngineError if they differ: the model's attention then ignores the borders of rows, and
    decisions would be learnt beside other people's conversations.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(0, vocabulary, (1, n), generator=generator).to(model.device) for n in (7, 5)
    )
    # Position ids that begin again at 0 mark the second row, as in packed training.
    positions = torch.cat([torch.arange(7), torch.arange(5)])[None].to(model.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone = model(input_ids=second, use_cache=False).logits[0].float()
        packed = model(
            input_ids=torch.cat([first, second], dim=1), position_ids=positions, use_cache=False
        ).logits
    model.train(was_training)
    gap = float((packed[0, 7:].float() - alone).abs().max())
    if gap > TOLERANCE:
        raise EngineError(
            f"packed rows read each other: logits differ by {gap:.3g}",
            "use an attention that keeps documents apart (flash attention 2), or set "
            "train.packing = false",
        )
