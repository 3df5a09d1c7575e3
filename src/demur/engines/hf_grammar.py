"""JSON answers: which tokens may come next under a JSON schema, by llguidance (an optional package, extra "json").

A grammar binds answers only. It begins after the control token, so a refusal is never forced into a schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from demur.core.errors import EngineError, MissingDependency

# One space at most between two parts: a model that may write any amount of white space may never come to an end.
SPACE: Any = {"whitespace_pattern": "[ ]?"}


class Grammar:
    """Where one answer stands in its schema. Used up by one answer."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits_V: torch.Tensor) -> None:
        """Set the logits of ids that may not come next to -inf, in place. All of them where the grammar gave up."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed_V = np.unpackbits(bits, bitorder="little", count=len(logits_V)).astype(bool)
        logits_V[torch.from_numpy(~allowed_V).to(logits_V.device)] = -torch.inf

    def take(self, token_id: int) -> None:
        """Note that this id was written. Raises EngineError if it was not allowed, or if the grammar gave up."""
        if not self._matcher.consume_token(token_id):
            raise EngineError(f"the JSON grammar gave up: {self._matcher.get_error()}", "simplify the schema")


class Grammars:
    """Grammars for one tokenizer, prepared on first use: that takes about a second.

    stops: ids that end an answer; they are allowed where the JSON may end. vocabulary: logits that the model has.
    Raises MissingDependency, on use, when llguidance is not installed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stops: frozenset[int], vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._stops = sorted(stops)
        self._vocabulary = vocabulary
        self._prepared: Any = None

    def make(self, schema: Mapping[str, Any]) -> Grammar:
        """The grammar of a JSON schema; {}: any JSON object. Raises EngineError if the schema cannot be honoured."""
        try:
            from llguidance import LLMatcher, hf  # noqa: PLC0415  # optional: most answers are no JSON
        except ModuleNotFoundError as e:
            if e.name != "llguidance":
                raise
            raise MissingDependency("JSON answers need llguidance", "pip install 'demur[json]'") from None
        if self._prepared is None:
            self._prepared = hf.from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=self._stops)
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(dict(schema) or {"type": "object"}), overrides=SPACE)
        matcher = LLMatcher(self._prepared, grammar, log_level=0)
        if matcher.is_error():
            reason = str(matcher.get_error()).strip().partition("\n")[0]
            raise EngineError(f"the JSON schema cannot be honoured: {reason}", "leave that part of the schema out")
        return Grammar(matcher)
