"""Training with TRL: from a base model to a plain checkpoint with trained control tokens."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback
from trl.trainer.sft_config import SFTConfig

from demur.base.errors import EngineError
from demur.core.example import Example
from demur.core.ports import HARVEST, Judge, Progress, TrainedModel, no_progress
from demur.core.taxonomy import Taxonomy
from demur.core.training.learning_rows import learning_rows
from demur.core.training.settings import TrainSettings, learnt
from demur.engines.fingerprint import checkpoint_digest, fingerprint
from demur.engines.hf import token_rows
from demur.engines.hf.load import DTYPES, no_progress_bars
from demur.engines.training import frozen_layers
from demur.engines.training.base_model.find import Base, find_base
from demur.engines.training.batches import NoisyRows, OwnBatches, TokenBudgetBatches, as_read
from demur.engines.training.harvest import write_harvest
from demur.engines.training.language import reply_loss
from demur.engines.training.optim import MuonWithAdamW
from demur.engines.training.prepared import Prepared, Task, prepare
from demur.engines.training.resources.disk import disk_errors_named
from demur.engines.training.resources.machine import (
    attention,
    check_processes,
    release_memory,
    saved_dtype,
    uses_bfloat16,
)
from demur.engines.training.trainer import ControlTokenTrainer, LossWeights, StepProgress
from demur.engines.training.validation import Validation, ValidationLoss, ValidationSetup


@dataclass(frozen=True, slots=True)
class SftTrainer:
    """Trains with TRL's SFTTrainer, in one process or many. Implements demur.core.ports.Trainer.

    All weights, LoRA or frozen lower layers; several processes under torchrun or accelerate.
    """

    settings: TrainSettings
    judge: Judge | None = None  # of answers that are harvested to turn back from

    def train(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        folder: Path,
        progress: Progress = no_progress,
    ) -> TrainedModel | None:
        """Train into `folder`/model, resuming from `folder`/checkpoints.

        Returns None on every process but the first. Validation rows are drawn from `examples`.
        Raises EngineError when a category has no training row, when another number of processes
        takes part than the settings say, or when a control token did not train, ArtifactError when
        the disk is full. Memory is released in any case.
        """
        state = check_processes(self.settings.processes)
        try:
            with disk_errors_named(folder), no_progress_bars():
                task = self._task(examples, taxonomy, folder, state, progress)
                return self._trained(task, folder)
        finally:
            release_memory()

    def _trained(self, task: Task, folder: Path) -> TrainedModel | None:
        """Prepare, train, and write the model."""
        prepared = prepare(task)
        trainer = self._trainer(prepared, task)
        best = None
        with attention():
            validation = self._validation(
                trainer, prepared, task.work / f"best-{task.state.process_index}.pt"
            )
            # The newest whole checkpoint: Trainer writes trainer_state.json last of all.
            found = [p.parent for p in task.work.glob("checkpoint-*/trainer_state.json")]
            found.sort(key=lambda p: int(p.name.rpartition("-")[2]))
            trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
            if validation is not None:
                best = validation.finish()
            # A collective operation: all processes take part, even if only the first writes.
            weights = trainer.accelerator.get_state_dict(trainer.model)
            trained = None
            if task.state.is_main_process:
                trained = self._finish(trainer, prepared, weights, folder, best)
                if (turn_back := self.settings.turn_back) is not None and prepared.harvested:
                    kept = turn_back.keep_text
                    write_harvest(folder / HARVEST, prepared.harvested, keep_text=kept)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        task.state.wait_for_everyone()
        return trained

    def _task(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        folder: Path,
        state: PartialState,
        progress: Progress,
    ) -> Task:
        """Split the examples, check their categories and find the base model."""
        s = self.settings
        learnt_from, aside = learning_rows(examples, s)
        _check_categories(learnt_from, taxonomy)
        with state.main_process_first():  # a GGUF file is unpacked once
            base = find_base(s.base, template=s.chat_template) if s.base != "tiny" else None
        return Task(
            settings=s,
            taxonomy=taxonomy,
            learnt_from=learnt_from,
            aside=aside,
            base=base,
            work=folder / "checkpoints" / _work_name(s, examples, taxonomy, base),
            state=state,
            progress=progress,
            judge=self.judge,
        )

    def _trainer(self, prepared: Prepared, task: Task) -> ControlTokenTrainer:
        """The trainer of the prepared model, with demur's loss, batches and progress."""
        s = self.settings
        rows = [as_read(r) for r in prepared.rows]
        if s.packing:  # TRL's collator for packed rows takes no weights of rows
            ours = ("weights", "midway")
            rows = [{k: v for k, v in row.items() if k not in ours} for row in rows]
        optimizer = None
        if s.optimizer == "muon":
            optimizer = MuonWithAdamW(
                prepared.model,
                lr_matrices=s.matrix_learning_rate,
                lr_rest=s.learning_rate,
                weight_decay=s.weight_decay,
            )
        weights = LossWeights(
            control_ids=prepared.encoder.token_ids,
            control=s.control_weight,
            refusal=s.control_weight * s.refusal_weight,
            answer=s.answer_weight,
            smoothing=s.control_smoothing,
            opening=s.opening_weight,
            opening_tokens=s.opening_tokens,
        )
        trainer = ControlTokenTrainer(
            model=prepared.model,
            args=_arguments(s, task.work),
            train_dataset=Dataset.from_list(rows),
            data_collator=None if s.packing else prepared.collate,
            processing_class=prepared.tokenizer,
            optimizers=(optimizer, None),
            callbacks=[StepProgress(prepared.scale.step)],
            weights=weights,
            own=self._own_batches(prepared, task.state, weights),
        )
        # The library prints nothing; the log history has every figure.
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _validation(
        self, trainer: ControlTokenTrainer, prepared: Prepared, file: Path
    ) -> Validation | None:
        """Add validation to the trainer; None without validation rows. file: for best weights."""
        if not prepared.aside:
            return None
        what = ValidationSetup(
            rows=prepared.validation_rows(),
            collate=prepared.collate,
            lengths=[len(r.input_ids) for r in prepared.aside],
            control_ids=prepared.encoder.token_ids,
            every=self.settings.evaluate_every,
            patience=self.settings.patience,
            file=file,
        )
        validation = Validation(trainer, what)
        trainer.add_callback(validation)
        return validation

    def _own_batches(
        self, prepared: Prepared, state: PartialState, weights: LossWeights
    ) -> OwnBatches | None:
        """Dataset and batches by a budget of tokens; None if the settings fix rows per device."""
        s = self.settings
        if s.batch_tokens is None:
            return None
        # Ids that noise may replace and insert: all but special tokens.
        special = set(prepared.tokenizer.all_special_ids)
        ordinary = [i for i in range(len(prepared.tokenizer)) if i not in special]
        rows: torch.utils.data.Dataset[Any] = NoisyRows(
            prepared.rows, share=s.prompt_noise, seed=s.seed, ordinary_ids=ordinary
        )
        if prepared.states is not None:  # hidden states take no noise: their ids are read already
            rows = frozen_layers.StateRows(prepared.states, prepared.rows)
        batches = TokenBudgetBatches(
            prepared.rows,
            budget=s.batch_tokens,
            seed=s.seed,
            rank=state.process_index,
            world=state.num_processes,
        )
        return OwnBatches(rows, batches, weights.total(prepared.rows) / len(batches))

    def _finish(
        self,
        trainer: ControlTokenTrainer,
        prepared: Prepared,
        weights: dict[str, Any],
        folder: Path,
        best: ValidationLoss | None,
    ) -> TrainedModel:
        """Write the trained model to `folder`/model and describe it.

        Raises EngineError if a control token's row did not move.
        """
        # False: without the wrapper of mixed precision
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        partial, final = folder / "model.partial", folder / "model"
        shutil.rmtree(partial, ignore_errors=True)
        if self.settings.lora_rank:
            # Saves the merged model too, in the dtype it was trained in.
            model = token_rows.merge_lora(model, partial, prepared.rows[0].input_ids)
            weights = model.state_dict()
        elif prepared.cut is not None:
            model = frozen_layers.join(prepared.cut)
            weights = model.state_dict()
        dtype = saved_dtype(self.settings)
        if not self.settings.lora_rank:
            # The model is cast too, since its config names its dtype. Tied weights, which share
            # memory, are cast once, so that they stay one tensor.
            cast: dict[int, torch.Tensor] = {}
            saved = {
                n: cast.setdefault(t.data_ptr(), t.to(DTYPES[dtype])) for n, t in weights.items()
            }
            model.to(DTYPES[dtype]).save_pretrained(partial, state_dict=saved)
        prepared.tokenizer.save_pretrained(partial)
        # Checked before the rename: a model with an untrained control token is never in place.
        tables = [weights[name] for name in prepared.table_names]
        change = token_rows.row_change(tables, prepared.encoder.token_ids, prepared.before)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)  # a rename is atomic: the folder holds a whole model or none
        return TrainedModel(
            fingerprint=fingerprint(final, prepared.tokenizer, prepared.encoder, dtype),
            steps=trainer.state.global_step,
            history=tuple(
                {k: float(v) for k, v in row.items()}
                for row in trainer.state.log_history
                if "loss" in row or "validation_loss" in row
            ),
            row_change=change,
            details={
                **self._details(trainer, prepared, model),
                **_spoken(model, prepared, self.settings),
                **_validated(prepared, best),
                **_turning_back(prepared),
                **_twins(prepared),
            },
            origin=prepared.origin,
        )

    def _details(
        self, trainer: ControlTokenTrainer, prepared: Prepared, model: Any
    ) -> dict[str, str | int | float | bool]:
        """Figures of the model and its training, for the record beside the model."""
        return {
            "base": self.settings.base,
            "parameters": sum(p.numel() for p in model.parameters()),
            "rows": sum(not r.twin for r in prepared.rows),
            "rows_with_reply": sum(r.has_reply and not r.twin for r in prepared.rows),
            "tokens_per_epoch": sum(len(r.input_ids) for r in prepared.rows),
            "processes": trainer.accelerator.num_processes,
            "optimizer": self.settings.optimizer,
            "lora_rank": self.settings.lora_rank,
            "reserved_rows_reused": prepared.reused,
            "keep_history": self.settings.keep_history,
        }


