"""Language change: log loss of held-out replies in the trained model minus that in its base.

A model that learns its control tokens alone forgets how to speak, and its decisions do not show it.

1. The validation rows hold ordinary requests with replies that are never trained on.
2. The base model reads them without control tokens, before training.
3. The trained model reads them behind [respond], in the same template.
4. Control tokens get no probability within a reply, as in service, where they are banned there.

Shapes: B rows, T tokens, M reply tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from demur.core.example import Example
from demur.core.rows.splitting import uniform_hash
from demur.core.training.settings import TrainSettings
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.heads import head_on, marked_rows
from demur.engines.training.batches import (
    IGNORE,
    TOKENS_PER_BATCH,
    PadRight,
    TrainingRow,
    as_read,
    by_length,
)
from demur.engines.training.rows import reply_row

# Most rows, and most tokens of each reply: some 2,500 tokens measure a tenth of a nat.
ROWS, TOKENS = 64, 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """Held-out replies and their log loss in the base model."""

    rows: Sequence[TrainingRow]  # labels on the reply alone
    control_ids: tuple[int, ...]
    base_loss: float  # nats a reply token

    @property
    def tokens(self) -> int:
        """Number of reply tokens in the loss."""
        return _tokens(self.rows)


def held_out_replies(
    examples: Sequence[Example], encoder: ChatEncoder, settings: TrainSettings
) -> list[TrainingRow]:
    """Rows of benign examples with a reply, labelled on the reply alone.

    At most ROWS rows, drawn by id and seed; rows longer than train.max_length are left out.
    """
    spoken = [e for e in examples if e.kind == "benign" and e.reply]
    spoken.sort(key=lambda e: uniform_hash(settings.seed, f"language:{e.id}"))
    rows = []
    for example in spoken:
        row = reply_row(example, 0, encoder, TOKENS)
        # The reply is what follows the last control token.
        at = max(n for n, token in enumerate(row.input_ids) if token in encoder.token_ids)
        labels = [IGNORE] * (at + 1) + row.labels[at + 1 :]
        rows.append(TrainingRow(input_ids=row.input_ids, labels=labels))
    return [r for r in rows if len(r.input_ids) <= settings.max_length][:ROWS]


def measured_base(
    model: Any, rows: Sequence[TrainingRow], control_ids: Sequence[int], autocast: bool
) -> Language:
    """Measure the base model's loss on held-out replies, without their control tokens.

    autocast: in bfloat16 arithmetic, as in training.
    """
    bare = []
    for row in rows:
        kept = [n for n, token in enumerate(row.input_ids) if token not in control_ids]
        ids, labels = [row.input_ids[n] for n in kept], [row.labels[n] for n in kept]
        bare.append(TrainingRow(input_ids=ids, labels=labels))
    loss = reply_loss(model, bare, control_ids, autocast)
    return Language(rows=rows, control_ids=tuple(control_ids), base_loss=loss)


def reply_loss(
    model: Any, rows: Sequence[TrainingRow], control_ids: Sequence[int], autocast: bool
) -> float:
    """Mean negative log-likelihood of the labelled tokens, in nats.

    autocast: in bfloat16 arithmetic, as in training.
    """
    device = model.get_input_embeddings().weight.device
    trains, pad = model.training, PadRight(pad_id=0)
    model.eval()
    total = 0.0
    for batch in by_length([len(r.input_ids) for r in rows], TOKENS_PER_BATCH):
        padded = {
            name: part.to(device) for name, part in pad([as_read(rows[n]) for n in batch]).items()
        }
        # The logits of a position predict the next token: labels shift left by one.
        targets_BT = functional.pad(padded["labels"][:, 1:], (0, 1), value=IGNORE)
        arithmetic = torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast)
        with torch.no_grad(), arithmetic, head_on(model, marked_rows(targets_BT != IGNORE)):
            logits_MV = model(input_ids=padded["input_ids"], use_cache=False).logits[0].float()
        logits_MV[:, list(control_ids)] = float("-inf")
        targets_M = targets_BT[targets_BT != IGNORE]
        total += float(functional.cross_entropy(logits_MV, targets_M, reduction="sum"))
    model.train(trains)
    return total / _tokens(rows)


def _tokens(rows: Sequence[TrainingRow]) -> int:
    """Number of labelled tokens."""
    return sum(label != IGNORE for row in rows for label in row.labels)
