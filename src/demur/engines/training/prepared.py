"""Preparation of a training: a base model with control tokens, encoded rows, frozen layers cut off.

1. Tokenizer and chat template; control tokens are added, their position is proved.
2. Rows and their twins are encoded, and memory and disk are estimated before anything is loaded.
3. The model is loaded; the control tokens' rows are added and initialised.
4. Prefixes to turn back from are harvested where the settings say so; their rows are added.
5. The base's loss on held-out replies is measured.
6. Adapters are added (LoRA), or the lower layers are computed for all rows and cut off.
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

from demur.base.errors import EngineError
from demur.core.example import Example, Message
from demur.core.ports import Judge, Origin, Progress
from demur.core.taxonomy import Taxonomy
from demur.core.training.settings import TrainSettings
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf import token_rows
from demur.engines.hf.load import load_base
from demur.engines.thought_position import require_same_position, with_thought
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from demur.engines.training import frozen_layers, harvest, language
from demur.engines.training.base_model.find import Base, origin_of
from demur.engines.training.base_model.tiny import TinyConfig, make_tiny
from demur.engines.training.batches import NoisyRows, PadRight, TrainingRow
from demur.engines.training.hidden_states import CombinedProgress, States
from demur.engines.training.mid_answer_rows import expected_rows, mid_answer_rows
from demur.engines.training.packing import check_packing
from demur.engines.training.probe_start import probe_rows
from demur.engines.training.resources.machine import shards_weights, uses_bfloat16
from demur.engines.training.resources.memory import require_room
from demur.engines.training.rows import training_rows, validation_rows
from demur.engines.training.twins.rows import twin_rows

BACKWARD = 2.0  # a backward pass costs about two forward passes


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One training in one of its processes."""

    settings: TrainSettings
    taxonomy: Taxonomy
    learnt_from: Sequence[Example]
    aside: Sequence[Example]  # validation examples
    base: Base | None  # None: the tiny one, made in `work`
    work: Path  # folder of checkpoints and other files that a killed training needs to go on
    state: PartialState  # of the processes
    progress: Progress
    judge: Judge | None = None  # of harvested answers


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A base model with control tokens, and its training rows."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    encoder: ChatEncoder
    rows: list[TrainingRow]
    aside: list[TrainingRow]  # validation rows: each ends at its control token
    before: torch.Tensor  # the control tokens' rows as initialised, (tables, C, d)
    table_names: list[str]  # names of these tables in the state dict
    reused: int  # control tokens that took over a reserved row of the vocabulary
    scale: CombinedProgress  # of progress
    # of the base; None: it was made here, or this process is not the first
    origin: Origin | None = None
    # None: no held-out replies, or this process is not the first
    language: language.Language | None = None
    cut: frozen_layers.CutModel | None = (
        None  # with frozen layers: `model` is then the part above them
    )
    states: States | None = None  # with frozen layers: hidden states of `rows`
    aside_states: States | None = None  # the same of `aside`
    harvested: tuple[harvest.Harvested, ...] = ()  # answers of the base, to turn back from

    def validation_rows(self) -> torch.utils.data.Dataset[Any]:
        """Dataset of the validation rows: token ids, or hidden states for a cut model."""
        if self.aside_states is not None:
            return frozen_layers.StateRows(self.aside_states, self.aside)
        return NoisyRows(self.aside, share=0.0, seed=0, ordinary_ids=())

    def collate(self, rows: Any) -> dict[str, torch.Tensor]:
        """Collate rows of a dataset, token ids or hidden states, by padding."""
        padded = PadRight(pad_id=self.tokenizer.pad_token_id or 0)
        return frozen_layers.pad_states(rows) if self.cut is not None else padded(rows)