def _spoken(model: Any, prepared: Prepared, settings: TrainSettings) -> dict[str, int | float]:
    """Language change, for the details of a trained model; {} if it was not measured."""
    held = prepared.language
    if held is None:
        return {}
    loss = reply_loss(model, held.rows, held.control_ids, uses_bfloat16(settings))
    return {
        "language_change": loss - held.base_loss,
        "language_loss": loss,
        "language_rows": len(held.rows),
        "language_tokens": held.tokens,
    }


def _validated(
    prepared: Prepared, best: ValidationLoss | None
) -> dict[str, str | int | float | bool]:
    """Figures of validation, for the details of a trained model; {} without validation."""
    if best is None:
        return {}
    return {
        "validation_rows": len(prepared.aside),
        "best_step": best.step,
        "validation_loss": best.loss,
        "validation_leftover": best.leftover,
    }


def _turning_back(prepared: Prepared) -> dict[str, str | int | float | bool]:
    """Numbers of rows that turn back in mid-answer, for the details; {} where there are none."""
    kinds = Counter(row.midway for row in prepared.rows if row.midway is not None)
    if not kinds:
        return {}
    details = {f"{kind}_rows": kinds[kind] for kind in ("turn_back", "transition")}
    if prepared.harvested:
        used = sum(one.verdict == "compliance" for one in prepared.harvested)
        details |= {"harvested": used, "harvest_left_out": len(prepared.harvested) - used}
    return dict(details)


