"""Prefill and greedy decoding on one key-value cache, so that every prompt is read once.

1. `prefill` reads a batch of prompts, padded on the left, and keeps cache and first logits.
2. `decode_greedily` selects rows of the cache (a prompt with several control tokens has several)
   and writes them all at once, each after its forced token.

`model.generate` would not do: here finished rows leave the batch at once, every row has its own
limit, and a checkpoint's sampling defaults have no effect. Shapes: B prompts of a batch, R rows
being written, T cached positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from demur.base.errors import EngineError
from demur.engines.heads import head_on


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRules:
    """Ids that end an answer, ids that it may not contain, and its most tokens."""

    stops: frozenset[int]  # an answer ends before any of these ids
    banned: tuple[int, ...]  # control ids and padding: never written after the first position
    max_new_tokens: int
    context: int | None  # positions the model has; None where it has no limit


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prefix:
    """A prefilled batch of prompts, for one call of `decode_greedily`, which uses up the cache."""

    cache: Any  # keys and values of all layers
    mask_BT: torch.Tensor  # 1 where a prompt token lies, 0 on the left padding
    logits_BV: torch.Tensor  # raw logits at the first answer position


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedAnswer:
    """Token ids of one answer after its control token."""

    ids: tuple[int, ...]
    finished: bool  # ended by a stop id, not by its limit


def single_position(logits_BTV: torch.Tensor) -> torch.Tensor:
    """Squeeze logits (B, 1, V) to (B, V).

    Raises EngineError if the model computed logits of other positions, so that the hook of
    demur.engines.heads had no effect.
    """
    if logits_BTV.shape[1] != 1:
        raise EngineError(
            f"the model returned logits of shape {tuple(logits_BTV.shape)}, expected one position "
            "a row",
            "its output head is not where get_output_embeddings() says; use another architecture",
        )
    return logits_BTV[:, 0]


def prefill(model: Any, prompts: Sequence[Sequence[int]], filler: int) -> Prefix:
    """Read a batch of prompts, padded on the left, and keep the cache.

    filler: an id for the padding, which the mask hides. Raises EngineError if the model keeps no
    cache.
    """
    longest = max(map(len, prompts))
    ids_BT = torch.tensor(
        [[filler] * (longest - len(p)) + list(p) for p in prompts], device=model.device
    )
    mask_BT = torch.tensor(
        [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device
    )
    with head_on(model, lambda hidden_BTd: hidden_BTd[:, -1:]):
        read = model(
            ids_BT, attention_mask=mask_BT, use_cache=True, **position_ids(model, mask_BT, longest)
        )
    if getattr(read, "past_key_values", None) is None:
        raise EngineError(
            f"{type(model).__name__} keeps no key-value cache",
            "use a causal decoder (is_decoder = true in its config)",
        )
    return Prefix(
        cache=read.past_key_values, mask_BT=mask_BT, logits_BV=single_position(read.logits)
    )


def decode_greedily(
    model: Any, prefix: Prefix, rows: Sequence[int], first_ids: Sequence[int], rules: DecodeRules
) -> list[DecodedAnswer]:
    """Continue prompt rows[r] of the batch after the forced token first_ids[r], for all R rows."""
    index_R = torch.tensor(rows, device=model.device)
    cache, mask_RT = prefix.cache, prefix.mask_BT[index_R]
    cache.reorder_cache(index_R)
    tokens_R = torch.tensor(first_ids, device=model.device)
    banned = torch.tensor(rules.banned, dtype=torch.long, device=model.device)
    # Tokens that may follow each row's control token, which takes one position of the context.
    limits = [rules.max_new_tokens] * len(rows)
    if rules.context is not None:
        room = rules.context - 1 - mask_RT.sum(dim=1)
        limits = [max(0, min(rules.max_new_tokens, left)) for left in room.tolist()]
    written: list[list[int]] = [[] for _ in rows]
    finished = [False] * len(rows)
    alive = [r for r, limit in enumerate(limits) if limit > 0]  # rows that are still written
    kept = alive  # positions of these rows in the batch of the last step
    while alive:
        # Drop the rows that ended with the last step.
        if len(kept) < len(tokens_R):
            kept_R = torch.tensor(kept, device=model.device)
            cache.reorder_cache(kept_R)
            mask_RT, tokens_R = mask_RT[kept_R], tokens_R[kept_R]
        mask_RT = torch.cat([mask_RT, mask_RT.new_ones(len(tokens_R), 1)], dim=1)
        positions = position_ids(model, mask_RT, 1)
        read = model(
            tokens_R[:, None],
            attention_mask=mask_RT,
            past_key_values=cache,
            use_cache=True,
            **positions,
        )
        tokens_R = read.logits[:, -1].index_fill(1, banned, -torch.inf).argmax(dim=1)
        kept = []
        for at, (r, token) in enumerate(zip(alive, tokens_R.tolist(), strict=True)):
            finished[r] = token in rules.stops
            if not finished[r]:
                written[r].append(token)
                if len(written[r]) < limits[r]:
                    kept.append(at)
        alive = [alive[at] for at in kept]
    return [
        DecodedAnswer(ids=tuple(ids), finished=done)
        for ids, done in zip(written, finished, strict=True)
    ]


def position_ids(model: Any, mask_RT: torch.Tensor, last: int) -> dict[str, torch.Tensor]:
    """Position ids of the last columns, as keyword arguments; {} for models that take none.

    Counted from the first token of each row, since left padding must not shift learnt positions.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask_RT.cumsum(dim=1) - 1).clamp(min=0)[:, -last:]}
