"""Estimate of a training's memory and disk from settings, configuration and rows, before it starts.

1. `model_sizes` counts the parameters of a configuration without making them (torch's meta device).
2. `memory_needed` adds up weights, gradients, optimizer state, activations for the backward
   pass, and logits.
3. `disk_needed` adds up stored states, checkpoints and the finished model.
4. `require_room` compares both with what is free, and names a setting to lower.

The bytes that a layer keeps per token were counted on Llama-shaped layers with torch's saved-tensor
hooks (torch 2.13, plain attention, eager): 40 for each of its width, 4 for each head and each token
of the row, and 16 per element of its feed-forward width, or 8 in bfloat16 arithmetic, which also
keeps a copy of the weights. `bench/training_memory.py` compares the sum with measured peaks.

Units: bytes. 1 GB is 10^9 of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from demur.base.errors import EngineError
from demur.core.training.settings import TrainSettings
from demur.engines.training.batches import IGNORE, TrainingRow
from demur.engines.training.frozen_layers import frozen_count
from demur.engines.training.resources.available import free_disk, free_memory
from demur.engines.training.resources.machine import uses_bfloat16

PER_WIDTH, PER_HEAD, PER_INNER, PER_INNER_HALF = 40, 4, 16, 8  # see the module's head
PER_LOGIT = 14  # float32 logits, their softmax and its gradient, and a half-precision copy
PER_BANNED = 5  # of a logit where twins leave control tokens out: a second copy, and its mask
OVERHEAD = 5e7  # trainer, data loader and allocator; libraries are loaded before the estimate
CHECKPOINTS = 3  # two are kept, and a third exists while it is written
SPARE = 0.05  # share of the free memory that must be left over, for errors of the estimate
GB = 1e9
MOSTLY_FROZEN = 0.75  # share of frozen layers that is proposed if memory is short


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    """Sizes of a model, for the estimate."""

    all: int  # parameters
    layers: int
    layer: int  # parameters of one layer
    table: int  # parameters of the embedding
    tied: bool
    width: int
    inner: int  # of the feed-forward part
    heads: int
    vocabulary: int
    # sum of inputs and outputs of all linear maps within the layers: LoRA's parameters per rank
    adapted: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizes:
    """Sizes of the rows and of their batches."""

    tokens: int  # of all rows, an epoch
    longest: int  # tokens of the longest row
    positions: int  # tokens of the largest batch of one process, padding counted
    supervised: int  # labelled positions of such a batch
    steps: int  # optimizer steps of the whole training


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes of memory by purpose."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    overhead: float = OVERHEAD

    @property
    def total(self) -> float:
        """Sum of all bytes."""
        return sum(float(getattr(self, f.name)) for f in fields(self))

    @property
    def text(self) -> str:
        """The sum and its parts from 10 MB on, largest first, in GB."""
        parts = [(getattr(self, f.name), f.name) for f in fields(self)]
        named = ", ".join(
            f"{name} {size / GB:.2g}"
            for size, name in sorted(parts, reverse=True)
            if size >= GB / 100
        )
        return f"{self.total / GB:.2g} GB ({named})"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTraining:
    """A training to estimate."""

    sizes: ModelSizes
    settings: TrainSettings
    batches: BatchSizes
    half: bool  # whether its arithmetic is bfloat16


def model_sizes(config: Any) -> ModelSizes:
    """Sizes of a model by its configuration.

    Raises EngineError if its layers are not where most models have them.
    """
    of_models: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = of_models.from_config(config)
    text = config.get_text_config(decoder=True)
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise EngineError(
            f"{type(model).__name__} keeps its layers elsewhere", "its memory cannot be reckoned"
        )
    linear = [m for m in layers.modules() if isinstance(m, nn.Linear)]
    return ModelSizes(
        all=sum(p.numel() for p in model.parameters()),
        layers=len(layers),
        layer=sum(p.numel() for p in layers.parameters()) // len(layers),
        table=model.get_input_embeddings().weight.numel(),
        tied=bool(text.tie_word_embeddings),
        width=int(text.hidden_size),
        inner=int(getattr(text, "intermediate_size", 4 * text.hidden_size)),
        heads=int(text.num_attention_heads),
        vocabulary=int(text.vocab_size),
        adapted=sum(m.in_features + m.out_features for m in linear),
    )


def batch_sizes(
    rows: Sequence[TrainingRow], settings: TrainSettings, processes: int = 1
) -> BatchSizes:
    """Sizes of the batches that the trainer will make: by a budget of tokens, or of a few rows."""
    marked = sorted((len(r.input_ids), sum(label != IGNORE for label in r.labels)) for r in rows)
    lengths, supervised = [m[0] for m in marked], [m[1] for m in marked]
    tokens, longest = sum(lengths), lengths[-1]
    if settings.batch_tokens is not None:
        positions = max(settings.batch_tokens, longest)
        # rows of each length in a batch: the budget is for rows x longest row
        per_batch = [max(1, settings.batch_tokens // length) for length in lengths]
        # Most labelled positions of a batch: of each row, with the rows before it that fit with it.
        sums = [0, *accumulate(supervised)]
        most = max(sums[n + 1] - sums[max(0, n + 1 - count)] for n, count in enumerate(per_batch))
        steps = -(-tokens // settings.batch_tokens)
        positions, most = -(-positions // processes), -(-most // processes)
    else:
        in_batch = min(settings.rows_per_device, len(rows))
        positions, most = in_batch * longest, in_batch * max(supervised)
        steps = -(-len(rows) // (settings.rows_per_device * settings.accumulate * processes))
    return BatchSizes(
        tokens=tokens,
        longest=longest,
        positions=positions,
        supervised=most,
        steps=round(steps * settings.epochs),
    )


def learnt_parameters(sizes: ModelSizes, settings: TrainSettings) -> int:
    """Number of parameters that learn."""
    if settings.lora_rank:
        return settings.lora_rank * sizes.adapted
    if settings.frozen_share:
        return (sizes.layers - frozen_layer_count(sizes, settings)) * sizes.layer + sizes.width
    return sizes.all


def frozen_layer_count(sizes: ModelSizes, settings: TrainSettings) -> int:
    """Number of frozen layers."""
    return frozen_count(sizes.layers, settings.frozen_share)


def memory_needed(case: PlannedTraining) -> MemoryNeed:
    """Bytes of memory of one process at its peak, when a forward pass ends."""
    sizes, settings, batches, half = case.sizes, case.settings, case.batches, case.half
    octets = 2 if settings.dtype == "bfloat16" else 4
    own_head = sizes.tied and bool(settings.frozen_share)  # a frozen trunk gets a head of its own
    learnt = learnt_parameters(sizes, settings)
    # momentum of Muon; first and second moments of AdamW
    states = 1 if settings.optimizer == "muon" else 2
    upper = sizes.layers - frozen_layer_count(sizes, settings)
    inner = PER_INNER_HALF if half else PER_INNER
    # bytes that one layer keeps for one token until its backward pass
    token = PER_WIDTH * sizes.width + inner * sizes.inner + PER_HEAD * sizes.heads * batches.longest
    copies = 2 * sizes.layer if half and settings.dtype != "bfloat16" else 0
    kept = (token * batches.positions + copies) * upper
    # With checkpointing each layer keeps its input alone, and one at a time all the rest.
    if settings.gradient_checkpointing:
        kept = (4 * sizes.width * upper + token) * batches.positions + copies
    logit = PER_LOGIT + (PER_BANNED if settings.twins is not None else 0)
    head = (octets if own_head else 0) + (2 if half and octets == 4 else 0)
    return MemoryNeed(
        weights=octets * sizes.all + head * sizes.table,
        gradients=octets * learnt,
        optimizer=states * octets * learnt,
        activations=kept,
        logits=logit * batches.supervised * sizes.vocabulary,
    )


def disk_needed(case: PlannedTraining) -> dict[str, float]:
    """Bytes of disk by purpose: stored states, checkpoints, the finished model."""
    sizes, settings, batches = case.sizes, case.settings, case.batches
    octets = 2 if settings.dtype == "bfloat16" else 4
    weights = octets * (sizes.all + (sizes.table if sizes.tied and settings.frozen_share else 0))
    # hidden states in bfloat16
    states = 2.0 * batches.tokens * sizes.width if settings.frozen_share else 0.0
    # A checkpoint has all weights and two optimizer states; validation stores its best weights.
    written = min(CHECKPOINTS, -(-batches.steps // settings.save_every))
    best = learnt_parameters(sizes, settings) if settings.validation_share else 0
    return {
        "kept states": states,
        "checkpoints": octets * best
        + written * (weights + 2.0 * octets * learnt_parameters(sizes, settings)),
        "model": float(weights),
    }


def require_room(
    base: str, rows: Sequence[TrainingRow], settings: TrainSettings, folder: Path
) -> None:
    """Raise EngineError, with the estimate and a remedy, if memory or disk do not suffice.

    folder: where the training writes. Loads no weights. Passes if the system does not tell how much
    memory is free.
    """
    config = AutoConfig.from_pretrained(
        base, local_files_only=Path(base).is_dir(), trust_remote_code=False
    )
    case = PlannedTraining(
        sizes=model_sizes(config),
        settings=settings,
        batches=batch_sizes(rows, settings, int(os.environ.get("WORLD_SIZE", "1"))),
        half=uses_bfloat16(settings),
    )
    # Processes on CPUs share one memory; each on a GPU has its own.
    local = 1 if torch.cuda.is_available() else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    need, free = memory_needed(case), free_memory()
    if free is not None and need.total > (room := free * (1 - SPARE) / local):
        each = f" in each of {local} processes" if local > 1 else ""
        raise EngineError(
            f"training needs about {need.text} of memory{each}, and {free / GB:.2g} GB are free",
            f"{cheaper_setting(case, room)}; nothing was loaded yet",
        )
    folder.mkdir(parents=True, exist_ok=True)
    disk, left = disk_needed(case), free_disk(folder)
    if sum(disk.values()) > left:
        parts = ", ".join(
            f"{name} {size / GB:.2g}" for name, size in disk.items() if size >= GB / 100
        )
        raise EngineError(
            f"training needs about {sum(disk.values()) / GB:.2g} GB of disk below {folder} "
            f"({parts}), and {left / GB:.2g} GB are free",
            "free some space or put the run elsewhere; states of frozen layers grow with every "
            "token of every row",
        )


def cheaper_setting(case: PlannedTraining, room: float) -> str:
    """The mildest change of one setting with which the training needs at most `room` bytes."""
    settings, batches = case.settings, case.batches
    tokens = settings.batch_tokens
    # Smaller batches first: they change least of what is learnt.
    while tokens is not None and tokens // 2 >= batches.longest:
        tokens //= 2
        share = tokens / (settings.batch_tokens or 1)
        fewer = replace(batches, positions=tokens, supervised=round(batches.supervised * share))
        if (need := memory_needed(replace(case, batches=fewer))).total <= room:
            return f"train.batch_tokens = {tokens} would need about {need.total / GB:.2g} GB"
    # Then changes in the order of what they cost; each only where other settings allow it.
    changes: list[dict[str, Any]] = [{"gradient_checkpointing": True}]
    if not settings.lora_rank and tokens is not None and not settings.prompt_noise:
        changes.append({"frozen_share": MOSTLY_FROZEN})
    if not settings.frozen_share and settings.optimizer == "adamw" and settings.base != "tiny":
        changes.append({"lora_rank": 16})
    for change in changes:
        ((name, value),) = change.items()
        if (
            need := memory_needed(replace(case, settings=replace(settings, **change)))
        ).total <= room:
            return f"train.{name} = {str(value).lower()} would need about {need.total / GB:.2g} GB"
    return (
        "take a smaller base model, or shorter rows: train.max_length (the longest row has "
        f"{batches.longest} tokens)"
    )
