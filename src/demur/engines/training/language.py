"""Whether the language survives: log loss of held-out ordinary replies, beside what it was in the
base model.

A model that learns its control tokens alone forgets how to speak, and its decisions do not show it.
The validation rows hold ordinary requests with replies that nobody trains on: the trained model
reads them behind [respond], the base model without a control token, both in the same template.
Control tokens count for nothing at these places, as in service, where none is written after the
first position.

Shapes: M reply tokens of a batch, V vocabulary.
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

ROWS, TOKENS = 64, 48  # at most, of rows and of each reply: some 2,500 tokens tell a tenth of a nat


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """Held-out replies, and how the base model reads them."""

    rows: Sequence[TrainingRow]  # labels on the reply alone
    control_ids: tuple[int, ...]
    base_loss: float  # nats a reply token

    @property
    def tokens(self) -> int:
        """Reply tokens that are counted."""
        return _tokens(self.rows)


def held_out_replies(
    examples: Sequence[Example], encoder: ChatEncoder, settings: TrainSettings
) -> list[TrainingRow]:
    """Benign examples with a reply, at most ROWS, drawn by id and seed: the loss counts on the
    reply alone.
    """
    spoken = [e for e in examples if e.kind == "benign" and e.reply]
    spoken.sort(key=lambda e: uniform_hash(settings.seed, f"language:{e.id}"))
    rows = [_last_reply(reply_row(e, 0, encoder, TOKENS), encoder.token_ids) for e in spoken]
    return [r for r in rows if len(r.input_ids) <= settings.max_length][:ROWS]


def measured_base(
    model: Any, rows: Sequence[TrainingRow], control_ids: Sequence[int], autocast: bool
) -> Language:
    """How the base model reads the replies. It may have rows for control tokens already; it reads
    none.
    """
    bare = [_without(row, control_ids) for row in rows]
    loss = reply_loss(model, bare, control_ids, autocast)
    return Language(rows=rows, control_ids=tuple(control_ids), base_loss=loss)


def reply_loss(
    model: Any, rows: Sequence[TrainingRow], control_ids: Sequence[int], autocast: bool
) -> float:
    """Mean negative log-likelihood of the labelled tokens, nats. autocast: in bfloat16 arithmetic,
    as in training.
    """
    device = model.get_input_embeddings().weight.device
    trains, pad = model.training, PadRight(pad_id=0)
    model.eval()
    total = 0.0
    for batch in by_length([len(r.input_ids) for r in rows], TOKENS_PER_BATCH):
        padded = {
            name: part.to(device) for name, part in pad([as_read(rows[n]) for n in batch]).items()
        }
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
    return sum(label != IGNORE for row in rows for label in row.labels)


def _last_reply(row: TrainingRow, control_ids: Sequence[int]) -> TrainingRow:
    """The row with labels on what follows its last control token."""
    at = max(n for n, token in enumerate(row.input_ids) if token in control_ids)
    return TrainingRow(input_ids=row.input_ids, labels=[IGNORE] * (at + 1) + row.labels[at + 1 :])


def _without(row: TrainingRow, control_ids: Sequence[int]) -> TrainingRow:
    """The row without its control tokens."""
    kept = [n for n, token in enumerate(row.input_ids) if token not in control_ids]
    return TrainingRow(
        input_ids=[row.input_ids[n] for n in kept], labels=[row.labels[n] for n in kept]
    )
