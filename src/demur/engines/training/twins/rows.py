"""Twin rows of training: demur.core.training.twins says which. Texts are people's, encoded as such.

A twin row is `prompt [refusal token] refusal`, with labels on the refusal alone. Nothing else of it
is a target: neither its control token, which its label contradicts, nor past turns, which its
answering half teaches.
"""

from __future__ import annotations

from collections.abc import Sequence

from demur.base.errors import EngineError
from demur.core.example import Example
from demur.core.taxonomy import Taxonomy
from demur.core.training.settings import TrainSettings
from demur.core.training.twins import Twin, make_twins
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.training.batches import IGNORE, TrainingRow


def twin_rows(
    examples: Sequence[Example], taxonomy: Taxonomy, encoder: ChatEncoder, settings: TrainSettings
) -> list[TrainingRow]:
    """One row per twin that fits max_length; [] where none are wanted.

    Raises ConfigError where no twin can be made, and EngineError if none fits.
    """
    if settings.twins is None:
        return []
    twins = make_twins(examples, taxonomy, settings.twins, settings.seed)
    most = settings.twins.tokens
    rows = [_row(twin, taxonomy.column(twin.category), encoder, most) for twin in twins]
    fitting = [row for row in rows if len(row.input_ids) <= settings.max_length]
    if not fitting:
        raise EngineError(
            f"train.twins: none of {len(rows)} twins fits {settings.max_length} tokens",
            "raise train.max_length, or lower train.twins.tokens",
        )
    return fitting


def _row(twin: Twin, column: int, encoder: ChatEncoder, most: int) -> TrainingRow:
    """Row of a twin up to the last of `most` tokens of its text. column: its refusal token."""
    past = [0] * sum(m.role == "assistant" for m in twin.example.prompt)
    ids, turns = encoder.conversation(twin.messages, [*past, column])
    start = turns[-1].control_at + 1
    # text_end + 1: the end-of-turn token is learnt too
    end = min(turns[-1].text_end + 1, start + most)
    labels = [*[IGNORE] * start, *ids[start:end]]
    return TrainingRow(input_ids=ids[:end], labels=labels, has_reply=True, twin=True)
