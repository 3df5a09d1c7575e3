"""A base model made ready to learn: control tokens in place, rows encoded, frozen layers read and
cut away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerFast, set_seed

from demur.core.example import Example, Message
from demur.core.ports import Origin, Progress
from demur.core.taxonomy import Taxonomy
from demur.core.training.settings import TrainSettings
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf import token_rows
from demur.engines.hf.load import load_base
from demur.engines.thought_position import require_same_position, with_thought
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from demur.engines.training import frozen_layers, language
from demur.engines.training.base_model.find import Base, origin_of
from demur.engines.training.base_model.tiny import TinyConfig, make_tiny
from demur.engines.training.batches import NoisyRows, PadRight, TrainingRow
from demur.engines.training.hidden_states import CombinedProgress, States
from demur.engines.training.packing import check_packing
from demur.engines.training.probe_start import probe_rows
from demur.engines.training.resources.machine import shards_weights, uses_bfloat16
from demur.engines.training.resources.memory import require_room
from demur.engines.training.rows import training_rows, validation_rows

BACKWARD = 2.0  # a backward pass costs about two forward passes


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One training, as one of its processes does it."""

    settings: TrainSettings
    taxonomy: Taxonomy
    learnt_from: Sequence[Example]
    aside: Sequence[Example]  # to validate on
    base: Base | None  # None: the tiny one, made in `work`
    work: Path  # checkpoints, and what else a killed training goes on with
    state: PartialState
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A base model with its control tokens in place, and the rows it will learn from."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    encoder: ChatEncoder
    rows: list[TrainingRow]
    aside: list[TrainingRow]  # to validate on: each ends at its control token
    before: torch.Tensor  # the control tokens' rows as initialised
    table_names: list[str]  # of the matrices they are rows of
    reused: int  # control tokens that took over a reserved row of the vocabulary
    scale: CombinedProgress  # of progress
    origin: Origin | None = None  # of the base; None: made here, or this process is not the first
    # None: no held-out replies, or this process is not the first
    language: language.Language | None = None
    cut: frozen_layers.CutModel | None = (
        None  # with frozen layers: the model is then what lies above them
    )
    states: States | None = None  # with frozen layers: what the rows are read as
    aside_states: States | None = None

    def validation_rows(self) -> torch.utils.data.Dataset[Any]:
        """The rows to validate on, as the model reads them."""
        if self.aside_states is not None:
            return frozen_layers.StateRows(self.aside_states, self.aside)
        return NoisyRows(self.aside, share=0.0, seed=0, ordinary_ids=())

    def collate(self, rows: Any) -> dict[str, torch.Tensor]:
        """A batch of rows, padded."""
        padded = PadRight(pad_id=self.tokenizer.pad_token_id or 0)
        return frozen_layers.pad_states(rows) if self.cut is not None else padded(rows)


def prepare(task: Task) -> Prepared:
    """The model, its tokenizer and its rows. Raises EngineError where the base or the rows will not
    do.
    """
    s, state = task.settings, task.state
    with state.main_process_first():
        base = task.base or _tiny(task)
        plain = load_tokenizer(base.name, s.chat_template)
        plain.chat_template = with_thought(str(plain.chat_template), s.thought)
        tokenizer, reused = add_control_tokens(
            plain, task.taxonomy, task.work / f"tokenizer-{state.process_index}"
        )
    encoder = ChatEncoder(tokenizer, task.taxonomy.tokens, keep_history=s.keep_history)
    require_same_position(tokenizer, encoder)
    rows = training_rows(task.learnt_from, task.taxonomy, encoder, s)
    aside = validation_rows(task.aside, task.taxonomy, encoder, s)
    require_room(base.name, [*rows, *aside], s, task.work)  # before anything is loaded
    set_seed(s.seed)
    model = load_base(base.name, s.dtype)
    if s.frozen_share:
        frozen_layers.untie(model)  # the frozen layers keep reading the embedding that they know
    token_rows.add_token_rows(model, tokenizer, task.taxonomy, encoder.token_ids)
    header = encoder.prompt([Message(role="user", content="Hello")])[-1]
    token_rows.start_respond_row(model, encoder.token_ids[0], header)
    prepared = Prepared(
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        rows=rows,
        aside=aside,
        before=token_rows.control_rows(model, encoder.token_ids),
        table_names=token_rows.table_names(model),
        reused=len(reused),
        scale=_scale(task, rows),
        # its files are here by now
        origin=origin_of(task.base) if task.base and state.is_main_process else None,
    )
    return _teachable(task, replace(prepared, language=_language(task, prepared)))


