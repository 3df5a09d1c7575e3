"""Prefill and decoding on one key-value cache, so that every prompt is read once.

1. `prefill` reads a batch of prompts, padded on the left, and keeps cache and first logits.
2. `decode` selects rows of the cache (a prompt with several control tokens has several) and writes
   them all at once, each after its forced token.
3. A row may be watched: the scores of the control tokens at each position are read off the logits
   that its next token is chosen from. The watcher may force a refusal token there.

`model.generate` would not do: here finished rows leave the batch at once, every row has its own
limit, and a checkpoint's sampling defaults have no effect. Shapes: B prompts of a batch, R rows
being written, T cached positions, V vocabulary, C control tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

from demur.base.arrays import Floats
from demur.base.errors import EngineError
from demur.core.serving import Sampling
from demur.engines.heads import control_scores, head_on
from demur.engines.hf.rules import DecodeRules
from demur.engines.hf.sample import next_tokens

# (C,) scores at a position where a token would be written -> a score column to turn to instead
Watch = Callable[[Floats], int | None]
GREEDILY = Sampling(temperature=0.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prefix:
    """A prefilled batch of prompts, for one call of `decode`, which uses up the cache."""

    cache: Any  # keys and values of all layers
    mask_BT: torch.Tensor  # 1 where a prompt token lies, 0 on the left padding
    logits_BV: torch.Tensor  # raw logits at the first answer position


@dataclass(kw_only=True, slots=True, eq=False)
class AnswerRow:
    """One answer that is written: how its tokens are chosen, and those written so far."""

    prompt: int  # row of the prefilled batch
    first_id: int  # the token that is forced ahead of the answer
    sampling: Sampling = GREEDILY  # temperature and top_p
    random: Random | None = None  # of a sampled answer
    watch: Watch | None = None  # called where a token is written, not at the end token
    # columns that end the answer where the watcher turns to them: the operator has a text for these
    ends_with: frozenset[int] = frozenset()
    ids: list[int] = field(default_factory=list)  # after the last forced token
    finished: bool = False  # ended by a stop id, not by its limit
    cut: int | None = None  # tokens dropped, where the watcher turned to a refusal
    last: int = -1  # the token that the model reads next
    limit: int = 0  # most tokens of `ids`

    def take(self, token: int, logp_C: Floats | None, rules: DecodeRules) -> bool:
        """Append a token, or turn to a refusal in its place; whether the answer goes on.

        logp_C: position score of the token, where the row is watched.
        """
        if token in rules.stops:
            self.finished = True
            return False
        column = self.watch(logp_C) if self.watch is not None and logp_C is not None else None
        if column is not None:
            # The refusal shares the answer's limit, and its control token takes one position.
            self.cut, self.limit = len(self.ids), self.limit - len(self.ids) - 1
            self.ids, self.watch, self.last = [], None, rules.control_ids[column]
            if column in self.ends_with:
                self.finished = True
                return False
        else:
            self.ids.append(token)
            self.last = token
        return len(self.ids) < self.limit


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


def decode(model: Any, prefix: Prefix, rows: Sequence[AnswerRow], rules: DecodeRules) -> None:
    """Write R answers, each after its forced token."""
    index_R = torch.tensor([row.prompt for row in rows], device=model.device)
    cache, mask_RT = prefix.cache, prefix.mask_BT[index_R]
    cache.reorder_cache(index_R)
    # Positions of the cache that each row's prompt takes; one more is its forced token's.
    for row, width in zip(rows, mask_RT.sum(dim=1).tolist(), strict=True):
        room = rules.max_new_tokens if rules.context is None else rules.context - 1 - width
        row.last, row.limit = row.first_id, max(0, min(rules.max_new_tokens, room))
    alive = list(rows)
    kept = [r for r, row in enumerate(rows) if row.limit > 0]
    while kept:
        # Drop the rows that ended with the last step.
        if len(kept) < len(alive):
            kept_R = torch.tensor(kept, device=model.device)
            cache.reorder_cache(kept_R)
            mask_RT, alive = mask_RT[kept_R], [alive[at] for at in kept]
        mask_RT = torch.cat([mask_RT, mask_RT.new_ones(len(alive), 1)], dim=1)
        logits_RV = _read(model, cache, mask_RT, [row.last for row in alive])
        kept = _choose(logits_RV, alive, rules)


def _read(model: Any, cache: Any, mask_RT: torch.Tensor, last: Sequence[int]) -> torch.Tensor:
    """Read one token of every row; the logits of the next one, (R, V) float32."""
    read = model(
        torch.tensor(last, device=model.device)[:, None],
        attention_mask=mask_RT,
        past_key_values=cache,
        use_cache=True,
        **position_ids(model, mask_RT, 1),
    )
    logits_RV: torch.Tensor = read.logits[:, -1].float()
    return logits_RV


def _choose(logits_RV: torch.Tensor, rows: Sequence[AnswerRow], rules: DecodeRules) -> list[int]:
    """Choose the next token of every row; indices of the rows that go on."""
    watched = [r for r, row in enumerate(rows) if row.watch is not None]
    score_of: dict[int, Floats] = {}
    if watched:
        watched_RV = logits_RV if len(watched) == len(rows) else logits_RV[watched]
        score_of = dict(zip(watched, control_scores(watched_RV, rules.control_ids), strict=True))
    banned = torch.tensor(rules.banned, dtype=torch.long, device=logits_RV.device)
    tokens = next_tokens(
        logits_RV.index_fill(1, banned, -torch.inf),
        [row.sampling for row in rows],
        [0.0 if row.random is None else row.random.random() for row in rows],
    )
    return [
        r
        for r, (row, token) in enumerate(zip(rows, tokens, strict=True))
        if row.take(token, score_of.get(r), rules)
    ]


def position_ids(model: Any, mask_RT: torch.Tensor, last: int) -> dict[str, torch.Tensor]:
    """Position ids of the last columns, as keyword arguments; {} for models that take none.

    Counted from the first token of each row, since left padding must not shift learnt positions.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask_RT.cumsum(dim=1) - 1).clamp(min=0)[:, -last:]}
