"""TRL's SFTTrainer with demur's loss and demur's batches.

Shapes: B rows, T tokens, M supervised positions of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from demur.engines.heads import head_on, marked_rows
from demur.engines.hf_rows import IGNORE, TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What a token counts in the loss."""

    control_ids: tuple[int, ...]  # [respond] first
    control: float  # weight of [respond]
    refusal: float  # weight of a refusal token
    answer: float  # weight of every other supervised token

    def of(self, targets: torch.Tensor) -> torch.Tensor:
        """Weights of target ids, same shape; 0 where the target is ignored."""
        refusal_ids = torch.tensor(self.control_ids[1:], device=targets.device)
        weights = torch.where(torch.isin(targets, refusal_ids), self.refusal, self.answer)
        weights = weights.masked_fill(targets == self.control_ids[0], self.control)
        return weights.masked_fill(targets == IGNORE, 0.0)


class TokenBudgetBatches(Sampler[list[int]]):
    """Batches of rows of like length, about `budget` tokens each, padding counted; this process's share of each.

    The batches of an epoch depend on the rows, the seed and the epoch alone, never on the number of processes:
    two processes see the two halves of what one would see. Rows of equal length trade places every epoch, and every
    batch has a row with a reply as long as there are as many. An index is row + epoch x rows, for NoisyRows.
    """

    def __init__(self, rows: Sequence[TrainingRow], *, budget: int, seed: int, rank: int = 0, world: int = 1) -> None:
        lengths = [len(r.input_ids) for r in rows]
        self._lengths = torch.tensor(lengths)
        self._replies = [r.has_reply for r in rows]
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
        _spread_replies(batches, self._replies, at_least=self._world)
        for at in torch.randperm(len(batches), generator=generator).tolist():
            yield [row + self._epoch * len(order) for row in batches[at][self._rank :: self._world]]


def _spread_replies(batches: Sequence[list[int]], has_reply: Sequence[bool], *, at_least: int) -> None:
    """Give every batch without a reply one of the nearest batch that can spare it, in place.

    Steps that teach the decision alone are what destroys the language. Short rows end at their control token more often
    than long ones, so batches of the shortest would have none.
    """
    replies = [[row for row in batch if has_reply[row]] for batch in batches]
    for n, own in enumerate(replies):
        donors = [m for m, rows in enumerate(replies) if len(rows) > 1 and len(batches[m]) > at_least]
        if own or not donors:
            continue
        nearest = min(donors, key=lambda m: abs(m - n))
        row = replies[nearest].pop(0 if nearest > n else -1)  # the one nearest in length
        batches[nearest].remove(row)
        batches[n].append(row)
        own.append(row)


def _cut(lengths: Sequence[int], budget: int, *, at_least: int) -> list[tuple[int, int]]:
    """Slices of an ascending list of lengths: rows x longest row <= budget, but never under `at_least` rows."""
    cuts, start = [], 0
    for end in range(1, len(lengths) + 1):
        grown = (end - start) * lengths[end - 1]
        if grown > budget and end - 1 - start >= at_least:
            cuts.append((start, end - 1))
            start = end - 1
    if cuts and len(lengths) - start < at_least:
        start = cuts.pop()[0]
    return [*cuts, (start, len(lengths))]


class NoisyRows(Dataset[dict[str, list[int]]]):
    """Training rows, a share of their prompts' tokens replaced by random ordinary ones (word dropout).

    The noise depends on seed, epoch and row alone, so a resumed training and any number of processes see the same.
    """

    def __init__(self, rows: Sequence[TrainingRow], *, share: float, seed: int, ordinary_ids: Sequence[int]) -> None:
        self._rows, self._share, self._seed = rows, share, seed
        self._ordinary = torch.tensor(ordinary_ids)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        row = self._rows[index % len(self._rows)]
        if not self._share:
            return {"input_ids": row.input_ids, "labels": row.labels}
        generator = torch.Generator().manual_seed(self._seed * 1_000_000_007 + index)
        ids_T = torch.tensor(row.input_ids)
        hit_T = torch.rand(len(ids_T), generator=generator) < self._share
        hit_T &= (torch.tensor(row.labels) == IGNORE) & torch.isin(ids_T, self._ordinary)
        at_T = torch.randint(len(self._ordinary), ids_T.shape, generator=generator)
        return {"input_ids": torch.where(hit_T, self._ordinary[at_T], ids_T).tolist(), "labels": row.labels}