def prepare(task: Task) -> Prepared:
    """Prepare a model, its tokenizer and its rows for training.

    Raises EngineError if the base cannot be trained, no row fits, or memory or disk do not suffice.
    """
    s, state = task.settings, task.state
    # The first process makes files (a tiny base, downloads); the others find them.
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
    rows += twin_rows(task.learnt_from, task.taxonomy, encoder, s)
    aside = validation_rows(task.aside, task.taxonomy, encoder, s)
    expected = expected_rows(task.learnt_from, encoder, s)
    require_room(base.name, [*rows, *expected, *aside], s, task.work)  # before anything is loaded
    set_seed(s.seed)
    model = load_base(base.name, s.dtype)
    if s.frozen_share:
        frozen_layers.untie(model)  # the embedding stays as it is for the frozen layers
    token_rows.add_token_rows(model, tokenizer, task.taxonomy, encoder.token_ids)
    header = encoder.prompt([Message(role="user", content="Hello")])[-1]
    token_rows.start_respond_row(model, encoder.token_ids[0], header)
    harvested = _harvest(
        task, harvest.Writer(model=model, tokenizer=tokenizer, encoder=encoder, settings=s)
    )
    examples = harvest.with_harvested(task.learnt_from, harvested)
    rows += mid_answer_rows(examples, task.taxonomy, encoder, s)
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
        harvested=tuple(harvested),
    )
    return _teachable(task, replace(prepared, language=_language(task, prepared)))


def _tiny(task: Task) -> Base:
    """Make the tiny base model from nothing, with a tokenizer learnt on the rows."""
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


def _harvest(task: Task, writer: harvest.Writer) -> list[harvest.Harvested]:
    """Harvest prefixes; the first process writes the answers, the others read its file.

    Raises EngineError where weights are sharded: no process then has all of them.
    """
    turn_back = task.settings.turn_back
    if turn_back is None or turn_back.prefixes != "harvest":
        return []
    if shards_weights():
        raise EngineError(
            "train.turn_back.prefixes = 'harvest' with weights that are sharded over processes",
            "harvest in one process first, with keep_text = true, and name that file",
        )
    with task.state.main_process_first():
        if task.state.is_main_process:
            writer.model.to(task.state.device)
        return harvest.harvest(writer, task.learnt_from, task.judge, task.work)


def _scale(task: Task, rows: Sequence[TrainingRow]) -> CombinedProgress:
    """Progress over reading the frozen layers and the optimizer steps.

    Reading is one forward pass of the frozen share; a step is a forward and a backward pass of the
    rest.
    """
    s = task.settings
    if not s.frozen_share or s.batch_tokens is None:
        return CombinedProgress(progress=task.progress, reading=0, steps=0)
    epoch = math.ceil(sum(len(r.input_ids) for r in rows) / s.batch_tokens)
    reading = round(epoch * s.frozen_share / ((1 - s.frozen_share) * (1 + BACKWARD)))
    return CombinedProgress(
        progress=task.progress, reading=reading, steps=math.ceil(epoch * s.epochs)
    )


def _language(task: Task, prepared: Prepared) -> language.Language | None:
    """Measure the base's loss on held-out replies; only the first process does.

    None without such replies, for a model from nothing, which has no language to lose, and if
    weights are sharded, since no process then has all of them.
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
    """Add adapters or cut off frozen layers, as the settings say.

    Raises EngineError if packed rows would attend to each other.
    """
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
    """Compute the frozen layers for all rows and cut them off the model."""
    model, learnt = prepared.model, len(prepared.rows)
    if not shards_weights():
        model.to(task.state.device)
    frozen = frozen_layers.layers_below(model, task.settings.frozen_share)
    # The first process computes and stores the states; the others map its file.
    with task.state.main_process_first():
        every = [*prepared.rows, *prepared.aside]
        states = frozen_layers.frozen_states(model, every, frozen, task.work, prepared.scale.read)
    cut = frozen_layers.cut(model, frozen, prepared.encoder.token_ids, prepared.rows[0])
    if task.settings.control_start == "probe":
        ids, seed = prepared.encoder.token_ids, task.settings.seed
        # A probe is fitted to decisions: twins, and rows that turn back in mid-answer, hold none.
        first = [n for n, row in enumerate(prepared.rows) if row.decides]
        of_rows, rows = [states[n] for n in first], [prepared.rows[n] for n in first]
        cut.model.get_output_embeddings().start_at(
            probe_rows(cut.model, of_rows, rows, ids, seed=seed)
        )
    return replace(
        prepared,
        cut=cut,
        states=states[:learnt],
        aside_states=states[learnt:],
        # Of the two tables the embedding is frozen: only the head's rows learn.
        before=prepared.before[-1:],
        table_names=prepared.table_names[-1:],
    )
