"""Training with TRL: base model in, plain Hugging Face checkpoint with trained control tokens out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, PrinterCallback, set_seed
from trl.trainer.sft_config import SFTConfig

from demur.core.errors import EngineError
from demur.core.example import Example
from demur.core.ports import Origin, Progress, TrainedModel, no_progress
from demur.core.splitting import set_aside
from demur.core.taxonomy import Taxonomy
from demur.core.training import TrainSettings, learnt
from demur.engines import hf_embed
from demur.engines.fingerprint import fingerprint
from demur.engines.hf_disk import named_disk_errors
from demur.engines.hf_load import load_base, no_progress_bars
from demur.engines.hf_optim import MuonWithAdamW
from demur.engines.hf_packing import check_packing
from demur.engines.hf_rows import TrainingRow, training_rows, validation_rows
from demur.engines.hf_tiny import TinyConfig, make_tiny
from demur.engines.hf_trainer import ControlTokenTrainer, LossWeights, StepProgress
from demur.engines.thought_place import require_one_place, with_thought
from demur.engines.tokens import ChatEncoder, install, load_tokenizer
from demur.engines.training import trunk
from demur.engines.training.bases import Base, find_base, origin_of
from demur.engines.training.batches import NoisyRows, OwnBatches, PadRight, TokenBudgetBatches, as_read
from demur.engines.training.machine import attention, check_processes, has_bfloat16, release_memory
from demur.engines.training.probe_start import probe_rows
from demur.engines.training.validation import Measured, Validated, Validation


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A base model with its control tokens in place, and the rows it will learn from."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    encoder: ChatEncoder
    rows: list[TrainingRow]
    aside: list[TrainingRow]  # to validate on: each ends at its control token
    before: torch.Tensor  # the control tokens' rows as initialised
    table_names: list[str]  # of the matrices they are rows of
    reused: int  # control tokens that took over a reserved row of the vocabulary
    origin: Origin | None = None  # of the base; None: made here, or this process is not the first
    cut: trunk.CutModel | None = None  # with frozen layers: the model is then what lies above them
    states: list[torch.Tensor] | None = None  # with frozen layers: what the rows are read as
    aside_states: list[torch.Tensor] | None = None

    def validation_rows(self) -> torch.utils.data.Dataset[Any]:
        """The rows to validate on, as the model reads them."""
        if self.aside_states is not None:
            return trunk.StateRows(self.aside_states, self.aside)
        return NoisyRows(self.aside, share=0.0, seed=0, ordinary_ids=())

    def collate(self, rows: Any) -> dict[str, torch.Tensor]:
        """A batch of rows, padded."""
        padded = PadRight(pad_id=self.tokenizer.pad_token_id or 0)
        return trunk.pad_states(rows) if self.cut is not None else padded(rows)


@dataclass(frozen=True, slots=True)
class SftTrainer:
    """The Trainer port on TRL's SFTTrainer: full or LoRA, one process or many under torchrun or accelerate."""

    settings: TrainSettings

    def train(
        self, examples: Sequence[Example], taxonomy: Taxonomy, folder: Path, progress: Progress = no_progress
    ) -> TrainedModel | None:
        """Train into `folder`/model, resuming from `folder`/checkpoints. None on every process but the first.

        Raises EngineError when a category has no training row, when the processes asked for did not come, or when a
        control token did not train, ArtifactError when the disk is full. Memory is given back. Validation rows, if
        any are asked for, are among `examples`.
        """
        state = check_processes(self.settings.processes)
        try:
            with named_disk_errors(folder), no_progress_bars():
                return self._trained(examples, taxonomy, folder, (state, progress))
        finally:
            release_memory()

    def _trained(
        self, examples: Sequence[Example], taxonomy: Taxonomy, folder: Path, how: tuple[PartialState, Progress]
    ) -> TrainedModel | None:
        state, progress = how
        work = folder / "checkpoints" / _work_name(self.settings, examples, taxonomy)
        learnt_from, aside = set_aside(examples, self.settings.validation_share, self.settings.seed)
        _check_categories(learnt_from, taxonomy)
        prepared = self._prepare((learnt_from, aside), taxonomy, work, state)
        trainer = self._trainer(prepared, work, state, progress)
        best = None
        with attention():
            validation = self._validation(trainer, prepared, work / f"best-{state.process_index}.pt")
            trainer.train(resume_from_checkpoint=_last_whole_checkpoint(work))
            if validation is not None:
                best = validation.finish()
        weights = trainer.accelerator.get_state_dict(trainer.model)  # sharded or not, all processes take part
        trained = None
        if state.is_main_process:
            trained = self._finish(trainer, prepared, weights, folder)
            trained = replace(trained, details=trained.details | _validated(prepared, best))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        state.wait_for_everyone()
        return trained

    def _prepare(
        self, examples: tuple[Sequence[Example], Sequence[Example]], taxonomy: Taxonomy, work: Path, state: PartialState
    ) -> _Prepared:
        learnt_from, aside = examples
        with state.main_process_first():
            found = self._base(learnt_from, work, state)
            base = found.name
            scratch = work / f"tokenizer-{state.process_index}"
            plain = load_tokenizer(base, self.settings.chat_template)
            plain.chat_template = with_thought(str(plain.chat_template), self.settings.thought)
            tokenizer, reused = install(plain, taxonomy, scratch)
        set_seed(self.settings.seed)
        model = load_base(base, self.settings.dtype)
        known = self.settings.base != "tiny" and state.is_main_process
        origin = origin_of(found) if known else None  # a name's files are here by now
        encoder = ChatEncoder(tokenizer, taxonomy.tokens, keep_history=self.settings.keep_history)
        require_one_place(tokenizer, encoder)
        if self.settings.frozen_share:
            trunk.untie(model)  # the frozen layers keep reading the embedding that they know
        hf_embed.make_rows(model, tokenizer, taxonomy, encoder.token_ids)
        before, names = hf_embed.control_rows(model, encoder.token_ids), hf_embed.table_names(model)
        if self.settings.lora_rank:
            model = hf_embed.lora(
                model,
                encoder.token_ids,
                rank=self.settings.lora_rank,
                alpha=self.settings.lora_alpha,
                dropout=self.settings.lora_dropout,
            )
        if self.settings.packing:
            check_packing(model)
        rows = training_rows(learnt_from, taxonomy, encoder, self.settings)
        asked = validation_rows(aside, taxonomy, encoder, self.settings)
        prepared = _Prepared(model, tokenizer, encoder, rows, asked, before, names, len(reused), origin)
        return self._cut(prepared, work, state) if self.settings.frozen_share else prepared

    def _cut(self, prepared: _Prepared, work: Path, state: PartialState) -> _Prepared:
        """The model above its frozen layers, and the rows as these layers leave them. Only the head's rows learn."""
        model = prepared.model
        frozen = trunk.layers_below(model, self.settings.frozen_share)
        file = work / f"trunk-{frozen}.bin"
        with state.main_process_first():
            states = trunk.trunk_states(model, [*prepared.rows, *prepared.aside], frozen, file)
        cut = trunk.cut(model, frozen, prepared.encoder.token_ids, prepared.rows[0])
        if self.settings.control_start == "probe":
            start_Cd = probe_rows(cut.model, states, prepared.rows, prepared.encoder.token_ids, seed=self.settings.seed)
            cut.model.get_output_embeddings().start_at(start_Cd)
        return replace(
            prepared,
            cut=cut,
            states=states[: len(prepared.rows)],
            aside_states=states[len(prepared.rows) :],
            before=prepared.before[-1:],
            table_names=prepared.table_names[-1:],
        )

    def _base(self, examples: Sequence[Example], work: Path, state: PartialState) -> Base:
        """The base model; makes the tiny one if asked for."""
        if self.settings.base != "tiny":
            return find_base(self.settings.base, template=self.settings.chat_template)
        folder = work / "base"
        if state.is_main_process and not (folder / "tokenizer.json").exists():
            sizes = TinyConfig(
                width=self.settings.tiny_width,
                layers=self.settings.tiny_layers,
                heads=self.settings.tiny_heads,
                vocabulary=self.settings.tiny_vocabulary,
            )
            make_tiny(examples, sizes, folder, seed=self.settings.seed)
        return Base(name=str(folder))

    def _trainer(self, prepared: _Prepared, work: Path, state: PartialState, progress: Progress) -> ControlTokenTrainer:
        s = self.settings
        rows = [as_read(r) for r in prepared.rows]
        if s.packing:  # its own collator knows no weights
            rows = [{k: v for k, v in row.items() if k != "weights"} for row in rows]
        optimizer = None
        if s.optimizer == "muon":
            optimizer = MuonWithAdamW(
                prepared.model, lr_matrices=s.matrix_learning_rate, lr_rest=s.learning_rate, weight_decay=s.weight_decay
            )
        trainer = ControlTokenTrainer(
            model=prepared.model,
            args=_arguments(s, work),
            train_dataset=Dataset.from_list(rows),
            data_collator=None if s.packing else prepared.collate,
            processing_class=prepared.tokenizer,
            optimizers=(optimizer, None),
            callbacks=[StepProgress(progress)],
            weights=LossWeights(
                control_ids=prepared.encoder.token_ids,
                control=s.control_weight,
                refusal=s.control_weight * s.refusal_weight,
                answer=s.answer_weight,
                smoothing=s.control_smoothing,
            ),
            own=self._own_batches(prepared, state),
        )
        trainer.remove_callback(PrinterCallback)  # the library is silent; the log history keeps every figure
        return trainer

    def _validation(self, trainer: ControlTokenTrainer, prepared: _Prepared, file: Path) -> Validation | None:
        if not prepared.aside:
            return None
        what = Validated(
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

    def _own_batches(self, prepared: _Prepared, state: PartialState) -> OwnBatches | None:
        s = self.settings
        if s.batch_tokens is None:
            return None
        special = set(prepared.tokenizer.all_special_ids)
        ordinary = [i for i in range(len(prepared.tokenizer)) if i not in special]
        rows: torch.utils.data.Dataset[Any] = NoisyRows(
            prepared.rows, share=s.prompt_noise, seed=s.seed, ordinary_ids=ordinary
        )
        if prepared.states is not None:
            rows = trunk.StateRows(prepared.states, prepared.rows)
        return OwnBatches(
            rows,
            TokenBudgetBatches(
                prepared.rows, budget=s.batch_tokens, seed=s.seed, rank=state.process_index, world=state.num_processes
            ),
        )

    def _finish(
        self, trainer: ControlTokenTrainer, prepared: _Prepared, weights: dict[str, Any], folder: Path
    ) -> TrainedModel:
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # without autocast
        partial, final = folder / "model.partial", folder / "model"
        shutil.rmtree(partial, ignore_errors=True)
        if self.settings.lora_rank:
            model = hf_embed.merge(model, partial, prepared.rows[0].input_ids)
            weights = model.state_dict()
        elif prepared.cut is not None:
            model = trunk.join(prepared.cut)
            weights = model.state_dict()
            model.save_pretrained(partial)
        else:
            model.save_pretrained(partial, state_dict=weights)
        prepared.tokenizer.save_pretrained(partial)
        tables = [weights[name] for name in prepared.table_names]
        change = hf_embed.row_change(tables, prepared.encoder.token_ids, prepared.before)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)  # whole or not there: the rename is the moment the model exists
        return TrainedModel(
            fingerprint=fingerprint(final, prepared.tokenizer, prepared.encoder, self.settings.dtype),
            steps=trainer.state.global_step,
            history=tuple(
                {k: float(v) for k, v in row.items()}
                for row in trainer.state.log_history
                if "loss" in row or "validation_loss" in row
            ),
            row_change=change,
            details={
                "base": self.settings.base,
                "parameters": sum(p.numel() for p in model.parameters()),
                "rows": len(prepared.rows),
                "tokens_per_epoch": sum(len(r.input_ids) for r in prepared.rows),
                "processes": trainer.accelerator.num_processes,
                "optimizer": self.settings.optimizer,
                "lora_rank": self.settings.lora_rank,
                "reserved_rows_reused": prepared.reused,
                "keep_history": self.settings.keep_history,
            },
            origin=prepared.origin,
        )


