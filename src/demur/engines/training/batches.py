"""Batches of training rows of like length, and how they are padded.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

IGNORE = -100  # the label that torch's cross-entropy leaves out
TOKENS_PER_BATCH = 2048  # of rows that are read, not learnt from


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One conversation to learn from."""

    input_ids: list[int]
    labels: list[int]  # as input_ids where the loss counts, IGNORE elsewhere
    has_reply: bool = False  # whether it goes on after its control token
    weight: float = 1.0  # of its control token in the loss, beside others' of the same kind


class TokenBudgetBatches(Sampler[list[int]]):
    """Batches of rows of like length, about `budget` tokens each, padding counted; this process's
    share of each.

    The batches of an epoch depend on the rows, the seed and the epoch alone, never on the number of
    processes: two processes see the two halves of what one would see. Rows of equal length trade
    places every epoch. An index is row + epoch x rows, for NoisyRows.
    """

    def __init__(
        self, rows: Sequence[TrainingRow], *, budget: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        lengths = [len(r.input_ids) for r in rows]
        self._lengths = torch.tensor(lengths)
        self._seed, self._rank, self._world = seed, rank, world
        self._epoch = 0
        self._cuts = _cut(sorted(lengths), budget, at_least=world)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._cuts)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        shuffled = torch.randperm(len(self._lengths), generator=generator)
        order = shuffled[torch.argsort(self._lengths[shuffled], stable=True)].tolist()
        batches = [order[start:end] for start, end in self._cuts]
        for at in torch.randperm(len(batches), generator=generator).tolist():
            yield [row + self._epoch * len(order) for row in batches[at][self._rank :: self._world]]


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of rows in batches of like length, rows x longest row <= budget, the shortest
    first.
    """
    order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    return (
        [order[start:end] for start, end in _cut(sorted(lengths), budget, at_least=1)]
        if order
        else []
    )


def _cut(lengths: Sequence[int], budget: int, *, at_least: int) -> list[tuple[int, int]]:
    """Slices of an ascending list of lengths: rows x longest row <= budget, but never under
    `at_least` rows.
    """
    cuts, start = [], 0
    for end in range(1, len(lengths) + 1):
        grown = (end - start) * lengths[end - 1]
        if grown > budget and end - 1 - start >= at_least:
            cuts.append((start, end - 1))
            start = end - 1
    if cuts and len(lengths) - start < at_least:
        start = cuts.pop()[0]
    return [*cuts, (start, len(lengths))]


def as_read(row: TrainingRow) -> dict[str, Any]:
    """A row as the collator takes it."""
    return {"input_ids": row.input_ids, "labels": row.labels, "weights": row.weight}


class NoisyRows(Dataset[dict[str, Any]]):
    """Training rows, a share of their prompts' tokens replaced by random ordinary ones (word
    dropout).

    The noise depends on seed, epoch and row alone, so a resumed training and any number of
    processes see the same.
    """

    def __init__(
        self, rows: Sequence[TrainingRow], *, share: float, seed: int, ordinary_ids: Sequence[int]
    ) -> None:
        self._rows, self._share, self._seed = rows, share, seed
        self._ordinary = torch.tensor(ordinary_ids)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index % len(self._rows)]
        if not self._share:
            return as_read(row)
        generator = torch.Generator().manual_seed(self._seed * 1_000_000_007 + index)
        ids_T = torch.tensor(row.input_ids)
        hit_T = torch.rand(len(ids_T), generator=generator) < self._share
        hit_T &= (torch.tensor(row.labels) == IGNORE) & torch.isin(ids_T, self._ordinary)
        at_T = torch.randint(len(self._ordinary), ids_T.shape, generator=generator)
        return as_read(row) | {
            "input_ids": torch.where(hit_T, self._ordinary[at_T], ids_T).tolist()
        }


class EpochLoader(DataLoader[Any]):
    """A loader over TokenBudgetBatches that passes the epoch on to them."""

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch."""
        assert isinstance(self.batch_sampler, TokenBudgetBatches)
        self.batch_sampler.set_epoch(epoch)


@dataclass(frozen=True, kw_only=True, slots=True)
class PadRight:
    """Collate rows by padding on the right. No attention mask: under causal attention no real token
    sees a pad.
    """

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """{"input_ids", "labels"} of shape (B, T), {"weights"} of shape (B,)."""
        longest = max(len(r["input_ids"]) for r in rows)

        def padded(key: str, filler: int) -> torch.Tensor:
            return torch.tensor([r[key] + [filler] * (longest - len(r[key])) for r in rows])

        weights_B = torch.tensor([r["weights"] for r in rows])
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "labels": padded("labels", IGNORE),
            "weights": weights_B,
        }


@dataclass(frozen=True, slots=True)
class OwnBatches:
    """What our own loader reads, in place of the trainer's."""

    rows: Dataset[Any]
    batches: TokenBudgetBatches
    step_weight: float  # of what the loss counts, in a step on average
