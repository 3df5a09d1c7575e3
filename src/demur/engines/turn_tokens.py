"""Finds text that a tokenizer would read as a token of turns, and encodes it letter by letter.

A tokenizer may normalise text before it searches for added tokens: to small letters, composed, with
characters replaced or stripped. An added token that is `normalized` is then found in spellings that
nobody can list. So the tokenizer itself encodes each text, and the character offsets of the guarded
tokens that it returns are the places to spell out.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from demur.base.errors import EngineError

Piece = tuple[str, bool]  # text, and whether it must be encoded letter by letter
# Conversations that make a template write all its tokens of turns.
_PROBES = (
    [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "x"},
    ],
    [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "x"},
    ],
)


class TurnTokens:
    """Guarded tokens: special ones, control tokens, and those that the chat template writes.

    Other added tokens, such as runs of spaces, are text like any other.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, control_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special}
        written = {
            i for i in _written_by_template(tokenizer) if i in added and added[i].content.strip()
        }
        self.ids = frozenset(special | set(control_ids) | written)
        rewrites = tokenizer.backend_tokenizer.normalizer is not None
        # A token that is not `normalized` is found by its own letters only, and the encoder itself
        # searches for these.
        self.is_needed = rewrites and any(added[i].normalized for i in self.ids if i in added)

    def found(self, text: str) -> list[int]:
        """Ids of the guarded tokens that the tokenizer finds in a text, in order."""
        return [
            i for i in self._tokenizer(text, add_special_tokens=False)["input_ids"] if i in self.ids
        ]

    def pieces(self, text: str) -> list[Piece]:
        """Cut a text where the tokenizer finds guarded tokens: (text, whether it is one)."""
        if not self.is_needed or not text:
            return [(text, False)]
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        # A token without characters of its own (start == end) is not made of the text.
        spans = [(start, end) for i, (start, end) in found if i in self.ids and start < end]
        if not spans:
            return [(text, False)]
        pieces: list[Piece] = []
        at = 0
        for start, end in spans:
            # The text before is searched again, alone: without its neighbour it may be read
            # otherwise. It is shorter, so the recursion ends.
            pieces += [*self.pieces(text[at:start]), (text[start:end], True)]
            at = end
        return pieces + self.pieces(text[at:])

    def spelled(self, text: str) -> list[int]:
        """Encode a text as plain text, cut in halves until no guarded token is found in them.

        Raises EngineError if a single character is a guarded token.
        """
        ids = list(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )
        if not self.ids.intersection(ids):
            return ids
        if len(text) < 2:
            raise EngineError(
                f"text {text!r} encodes to a control id or to a token of turns",
                "register control tokens as special tokens of several characters",
            )
        half = len(text) // 2
        return self.spelled(text[:half]) + self.spelled(text[half:])


def _written_by_template(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Ids of the tokens that a template writes around messages."""
    ids: set[int] = set()
    for probe in _PROBES:
        for messages in (probe, probe[1:]):
            try:
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            except (TemplateError, ValueError, TypeError):  # the template refuses these roles
                continue
            ids |= set(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    return ids
