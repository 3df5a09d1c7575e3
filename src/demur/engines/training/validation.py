"""Validation during training: early stopping, and the weights with the lowest log loss.

1. Whole groups of the training rows are set aside (core.rows.splitting.hold_out); each row ends at
   its control token.
2. Every few steps the log loss of their decisions is measured over the whole vocabulary, so that
   probability outside the control tokens counts against it; and that leftover mass itself.
3. The best weights so far are stored in a file beside the checkpoints, for a killed training to
   find.
4. After `patience` measurements without gain training stops. The best weights are restored at the
   end in any case.

Every process measures all rows: sharded weights need all processes in every forward pass, and all
processes must stop at the same step. Shapes: B rows, T tokens, C control tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import TrainerCallback

from demur.base.errors import EngineError
from demur.engines.training.batches import IGNORE, TOKENS_PER_BATCH, by_length
from demur.engines.training.trainer import ControlTokenTrainer


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationLoss:
    """Loss of the decisions on the validation rows after a number of steps."""

    step: int
    loss: float  # mean negative log-probability of the right control token, nats
    leftover: float  # mean probability outside the control tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSetup:
    """Validation rows, and when they are measured."""

    rows: Dataset[Any]  # each ends at its control token
    collate: Callable[[list[Any]], dict[str, torch.Tensor]]
    lengths: Sequence[int]  # tokens of each row
    control_ids: tuple[int, ...]
    every: int  # optimizer steps between two measurements
    patience: int  # measurements without gain before training stops
    file: Path  # of the best weights so far, one for each process


class Validation(TrainerCallback):
    """Measures the validation rows during training, stops it, and restores the best weights.

    Raises EngineError under DeepSpeed, whose weights cannot be restored this way.
    """

    def __init__(self, trainer: ControlTokenTrainer, what: ValidationSetup) -> None:
        if trainer.is_deepspeed_enabled:
            raise EngineError(
                "validation rows with DeepSpeed", "set train.validation_share = 0, or use FSDP"
            )
        self._trainer, self._what = trainer, what
        self._batches = by_length(what.lengths, TOKENS_PER_BATCH)
        self._last: ValidationLoss | None = None
        self.best: ValidationLoss | None = (
            _read(what.file)["measured"] if what.file.exists() else None
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure if it is due; Trainer calls this after every optimizer step."""
        if state.global_step % self._what.every:
            return
        self._measure(state.global_step)
        # Steps since the best measurement; without one, since the beginning.
        best = self.best.step if self.best else 0
        if state.global_step - best >= self._what.patience * self._what.every:
            control.should_training_stop = True

    def finish(self) -> ValidationLoss:
        """Measure the last step unless that was done, and restore the best weights.

        Returns the loss of the best weights. Raises EngineError if no measurement gave a number.
        """
        step = self._trainer.state.global_step
        if self._last is None or self._last.step != step:
            self._measure(step)
        if self.best is None:
            raise EngineError(
                f"the log loss on the validation rows is no number after {step} steps: training "
                "diverged",
                f"lower train.learning_rate, now {self._trainer.args.learning_rate:g}",
            )
        if self.best.step != step:
            weights = _read(self._what.file)["weights"]
            with torch.no_grad():
                for name, parameter in self._learnt().items():
                    parameter.copy_(weights[name])
        return self.best

    def _measure(self, step: int) -> None:
        """Measure and log; store the weights if they are the best so far."""
        found = self._last = self._decided(step)
        self._trainer.log({"validation_loss": found.loss, "validation_leftover": found.leftover})
        if math.isnan(found.loss) or (self.best and found.loss >= self.best.loss):
            return
        self.best = found
        learnt = {name: parameter.cpu() for name, parameter in self._learnt().items()}
        # Written aside and renamed: a killed training finds a whole file or the older one.
        part = self._what.file.with_suffix(".part")
        torch.save({"measured": (found.step, found.loss, found.leftover), "weights": learnt}, part)
        part.replace(self._what.file)

    def _learnt(self) -> dict[str, torch.Tensor]:
        """Trainable weights by name; of sharded ones, this process's part."""
        learnt = {
            n: p.detach()
            for n, p in self._trainer.model_wrapped.named_parameters()
            if p.requires_grad
        }
        return {n: p.to_local() if isinstance(p, DTensor) else p for n, p in learnt.items()}

    @torch.no_grad()
    def _decided(self, step: int) -> ValidationLoss:
        trainer, model = self._trainer, self._trainer.model_wrapped
        control_C = torch.tensor(self._what.control_ids)
        model.eval()
        sums = torch.zeros(2)
        for batch in self._batches:
            inputs = trainer._prepare_inputs(
                self._what.collate([self._what.rows[n] for n in batch])
            )
            logits_BV, targets_BT, _ = trainer.at_targets(model, inputs)
            logp_BV = functional.log_softmax(logits_BV, dim=1).cpu()
            targets_B = targets_BT[targets_BT != IGNORE].cpu()
            # A row has one target, its control token: the M labelled positions are the B rows.
            loss_B = -logp_BV.gather(1, targets_B[:, None])[:, 0]
            leftover_B = 1 - logp_BV[:, control_C].exp().sum(dim=1)
            sums += torch.stack([loss_B.sum(), leftover_B.sum()])
        model.train()
        # Processes differ by rounding. With the mean over them, all stop at the same step.
        means = trainer.accelerator.reduce(sums.to(trainer.accelerator.device), "mean") / len(
            self._what.lengths
        )
        return ValidationLoss(step=step, loss=float(means[0]), leftover=float(means[1]))


def _read(file: Path) -> dict[str, Any]:
    """Read the file of the best weights: their loss, and the weights by name."""
    kept = torch.load(file, weights_only=True)
    step, loss, leftover = kept["measured"]
    return {
        "measured": ValidationLoss(step=step, loss=loss, leftover=leftover),
        "weights": kept["weights"],
    }