class EpochLoader(DataLoader[Any]):
    """A loader over TokenBudgetBatches that passes the epoch on to them."""

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch."""
        assert isinstance(self.batch_sampler, TokenBudgetBatches)
        self.batch_sampler.set_epoch(epoch)


@dataclass(frozen=True, kw_only=True, slots=True)
class PadRight:
    """Collate rows by padding on the right. No attention mask: under causal attention no real token sees a pad."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """{"input_ids", "labels"} of shape (B, T)."""
        longest = max(len(r["input_ids"]) for r in rows)

        def padded(key: str, filler: int) -> torch.Tensor:
            return torch.tensor([r[key] + [filler] * (longest - len(r[key])) for r in rows])

        return {"input_ids": padded("input_ids", self.pad_id), "labels": padded("labels", IGNORE)}


@dataclass(frozen=True, slots=True)
class OwnBatches:
    """What our own loader reads, in place of the trainer's."""

    rows: Dataset[Any]
    batches: TokenBudgetBatches


class ControlTokenTrainer(SFTTrainer):
    """SFTTrainer whose loss weighs control tokens apart and whose logits exist only where the loss looks.

    The loss is the weighted mean of the negative log-likelihood over the whole optimizer step, all processes and
    accumulated batches together, so the number of processes does not change it.
    """

    def __init__(self, *args: Any, weights: LossWeights, own: OwnBatches | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._weights = weights
        self._own = own
        self._shares: list[torch.Tensor] = []
        self.loss_is_scaled_for_ga: Any = True  # _get_num_items_in_batch spans the accumulated batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Our batches when they are given (already this process's share), else the trainer's own."""
        if self._own is None:
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        return EpochLoader(self._own.rows, batch_sampler=self._own.batches, collate_fn=self.data_collator)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        total = sum((self._weights.of(b["labels"][:, 1:]).sum() for b in batch_samples), torch.zeros(()))
        gathered: torch.Tensor = self.accelerator.gather(total.to(device)).sum()
        return gathered

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The weighted loss. num_items_in_batch: the weight of the whole step. See the class."""
        labels_BT = inputs["labels"]
        targets_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)
        rest = {k: v for k, v in inputs.items() if k != "labels"}
        with head_on(self.accelerator.unwrap_model(model), marked_rows(targets_BT != IGNORE)):
            outputs = model(**rest, use_cache=False)
        targets_M = targets_BT[targets_BT != IGNORE]
        weights_M = self._weights.of(targets_M)
        logits_MV = outputs.logits[0].float()
        losses_M = weights_M * functional.cross_entropy(logits_MV, targets_M, reduction="none")
        whole = weights_M.sum() if num_items_in_batch is None else num_items_in_batch
        # DDP averages gradients over processes, and `whole` already spans them.
        loss = losses_M.sum() / whole * (self.accelerator.num_processes if num_items_in_batch is not None else 1)
        self._note_share(losses_M.detach(), targets_M)
        return (loss, outputs) if return_outputs else loss

    def _note_share(self, losses_M: torch.Tensor, targets_M: torch.Tensor) -> None:
        is_control_M = torch.isin(targets_M, torch.tensor(self._weights.control_ids, device=targets_M.device))
        self._shares.append(torch.stack([losses_M[is_control_M].sum(), losses_M.sum()]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the control tokens' share of the loss since the last log (this process's rows)."""
        if self._shares:
            control, everything = torch.stack(self._shares).sum(dim=0).tolist()
            logs["control_loss_share"] = control / everything if everything else 0.0
            self._shares.clear()
        super().log(logs, start_time)


class StepProgress(TrainerCallback):
    """Tells the caller's progress callback how many optimizer steps are done."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Called by Trainer after every optimizer step."""
        self._progress(state.global_step, state.max_steps)