def _twins(prepared: Prepared) -> dict[str, int]:
    """The number of twin rows, for the details; {} where there are none."""
    count = sum(row.twin for row in prepared.rows)
    return {"twin_rows": count} if count else {}


def _arguments(s: TrainSettings, work: Path) -> SFTConfig:
    """TRL's configuration of these settings. work: folder of checkpoints."""
    on_cpu = not torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(work),
        # With a budget of tokens the batches are demur's own, of any number of rows.
        per_device_train_batch_size=s.rows_per_device,
        gradient_accumulation_steps=1 if s.batch_tokens else s.accumulate,
        num_train_epochs=s.epochs,
        learning_rate=s.learning_rate,
        lr_scheduler_type=s.schedule,
        warmup_steps=s.warmup,
        weight_decay=s.weight_decay,
        max_length=s.max_length,
        packing=s.packing,
        gradient_checkpointing=s.gradient_checkpointing,
        bf16=uses_bfloat16(s),
        use_cpu=on_cpu,
        seed=s.seed,
        data_seed=s.seed,
        logging_steps=10,
        save_strategy="steps",
        save_steps=s.save_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        # Rows come tokenized, with columns of demur's own.
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": not s.packing},
        log_level="error",
    )


def _check_categories(examples: Sequence[Example], taxonomy: Taxonomy) -> None:
    """Raise EngineError unless every choice has a training row."""
    present = {taxonomy.column(e.label) for e in examples}
    missing = [name for column, name in enumerate(taxonomy.choices) if column not in present]
    if missing:
        raise EngineError(
            f"no training row for {', '.join(missing)}: its control token would never be trained",
            "add rows, or take the category out of the taxonomy",
        )


def _work_name(
    settings: TrainSettings, examples: Sequence[Example], taxonomy: Taxonomy, base: Base | None
) -> str:
    """Folder name of a training: a digest of everything that changes it.

    A resumed training therefore never mixes two. Of a base in a folder the digest takes weights and
    settings files, not the name.
    """
    here = base is not None and Path(base.name).is_dir()
    began = checkpoint_digest(Path(base.name)) if base and here else settings.base
    what = [
        learnt(settings),
        taxonomy.tokens,
        began,
        # a prefix only where there is one, so that trainings of before go on
        [(e.id, e.text, e.reply, e.label, *([e.prefix] if e.prefix else [])) for e in examples],
    ]
    return hashlib.sha256(json.dumps(what, ensure_ascii=False).encode()).hexdigest()[:16]
