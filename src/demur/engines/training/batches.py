"""Batches of training rows of like length, cut to a budget of tokens, and their padding.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

IGNORE = -100  # the label that torch's cross-entropy leaves out
TOKENS_PER_BATCH = 2048  # of rows that are read only, without a backward pass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One conversation to learn from."""

    input_ids: list[int]
    # as input_ids where the loss counts (of a transition row a refusal token), IGNORE elsewhere
    labels: list[int]
    has_reply: bool = False  # whether a reply follows its control token
    weight: float = 1.0  # factor of its control tokens' weight in the loss
    # of a row whose control tokens stand in mid-answer; None: at the first position of each answer
    midway: Literal["turn_back", "transition"] | None = None
    # of a twin row: its control token is read and no target, only the text behind it is
    twin: bool = False

    @property
    def decides(self) -> bool:
        """Whether the row's last control token is a target at the first position of the answer."""
        return self.midway is None and not self.twin


class TokenBudgetBatches(Sampler[list[int]]):
    """Batches of rows of like length within a budget of tokens; of each, this process's share.

    budget: rows x longest row. The batches of an epoch depend on the rows, the seed and the epoch
    alone, never on the number of processes: two processes see the two halves of one process's
    batch. Rows of equal length trade places every epoch. An index is row + epoch x rows, for
    NoisyRows.
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
        """Set the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._cuts)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        # A stable sort by length of a random order: only rows of equal length trade places, so that
        # the cuts, which depend on lengths alone, hold for every epoch.
        shuffled = torch.randperm(len(self._lengths), generator=generator)
        order = shuffled[torch.argsort(self._lengths[shuffled], stable=True)].tolist()
        batches = [order[start:end] for start, end in self._cuts]
        for at in torch.randperm(len(batches), generator=generator).tolist():
            yield [row + self._epoch * len(order) for row in batches[at][self._rank :: self._world]]


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of rows in batches of like length, rows x longest row <= budget, shortest first."""
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    return [order[start:end] for start, end in _cut(sorted(lengths), budget, at_least=1)]


def _cut(lengths: Sequence[int], budget: int, *, at_least: int) -> list[tuple[int, int]]:
    """Cut an ascending list of lengths into slices with rows x longest row <= budget.

    A slice has `at_least` rows (one for each process), even if it then exceeds the budget.
    """
    cuts, start = [], 0
    for end in range(1, len(lengths) + 1):
        # the cost of a slice that ends with this row, its longest
        grown = (end - start) * lengths[end - 1]
        if grown > budget and end - 1 - start >= at_least:
            cuts.append((start, end - 1))
            start = end - 1
    # A last slice with too few rows joins the one before it.
    if cuts and len(lengths) - start < at_least:
        start = cuts.pop()[0]
    return [*cuts, (start, len(lengths))]


def as_read(row: TrainingRow) -> dict[str, Any]:
    """The row as the dictionary that the collator takes."""
    return {
        "input_ids": row.input_ids,
        "labels": row.labels,
        "weights": row.weight,
        "midway": row.midway is not None,
    }


class NoisyRows(Dataset[dict[str, Any]]):
    """Training rows with a share of their prompts' tokens replaced by random ones (word dropout).

    ordinary_ids: ids that may be replaced, and their replacements. The noise depends on seed, epoch
    and row alone, so that it is the same in a resumed training and with any number of processes.
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
        # Only tokens that are not learnt, and none of the template or of the control tokens.
        hit_T &= (torch.tensor(row.labels) == IGNORE) & torch.isin(ids_T, self._ordinary)
        at_T = torch.randint(len(self._ordinary), ids_T.shape, generator=generator)
        return as_read(row) | {
            "input_ids": torch.where(hit_T, self._ordinary[at_T], ids_T).tolist()
        }


class EpochLoader(DataLoader[Any]):
    """A data loader that passes the epoch on to its TokenBudgetBatches."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Trainer calls this before each one."""
        assert isinstance(self.batch_sampler, TokenBudgetBatches)
        self.batch_sampler.set_epoch(epoch)


@dataclass(frozen=True, kw_only=True, slots=True)
class PadRight:
    """Collate rows by padding on the right.

    No attention mask is needed: under causal attention no real token attends to padding.
    """

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """{"input_ids", "labels"} of shape (B, T), {"weights", "midway"} of shape (B,)."""
        longest = max(len(r["input_ids"]) for r in rows)

        def padded(key: str, filler: int) -> torch.Tensor:
            return torch.tensor([r[key] + [filler] * (longest - len(r[key])) for r in rows])

        return {
            "input_ids": padded("input_ids", self.pad_id),
            "labels": padded("labels", IGNORE),
            "weights": torch.tensor([r["weights"] for r in rows]),
            "midway": torch.tensor([r["midway"] for r in rows]),
        }


@dataclass(frozen=True, slots=True)
class OwnBatches:
    """Dataset and batches that replace the trainer's own."""

    rows: Dataset[Any]
    batches: TokenBudgetBatches
    step_weight: float  # mean weight of the loss's targets in an optimizer step
