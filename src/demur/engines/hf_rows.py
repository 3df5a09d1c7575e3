"""Examples to pre-tokenised training rows, so that we, not the trainer, decide how people's text is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demur.core.errors import EngineError
from demur.core.example import Example
from demur.core.taxonomy import Taxonomy
from demur.engines.tokens import ChatEncoder

IGNORE = -100  # the label that torch's cross-entropy leaves out


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One conversation to learn from."""

    input_ids: list[int]
    labels: list[int]  # as input_ids where the loss counts, IGNORE elsewhere


def training_rows(
    examples: Sequence[Example], taxonomy: Taxonomy, encoder: ChatEncoder, *, max_length: int, answer_tokens: int
) -> list[TrainingRow]:
    """One row per example: the loss counts on control tokens and on the first `answer_tokens` tokens of each answer.

    A row without a reply ends at its control token. Past assistant turns of a conversation are answers that were
    given, so they open with [respond]; the last one with the example's own token. Raises EngineError if every row is
    longer than max_length (in tokens); a single longer row is left out.
    """
    rows = [_row(e, taxonomy.column(e.label), encoder, answer_tokens) for e in examples]
    fitting = [r for r in rows if len(r.input_ids) <= max_length]
    if not fitting:
        raise EngineError(f"none of {len(rows)} training rows fits {max_length} tokens", "raise train.max_length")
    return fitting


def _row(example: Example, column: int, encoder: ChatEncoder, answer_tokens: int) -> TrainingRow:
    past = [0] * sum(m.role == "assistant" for m in example.prompt)
    if example.reply is None:
        ids = [*encoder.prompt(example.prompt, past), encoder.token_ids[column]]
        return TrainingRow(input_ids=ids, labels=[IGNORE] * (len(ids) - 1) + ids[-1:])
    ids, turns = encoder.conversation(example.messages, [*past, column])
    labels = [IGNORE] * len(ids)
    for turn in turns:
        last = min(turn.text_end + 1, turn.control_at + 1 + answer_tokens)  # + 1: the end-of-turn token is learnt too
        labels[turn.control_at : last] = ids[turn.control_at : last]
    learnt = last if turns else 0  # what follows the last supervised token teaches nothing
    return TrainingRow(input_ids=ids[:learnt], labels=labels[:learnt])
