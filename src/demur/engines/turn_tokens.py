"""Keeps text from being read as a token that begins or ends a turn, whatever the tokenizer makes of
it first.

A tokenizer may rewrite text before it looks for its added tokens: in small letters, composed, with
characters replaced or stripped. An added token that is `normalized` is then found in spellings that
nobody can list. So none are listed: the tokenizer itself is asked where it would find such a token
in a text, and these places are spelled out.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from demur.base.errors import EngineError

Piece = tuple[str, bool]  # of a text, and whether it must be spelled out
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
    """The tokens that nobody may write in text: special ones, control tokens, and those that the
    template writes.

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
        # Others are found where their own letters stand, and nowhere else: the encoder looks for
        # these itself.
        self.is_needed = rewrites and any(added[i].normalized for i in self.ids if i in added)

    def found(self, text: str) -> list[int]:
        """The guarded tokens that the tokenizer finds in a text, in order."""
        return [
            i for i in self._tokenizer(text, add_special_tokens=False)["input_ids"] if i in self.ids
        ]

    def pieces(self, text: str) -> list[Piece]:
        """The text in pieces, those apart in which the tokenizer finds a guarded token."""
        spans = self._spans(text) if self.is_needed and text else []
        if not spans:
            return [(text, False)]
        pieces: list[Piece] = []
        at = 0
        for start, end in spans:
            # What is left is shorter, and looked through again: taking one token out may lay
            # another one bare.
            pieces += [*self.pieces(text[at:start]), (text[start:end], True)]
            at = end
        return pieces + self.pieces(text[at:])

    def spelled(self, text: str) -> list[int]:
        """Ids of a text as mere text: in pieces, where the tokenizer finds guarded tokens in it.

        Raises EngineError if a single character is such a token.
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

    def _spans(self, text: str) -> list[tuple[int, int]]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        spans = [(start, end) for i, (start, end) in pairs if i in self.ids]
        return [(start, end) for start, end in spans if start < end]


def _written_by_template(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Ids that occur in what the template writes around texts."""
    ids: set[int] = set()
    for probe in _PROBES:
        for messages in (probe, probe[1:]):
            try:
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            except (TemplateError, ValueError, TypeError):  # not for these roles
                continue
            ids |= set(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    return ids
