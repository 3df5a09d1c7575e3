"""The rules of writing answers with a checkpoint, from its configuration and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf.load import context_of, stop_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRules:
    """Control ids, ids that end an answer, ids that it may not contain, and its most tokens."""

    control_ids: tuple[int, ...]  # by score column
    stops: frozenset[int]  # an answer ends before any of these ids
    banned: tuple[int, ...]  # control ids and padding: never written after the first position
    max_new_tokens: int
    context: int | None  # positions the model has; None where it has no limit


def decode_rules(
    model: Any, tokenizer: PreTrainedTokenizerFast, encoder: ChatEncoder, most: int
) -> DecodeRules:
    """The rules of writing answers of at most so many tokens."""
    stops, pad_id = stop_ids(model, tokenizer, encoder), tokenizer.pad_token_id
    padding = [] if pad_id is None else [pad_id]
    return DecodeRules(
        control_ids=tuple(encoder.token_ids),
        stops=stops,
        banned=tuple({*encoder.token_ids, *padding} - stops),
        max_new_tokens=most,
        context=context_of(model),
    )
