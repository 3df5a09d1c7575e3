"""TRL's SFTTrainer with demur's loss and demur's batches (demur.engines.training.batches).

Shapes: B rows, T tokens, M supervised positions of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from demur.engines.heads import head_on, marked_rows
from demur.engines.training.batches import IGNORE, EpochLoader, OwnBatches, TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What a token counts in the loss."""

    control_ids: tuple[int, ...]  # [respond] first
    control: float  # weight of [respond]
    refusal: float  # weight of a refusal token
    answer: float  # weight of every other supervised token
    # share of a control token's target that is spread over all control tokens
    smoothing: float = 0.0

    def of(self, targets_BT: torch.Tensor, rows_B: torch.Tensor | None = None) -> torch.Tensor:
        """Weights of target ids, (B, T); 0 where the target is ignored. rows_B: times this, of
        control tokens.
        """
        refusal_ids = torch.tensor(self.control_ids[1:], device=targets_BT.device)
        of_rows = (
            torch.ones_like(targets_BT, dtype=torch.float32) if rows_B is None else rows_B[:, None]
        )
        weights = torch.where(
            torch.isin(targets_BT, refusal_ids), self.refusal * of_rows, self.answer
        )
        weights = torch.where(targets_BT == self.control_ids[0], self.control * of_rows, weights)
        return weights.masked_fill(targets_BT == IGNORE, 0.0)

    def total(self, rows: Sequence[TrainingRow]) -> float:
        """The weight of all targets of the rows."""
        return sum(
            float(self.of(torch.tensor([row.labels[1:]]), torch.tensor([row.weight])).sum())
            for row in rows
        )

    def are_control(self, targets: torch.Tensor) -> torch.Tensor:
        """Which targets are control tokens, same shape."""
        return torch.isin(targets, torch.tensor(self.control_ids, device=targets.device))

    def losses(self, logits_MV: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each target, (M,), without its weight; a control token's
        target smoothed.
        """
        losses_M = functional.cross_entropy(logits_MV, targets_M, reduction="none")
        if not self.smoothing:
            return losses_M
        all_M = torch.logsumexp(logits_MV, dim=1) - logits_MV[:, list(self.control_ids)].mean(dim=1)
        share_M = self.smoothing * self.are_control(targets_M)
        return (1 - share_M) * losses_M + share_M * all_M


class ControlTokenTrainer(SFTTrainer):
    """SFTTrainer whose loss weighs control tokens apart and whose logits exist only where the loss
    looks.

    The loss is the weighted mean of the negative log-likelihood over the whole optimizer step, all
    processes and accumulated batches together, so the number of processes does not change it. With
    our own batches, of like length and so of few long rows or many short ones, the mean is over the
    weight of an average step: every row counts alike.
    """

    def __init__(
        self, *args: Any, weights: LossWeights, own: OwnBatches | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._weights = weights
        self._own = own
        self._shares: list[torch.Tensor] = []
        # _get_num_items_in_batch spans the accumulated batches
        self.loss_is_scaled_for_ga: Any = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Our batches when they are given (already this process's share), else the trainer's
        own.
        """
        if self._own is None:
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        return EpochLoader(
            self._own.rows, batch_sampler=self._own.batches, collate_fn=self.data_collator
        )

    def _get_num_items_in_batch(
        self, batch_samples: list[Any], device: torch.device
    ) -> torch.Tensor:
        if self._own is not None:
            return torch.tensor(self._own.step_weight, device=device)
        weighed = (
            self._weights.of(b["labels"][:, 1:], b.get("weights")).sum() for b in batch_samples
        )
        total = sum(weighed, torch.zeros(()))
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
        logits_MV, targets_BT, outputs = self.at_targets(model, inputs)
        supervised_BT = targets_BT != IGNORE
        targets_M = targets_BT[supervised_BT]
        weights_M = self._weights.of(targets_BT, inputs.get("weights"))[supervised_BT]
        losses_M = weights_M * self._weights.losses(logits_MV, targets_M)
        whole = weights_M.sum() if num_items_in_batch is None else num_items_in_batch
        # DDP averages gradients over processes, and `whole` already spans them.
        loss = (
            losses_M.sum()
            / whole
            * (self.accelerator.num_processes if num_items_in_batch is not None else 1)
        )
        self._note_share(losses_M.detach(), targets_M)
        return (loss, outputs) if return_outputs else loss

    def at_targets(
        self, model: Any, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Raw logits where a target is supervised, (M, V) float32; the targets, (B, T); and the
        model's outputs.
        """
        targets_BT = functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORE)
        rest = {k: v for k, v in inputs.items() if k not in ("labels", "weights")}
        with head_on(self.accelerator.unwrap_model(model), marked_rows(targets_BT != IGNORE)):
            outputs = model(**rest, use_cache=False)
        return outputs.logits[0].float(), targets_BT, outputs

    def _note_share(self, losses_M: torch.Tensor, targets_M: torch.Tensor) -> None:
        is_control_M = self._weights.are_control(targets_M)
        self._shares.append(torch.stack([losses_M[is_control_M].sum(), losses_M.sum()]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the control tokens' share of the loss since the last log (this process's rows)."""
        if self._shares and "loss" in logs:
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