def _validated(prepared: _Prepared, best: Measured | None) -> dict[str, str | int | float | bool]:
    """What validation says of a model, for its details."""
    if best is None:
        return {}
    return {
        "validation_rows": len(prepared.aside),
        "best_step": best.step,
        "validation_loss": best.loss,
        "validation_leftover": best.leftover,
    }


def _arguments(s: TrainSettings, work: Path) -> SFTConfig:
    on_cpu = not torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(work),
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
        bf16=s.dtype == "bfloat16" or s.autocast == "bfloat16" or (s.autocast == "auto" and has_bfloat16()),
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
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": not s.packing},
        log_level="error",
    )


def _check_categories(examples: Sequence[Example], taxonomy: Taxonomy) -> None:
    present = {taxonomy.column(e.label) for e in examples}
    missing = [name for column, name in enumerate(taxonomy.choices) if column not in present]
    if missing:
        raise EngineError(
            f"no training row for {', '.join(missing)}: its control token would never be trained",
            "add rows, or take the category out of the taxonomy",
        )


def _work_name(settings: TrainSettings, examples: Sequence[Example], taxonomy: Taxonomy) -> str:
    """A folder name that changes with anything that changes training, so that a resume never mixes two trainings."""
    what = [learnt(settings), taxonomy.tokens, [(e.id, e.text, e.reply, e.label) for e in examples]]
    return hashlib.sha256(json.dumps(what, ensure_ascii=False).encode()).hexdigest()[:16]


def _last_whole_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end: Trainer writes trainer_state.json after everything else."""
    whole = [p for p in work.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    return str(max(whole, key=lambda p: int(p.name.rpartition("-")[2]))) if whole else None
