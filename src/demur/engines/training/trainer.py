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
    """Weights of tokens in the loss."""

    control_ids: tuple[int, ...]  # [respond] first
    control: float  # weight of [respond]
    refusal: float  # weight of a refusal token
    answer: float  # weight of every other supervised token
    # label smoothing: share of a control token's target that is spread over all control tokens
    smoothing: float = 0.0
    # times `answer`, of the first `opening_tokens` behind each control token
    opening: float = 1.0
    opening_tokens: int = 0

    def of(self, targets_BT: torch.Tensor, rows_B: torch.Tensor | None = None) -> torch.Tensor:
        """Weights (B, T) of target ids; 0 where the target is ignored.

        rows_B: factors of each row's control tokens; None: 1.
        """
        refusal_ids = torch.tensor(self.control_ids[1:], device=targets_BT.device)
        of_rows = (
            torch.ones_like(targets_BT, dtype=torch.float32) if rows_B is None else rows_B[:, None]
        )
        weights = torch.where(
            torch.isin(targets_BT, refusal_ids), self.refusal * of_rows, self.answer
        )
        weights = torch.where(targets_BT == self.control_ids[0], self.control * of_rows, weights)
        if self.opening != 1.0:
            weights = torch.where(self._opens(targets_BT), self.opening * weights, weights)
        return weights.masked_fill(targets_BT == IGNORE, 0.0)

    def total(self, rows: Sequence[TrainingRow]) -> float:
        """Sum of the weights of all targets of the rows."""
        return sum(
            float(self.of(torch.tensor([row.labels[1:]]), torch.tensor([row.weight])).sum())
            for row in rows
        )

    def _opens(self, targets_BT: torch.Tensor) -> torch.Tensor:
        """Mask of the targets that open a text: the first of each unbroken run of text targets."""
        text_BT = (targets_BT != IGNORE) & ~self.are_control(targets_BT)
        at_T = torch.arange(targets_BT.shape[1], device=targets_BT.device)
        starts_BT = text_BT & ~functional.pad(text_BT[:, :-1], (1, 0))
        # where the run that a position belongs to began: the last start up to there
        began_BT = torch.where(starts_BT, at_T, 0).cummax(dim=1).values
        return text_BT & (at_T - began_BT < self.opening_tokens)

    def without_control(self, logits_MV: torch.Tensor, twins_M: torch.Tensor) -> torch.Tensor:
        """The logits with control tokens left out where twins_M says so, as in service, where they
        are banned behind the first position: such a position gives their rows of the head no
        gradient.
        """
        control_V = torch.zeros(logits_MV.shape[1], dtype=torch.bool, device=logits_MV.device)
        control_V[list(self.control_ids)] = True
        return logits_MV.masked_fill(twins_M[:, None] & control_V, float("-inf"))

    def are_control(self, targets: torch.Tensor) -> torch.Tensor:
        """Mask of the targets that are control tokens, of the same shape."""
        return torch.isin(targets, torch.tensor(self.control_ids, device=targets.device))

    def losses(
        self,
        logits_MV: torch.Tensor,
        targets_M: torch.Tensor,
        midway_M: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Negative log-likelihood (M,) of each target, unweighted, with label smoothing.

        midway_M: where a control token is a target in mid-answer; it is not smoothed, since
        [respond] is no choice there. None: nowhere.
        """
        losses_M = functional.cross_entropy(logits_MV, targets_M, reduction="none")
        if not self.smoothing:
            return losses_M
        # mean negative log-likelihood of all control tokens: the spread part of the target
        all_M = torch.logsumexp(logits_MV, dim=1) - logits_MV[:, list(self.control_ids)].mean(dim=1)
        share_M = self.smoothing * self.are_control(targets_M)
        if midway_M is not None:
            share_M = share_M.masked_fill(midway_M, 0.0)
        return (1 - share_M) * losses_M + share_M * all_M


class ControlTokenTrainer(SFTTrainer):
    """SFTTrainer with weights of control tokens in the loss, and logits of labelled positions only.

    The loss is the weighted mean of the negative log-likelihood over the whole optimizer step, all
    processes and accumulated batches together, so the number of processes does not change it. With
    demur's batches, which have few long rows or many short ones, the sum is divided by the weight
    of an average step instead, so that every row counts alike.
    """

    def __init__(
        self, *args: Any, weights: LossWeights, own: OwnBatches | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._weights = weights
        self._own = own
        # (loss of control tokens, whole loss) of each batch since the last log
        self._shares: list[torch.Tensor] = []
        # Trainer must not divide by accumulated batches: _get_num_items_in_batch spans them.
        self.loss_is_scaled_for_ga: Any = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Demur's batches, already this process's share, or the trainer's own without them."""
        if self._own is None:
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        return EpochLoader(
            self._own.rows, batch_sampler=self._own.batches, collate_fn=self.data_collator
        )

    def _get_num_items_in_batch(
        self, batch_samples: list[Any], device: torch.device
    ) -> torch.Tensor:
        """Trainer's hook: the weight of an optimizer step over all processes."""
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
        """Weighted loss; see the class. num_items_in_batch: the weight of the whole step."""
        logits_MV, targets_BT, outputs = self.at_targets(model, inputs)
        supervised_BT = targets_BT != IGNORE
        targets_M = targets_BT[supervised_BT]
        weights_M = self._weights.of(targets_BT, inputs.get("weights"))[supervised_BT]
        midway_M = None
        if "midway" in inputs:
            midway_M = inputs["midway"][:, None].expand_as(targets_BT)[supervised_BT]
        # Every row but a twin has a control token among its targets.
        twins_B = ~self._weights.are_control(targets_BT).any(dim=1)
        if twins_B.any():
            twins_M = twins_B[:, None].expand_as(targets_BT)[supervised_BT]
            logits_MV = self._weights.without_control(logits_MV, twins_M)
        losses_M = weights_M * self._weights.losses(logits_MV, targets_M, midway_M)
        whole = weights_M.sum() if num_items_in_batch is None else num_items_in_batch
        # DDP averages gradients over processes, and `whole` already spans them.
        loss = (
            losses_M.sum()
            / whole
            * (self.accelerator.num_processes if num_items_in_batch is not None else 1)
        )
        parts_M = losses_M.detach()
        of_control = parts_M[self._weights.are_control(targets_M)].sum()
        self._shares.append(torch.stack([of_control, parts_M.sum()]))
        return (loss, outputs) if return_outputs else loss

    def at_targets(
        self, model: Any, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Logits of the M labelled targets, (M, V) float32; all targets (B, T); the outputs."""
        # The logits of a position predict the next token: labels shift left by one.
        targets_BT = functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORE)
        rest = {k: v for k, v in inputs.items() if k not in ("labels", "weights", "midway")}
        with head_on(self.accelerator.unwrap_model(model), marked_rows(targets_BT != IGNORE)):
            outputs = model(**rest, use_cache=False)
        return outputs.logits[0].float(), targets_BT, outputs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the figures and the control tokens' share of the loss, of this process's rows."""
        if self._shares and "loss" in logs:
            control, everything = torch.stack(self._shares).sum(dim=0).tolist()
            logs["control_loss_share"] = control / everything if everything else 0.0
            self._shares.clear()
        super().log(logs, start_time)


class StepProgress(TrainerCallback):
    """Reports optimizer steps to the caller's progress callback."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Report a step; Trainer calls this after each one."""
        self._progress(state.global_step, state.max_steps)
