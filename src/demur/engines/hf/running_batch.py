"""Continuous batching: a batch of answers in which rows join and leave between two steps.

1. Prompts are read exactly as HfEngine.logp reads them, padded on the right and without a mask, so
   the score that is decided on is the score that was calibrated.
2. Rows that join are moved to the right end of a common cache. A mask hides the columns before
   them, and each row has position ids of its own: the layout of demur.engines.hf.decode.
3. A step appends one token to every row. Rows that end are taken out, and so are the columns that
   only they used.

Shapes: B prompts read together, R rows being written, T cached positions, V vocabulary, H heads, D
width of a head. The cache of a layer is (R, H, T, D), for keys and for values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from demur.base.errors import EngineError
from demur.engines.heads import head_on, last_rows
from demur.engines.hf.decode import position_ids, single_position

# Difference of log-probabilities that is always put down to rounding: kernels of float32 differ by
# far more than a step of the format.
LEAST_ROUNDING = 1e-3
# Steps of the number format by which a row may differ alone and in a batch; 0 to 2 were seen on 30
# bfloat16 layers.
ROUNDING_STEPS = 4
# A logit that trained models reach: a log-probability near 0 is the difference of two such numbers.
USUAL_LOGIT = 16.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrefilledPrompts:
    """A batch of prompts that the model has read, each row from column 0 of the cache."""

    cache: Any  # keys and values of all layers
    lengths: tuple[int, ...]  # tokens of each row
    logits_BV: torch.Tensor  # raw logits at the first answer position


def prefill_unmasked(model: Any, prompts: Sequence[Sequence[int]], filler: int) -> PrefilledPrompts:
    """Read prompts in one forward pass, padded on the right, and keep the cache.

    filler: an id for the padding, which no token attends to. Raises EngineError if the model keeps
    no cache of keys and values, or one that rows cannot be taken out of.
    """
    if getattr(model, "_is_stateful", False):
        raise EngineError(
            f"{type(model).__name__} keeps a recurrent state, which cannot be batched anew",
            "serve it with another back end",
        )
    lengths_B = torch.tensor([len(ids) for ids in prompts])
    longest = int(lengths_B.max())
    ids_BT = torch.tensor([[*ids, *[filler] * (longest - len(ids))] for ids in prompts])
    # Without the model's configuration every layer keeps all its positions; masks alone make a
    # sliding window.
    cache = DynamicCache()
    with head_on(model, last_rows(lengths_B)):
        logits_BTV = model(ids_BT.to(model.device), past_key_values=cache, use_cache=True).logits
    if not cache.layers or cache.get_seq_length() != longest:
        raise EngineError(
            f"{type(model).__name__} keeps no key-value cache",
            "use a causal decoder (is_decoder = true in its config)",
        )
    return PrefilledPrompts(
        cache=cache, lengths=tuple(lengths_B.tolist()), logits_BV=single_position(logits_BTV)
    )


def one_of(prompts: PrefilledPrompts, row: int) -> PrefilledPrompts:
    """Copy one row of a batch of prompts, so that the memory of the batch can be freed."""
    length = prompts.lengths[row]
    layers = [
        (one.keys[row : row + 1, :, :length], one.values[row : row + 1, :, :length])
        for one in prompts.cache.layers
    ]
    cache = DynamicCache([(keys.clone(), values.clone()) for keys, values in layers])
    return PrefilledPrompts(
        cache=cache, lengths=(length,), logits_BV=prompts.logits_BV[row : row + 1].clone()
    )


def concatenated(parts: Sequence[PrefilledPrompts]) -> PrefilledPrompts:
    """Concatenate batches of prompts, each row from column 0 of the new cache."""
    if len(parts) == 1:
        return parts[0]
    longest = max(max(part.lengths) for part in parts)
    layers = []
    # `same`: one layer of every batch, padded behind its last column to the longest row.
    for same in zip(*(part.cache.layers for part in parts), strict=True):
        keys = [pad(one.keys, (0, 0, 0, longest - one.keys.shape[2])) for one in same]
        values = [pad(one.values, (0, 0, 0, longest - one.values.shape[2])) for one in same]
        layers.append((torch.cat(keys), torch.cat(values)))
    lengths = tuple(length for part in parts for length in part.lengths)
    logits_BV = torch.cat([part.logits_BV for part in parts])
    return PrefilledPrompts(cache=DynamicCache(layers), lengths=lengths, logits_BV=logits_BV)


class RunningBatch:
    """Rows that are written together, each ending at the last column of the cache."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = DynamicCache()
        self._mask_RT = torch.zeros(0, 0, dtype=torch.long, device=model.device)

    def __len__(self) -> int:
        return len(self._mask_RT)

    @property
    def width(self) -> int:
        """Columns of the cache, which are kept for every row."""
        return self._mask_RT.shape[1]

    def join(self, prompts: PrefilledPrompts, rows: Sequence[int]) -> None:
        """Add these rows of a batch of prompts behind the rows that are there."""
        if not rows:
            return
        lengths_R = torch.tensor([prompts.lengths[row] for row in rows], device=self._model.device)
        width = max(self.width, int(lengths_R.max()))
        # from_RT: the column of the prompts' cache that goes to each column here, so that every row
        # ends at the last one. Negative where nothing goes: masked, whatever is copied there.
        column_T = torch.arange(width, device=self._model.device)
        from_RT = column_T[None, :] - (width - lengths_R)[:, None]
        row_R1 = torch.tensor(rows, device=self._model.device)[:, None]
        wider = width - self.width
        at_RT = from_RT.clamp(min=0)
        new = []
        for layer in prompts.cache.layers:
            # indexing by row and column wants these two axes first: (B, H, T, D) -> (B, T, H, D)
            keys_BTHD, values_BTHD = layer.keys.transpose(1, 2), layer.values.transpose(1, 2)
            moved = keys_BTHD[row_R1, at_RT], values_BTHD[row_R1, at_RT]
            new.append((moved[0].transpose(1, 2), moved[1].transpose(1, 2)))
        if len(self):
            # Rows that are there get the new columns in front, since they end at the last one too.
            old = [
                (pad(one.keys, (0, 0, wider, 0)), pad(one.values, (0, 0, wider, 0)))
                for one in self._cache.layers
            ]
            new = [
                (torch.cat([k, key]), torch.cat([v, value]))
                for (k, v), (key, value) in zip(old, new, strict=True)
            ]
        self._cache = DynamicCache(new)
        self._mask_RT = torch.cat([pad(self._mask_RT, (wider, 0)), (from_RT >= 0).long()])

    def copy_of(self, row: int, logits_V: torch.Tensor) -> PrefilledPrompts:
        """Copy one row, so that it can leave and join again. logits_V: of the token after it."""
        length = int(self._mask_RT[row].sum())
        first = self.width - length
        layers = [
            (one.keys[row : row + 1, :, first:], one.values[row : row + 1, :, first:])
            for one in self._cache.layers
        ]
        cache = DynamicCache([(keys.clone(), values.clone()) for keys, values in layers])
        return PrefilledPrompts(cache=cache, lengths=(length,), logits_BV=logits_V[None].clone())

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the columns that only these used."""
        if not rows:
            self._cache, self._mask_RT = DynamicCache(), self._mask_RT[:0, :0]
            return
        row_R = torch.tensor(rows, device=self._model.device)
        mask_RT = self._mask_RT[row_R]
        first = self.width - int(mask_RT.sum(dim=1).max())
        self._mask_RT = mask_RT[:, first:]
        self._cache = DynamicCache(
            [
                (one.keys[row_R, :, first:], one.values[row_R, :, first:])
                for one in self._cache.layers
            ]
        )

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row; returns the logits of the next one, (R, V) float32."""
        tokens_R = torch.tensor(tokens, device=self._model.device)
        self._mask_RT = pad(self._mask_RT, (0, 1), value=1)
        read = self._model(
            tokens_R[:, None],
            attention_mask=self._mask_RT,
            past_key_values=self._cache,
            use_cache=True,
            **position_ids(self._model, self._mask_RT, 1),
        )
        logits_RV: torch.Tensor = read.logits[:, -1].float()
        return logits_RV


def rounding(dtype: torch.dtype, largest: float) -> float:
    """Bound on the rounding error of a log-probability of a model whose logits reach `largest`.

    One rounding moves a number by half a step of the format; the layers before it add theirs.
    """
    step = torch.finfo(dtype).eps * max(largest, USUAL_LOGIT)
    return max(LEAST_ROUNDING, ROUNDING_STEPS * step)


def batching_gap(model: Any, prompts: Sequence[Sequence[int]], filler: int) -> tuple[float, float]:
    """Largest difference of the next token's log-probabilities between prompts that join a batch
    one by one and each prompt alone; and the largest that rounding explains.
    """
    together, alone = RunningBatch(model), []
    for ids in prompts:
        single = RunningBatch(model)
        single.join(prefill_unmasked(model, [ids], filler), [0])
        alone.append(single.step([ids[0]]))
        together.join(prefill_unmasked(model, [ids], filler), [0])
    joined_RV, alone_RV = together.step([ids[0] for ids in prompts]), torch.cat(alone)
    gap_RV = joined_RV.log_softmax(dim=1) - alone_RV.log_softmax(dim=1)
    return float(gap_RV.abs().max()), rounding(model.dtype, float(alone_RV.abs().max()))
