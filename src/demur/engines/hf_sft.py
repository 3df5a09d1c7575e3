"""Training with TRL: base model in, plain Hugging Face checkpoint with trained control tokens out."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast, PrinterCallback, set_seed
from trl.trainer.sft_config import SFTConfig

from demur.core.errors import EngineError
from demur.core.example import Example
from demur.core.ports import Origin, Progress, TrainedModel, no_progress
from demur.core.taxonomy import Taxonomy
from demur.core.training import TrainSettings, learnt
from demur.engines import hf_embed
from demur.engines.fingerprint import fingerprint
from demur.engines.hf_disk import named_disk_errors
from demur.engines.hf_load import load_base, no_progress_bars
from demur.engines.hf_optim import MuonWithAdamW
from demur.engines.hf_packing import check_packing
from demur.engines.hf_rows import TrainingRow, training_rows
from demur.engines.hf_tiny import TinyConfig, make_tiny
from demur.engines.hf_trainer import (
    ControlTokenTrainer,
    LossWeights,
    NoisyRows,
    OwnBatches,
    PadRight,
    StepProgress,
    TokenBudgetBatches,
)
from demur.engines.thought_place import require_one_place, with_thought
from demur.engines.tokens import ChatEncoder, install, load_tokenizer
from demur.engines.training import trunk
from demur.engines.training.bases import Base, find_base, origin_of


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A base model with its control tokens in place, and the rows it will learn from."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    encoder: ChatEncoder
    rows: list[TrainingRow]
    before: torch.Tensor  # the control tokens' rows as initialised
    table_names: list[str]  # of the matrices they are rows of
    reused: int  # control tokens that took over a reserved row of the vocabulary
    origin: Origin | None = None  # of the base; None: made here, or this process is not the first
    cut: trunk.CutModel | None = None  # with frozen layers: the model is then what lies above them
    states: list[torch.Tensor] | None = None  # with frozen layers: what the rows are read as


@dataclass(frozen=True, slots=True)
class SftTrainer:
    """The Trainer port on TRL's SFTTrainer: full or LoRA, one process or many under torchrun or accelerate."""

    settings: TrainSettings

    def train(
        self, examples: Sequence[Example], taxonomy: Taxonomy, folder: Path, progress: Progress = no_progress
    ) -> TrainedModel | None:
        """Train into `folder`/model, resuming from `folder`/checkpoints. None on every process but the first.

        Raises EngineError when a category has no training row, when the processes asked for did not come, or when a
        control token did not train, ArtifactError when the disk is full. Memory is given back.
        """
        state = check_processes(self.settings.processes)
        _check_categories(examples, taxonomy)
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
        prepared = self._prepare(examples, taxonomy, work, state)
        trainer = self._trainer(prepared, work, state, progress)
        with _attention():
            trainer.train(resume_from_checkpoint=_last_whole_checkpoint(work))
        weights = trainer.accelerator.get_state_dict(trainer.model)  # sharded or not, all processes take part
        trained = None
        if state.is_main_process:
            trained = self._finish(trainer, prepared, weights, folder)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        state.wait_for_everyone()
        return trained

    def _prepare(self, examples: Sequence[Example], taxonomy: Taxonomy, work: Path, state: PartialState) -> _Prepared:
        with state.main_process_first():
            found = self._base(examples, work, state)
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
        rows = training_rows(examples, taxonomy, encoder, self.settings)
        prepared = _Prepared(model, tokenizer, encoder, rows, before, names, len(reused), origin)
        return self._cut(prepared, work, state) if self.settings.frozen_share else prepared

    def _cut(self, prepared: _Prepared, work: Path, state: PartialState) -> _Prepared:
        """The model above its frozen layers, and the rows as these layers leave them. Only the head's rows learn."""
        model = prepared.model
        frozen = trunk.layers_below(model, self.settings.frozen_share)
        file = work / f"trunk-{frozen}.bin"
        with state.main_process_first():
            states = trunk.trunk_states(model, prepared.rows, frozen, file)
        cut = trunk.cut(model, frozen, prepared.encoder.token_ids, prepared.rows[0])
        return replace(
            prepared, cut=cut, states=states, before=prepared.before[-1:], table_names=prepared.table_names[-1:]
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
        rows = [{"input_ids": r.input_ids, "labels": r.labels} for r in prepared.rows]
        optimizer = None
        if s.optimizer == "muon":
            optimizer = MuonWithAdamW(
                prepared.model, lr_matrices=s.matrix_learning_rate, lr_rest=s.learning_rate, weight_decay=s.weight_decay
            )
        pad_right = PadRight(pad_id=prepared.tokenizer.pad_token_id or 0)
        collator: Any = trunk.pad_states if prepared.states is not None else None if s.packing else pad_right
        trainer = ControlTokenTrainer(
            model=prepared.model,
            args=_arguments(s, work),
            train_dataset=Dataset.from_list(rows),
            data_collator=collator,
            processing_class=prepared.tokenizer,
            optimizers=(optimizer, None),
            callbacks=[StepProgress(progress)],
            weights=LossWeights(
                control_ids=prepared.encoder.token_ids,
                control=s.control_weight,
                refusal=s.control_weight * s.refusal_weight,
                answer=s.answer_weight,
            ),
            own=self._own_batches(prepared, state),
        )
        trainer.remove_callback(PrinterCallback)  # the library is silent; the log history keeps every figure
        return trainer

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
            history=tuple({k: float(v) for k, v in row.items()} for row in trainer.state.log_history if "loss" in row),
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


def check_processes(asked: int | None) -> PartialState:
    """The distributed state, after making sure that as many processes take part as were asked for.

    asked: from the settings; None means what the launcher announced (WORLD_SIZE). Raises EngineError otherwise: some
    launchers silently start one process, and an unnoticed smaller batch trains another model.
    """
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    state = PartialState(cpu=not torch.cuda.is_available())
    wanted = announced if asked is None else asked
    if state.num_processes != wanted:
        raise EngineError(
            f"{state.num_processes} processes take part in training, {wanted} were asked for",
            f"start them with: torchrun --nproc_per_node {wanted} -m demur train ...",
        )
    return state


def release_memory() -> None:
    """Give back what a finished training held: its objects refer to each other, and the C library keeps pages.

    Weights, gradients and optimizer state would otherwise stay beside the model that scores.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc has no such function
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _attention() -> AbstractContextManager[None]:
    """On a CPU the plain attention kernel: a quarter faster than the fused one on rows of a few dozen tokens."""
    if torch.cuda.is_available():
        return nullcontext()
    kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return kernel


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())  # torch has no public name for it


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