def _tiny(task: Task) -> Base:
    """The base model from nothing, with a tokenizer learnt on the rows."""
    s, folder = task.settings, task.work / "base"
    if task.state.is_main_process and not (folder / "tokenizer.json").exists():
        sizes = TinyConfig(
            width=s.tiny_width,
            layers=s.tiny_layers,
            heads=s.tiny_heads,
            vocabulary=s.tiny_vocabulary,
        )
        make_tiny(task.learnt_from, sizes, folder, seed=s.seed)
    return Base(name=str(folder))


def _scale(task: Task, rows: Sequence[TrainingRow]) -> CombinedProgress:
    """How long reading the frozen layers takes beside the steps."""
    s = task.settings
    if not s.frozen_share or s.batch_tokens is None:
        return CombinedProgress(progress=task.progress, reading=0, steps=0)
    epoch = math.ceil(sum(len(r.input_ids) for r in rows) / s.batch_tokens)
    reading = round(epoch * s.frozen_share / ((1 - s.frozen_share) * (1 + BACKWARD)))
    return CombinedProgress(
        progress=task.progress, reading=reading, steps=math.ceil(epoch * s.epochs)
    )


def _language(task: Task, prepared: Prepared) -> language.Language | None:
    """How the base reads held-out replies. None on all processes but the first, and where no
    process has all weights.

    A model from nothing has no language that could be lost.
    """
    if task.base is None or not task.state.is_main_process or shards_weights():
        return None
    rows = language.held_out_replies(task.aside, prepared.encoder, task.settings)
    if not rows:
        return None
    prepared.model.to(task.state.device)
    return language.measured_base(
        prepared.model, rows, prepared.encoder.token_ids, autocast=uses_bfloat16(task.settings)
    )


def _teachable(task: Task, prepared: Prepared) -> Prepared:
    """With adapters, or cut above its frozen layers, as the settings say."""
    s = task.settings
    if s.packing:
        check_packing(prepared.model)
    if s.lora_rank:
        ids = prepared.encoder.token_ids
        adapted = token_rows.with_lora(
            prepared.model, ids, rank=s.lora_rank, alpha=s.lora_alpha, dropout=s.lora_dropout
        )
        return replace(prepared, model=adapted)
    return _cut(task, prepared) if s.frozen_share else prepared


def _cut(task: Task, prepared: Prepared) -> Prepared:
    """The model above its frozen layers, and the rows as these layers leave them. Only the head's
    rows learn.
    """
    model, learnt = prepared.model, len(prepared.rows)
    if not shards_weights():
        model.to(task.state.device)
    frozen = frozen_layers.layers_below(model, task.settings.frozen_share)
    with task.state.main_process_first():
        every = [*prepared.rows, *prepared.aside]
        states = frozen_layers.frozen_states(model, every, frozen, task.work, prepared.scale.read)
    cut = frozen_layers.cut(model, frozen, prepared.encoder.token_ids, prepared.rows[0])
    if task.settings.control_start == "probe":
        ids, seed = prepared.encoder.token_ids, task.settings.seed
        cut.model.get_output_embeddings().start_at(
            probe_rows(cut.model, states[:learnt], prepared.rows, ids, seed=seed)
        )
    return replace(
        prepared,
        cut=cut,
        states=states[:learnt],
        aside_states=states[learnt:],
        before=prepared.before[-1:],
        table_names=prepared.table_names[-1:],
    )
