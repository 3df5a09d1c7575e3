"""Prompts read once, answers written from what was kept: prefill, then greedy decoding on the same
key-value cache.

Not `model.generate`: finished rows leave the batch at once, every row has its own limit, and no
sampling default of a checkpoint can creep in. Shapes: B prompts of a batch, R rows being written, T
cached positions, V vocabulary.
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
    """When an answer ends and what it may not contain."""

    stops: frozenset[int]  # an answer ends before any of these
    banned: tuple[int, ...]  # control ids and padding: never written after the first position
    max_new_tokens: int
    context: int | None  # positions the model has; None where it has no limit


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prefix:
    """A batch of prompts that the model has read. Good for one `decode_greedily`, which uses up the
    cache.
    """

    cache: Any
    mask_BT: torch.Tensor  # 1 where a prompt token lies, 0 on the left padding
    logits_BV: torch.Tensor  # at the first answer position, as the model computes them


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedAnswer:
    """The ids of one answer after its control token."""

    ids: tuple[int, ...]
    finished: bool  # met a stop id before its limit


def single_position(logits_BTV: torch.Tensor) -> torch.Tensor:
    """(B, 1, V) -> (B, V). Raises EngineError if the model computed logits elsewhere than its
    output head says.
    """
    if logits_BTV.shape[1] != 1:
        raise EngineError(
            f"the model returned logits of shape {tuple(logits_BTV.shape)}, expected one position "
            "a row",
            "its output head is not where get_output_embeddings() says; use another architecture",
        )
    return logits_BTV[:, 0]


def prefill(model: Any, prompts: Sequence[Sequence[int]], filler: int) -> Prefix:
    """Read a batch of prompts, keeping the cache. filler: an id for the padding, which the mask
    hides.

    Raises EngineError if the model keeps no cache.
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
    """Continue prompt rows[r] of the batch after the forced token first_ids[r], greedily, all R at
    once.
    """
    index_R = torch.tensor(rows, device=model.device)
    cache, mask_RT = prefix.cache, prefix.mask_BT[index_R]
    cache.reorder_cache(index_R)
    tokens_R = torch.tensor(first_ids, device=model.device)
    banned = torch.tensor(rules.banned, dtype=torch.long, device=model.device)
    limits = [_limit(rules, int(length)) for length in mask_RT.sum(dim=1)]
    written: list[list[int]] = [[] for _ in rows]
    finished = [False] * len(rows)
    alive = [r for r, limit in enumerate(limits) if limit > 0]
    kept = alive  # positions in the current batch that go on
    while alive:
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


def _limit(rules: DecodeRules, prompt_length: int) -> int:
    """How many tokens may follow the control token of a prompt."""
    room = rules.max_new_tokens if rules.context is None else rules.context - prompt_length - 1
    return max(0, min(rules.max_new_tokens, room))


def position_ids(model: Any, mask_RT: torch.Tensor, last: int) -> dict[str, torch.Tensor]:
    """Position ids of the last columns, for models that take them: left padding must not shift
    learnt positions.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask_RT.cumsum(dim=1) - 1).clamp(min=0)[:, -last:]}
