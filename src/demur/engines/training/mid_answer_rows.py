"""Training rows that turn back in mid-answer: demur.core.training.turn_back says which.

Prefixes are text of people or of a model, encoded as such: they hold no control id but the
[respond] in front of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from demur.base.errors import EngineError
from demur.core.example import Example, Message
from demur.core.taxonomy import Taxonomy
from demur.core.training.balance import row_weights
from demur.core.training.settings import TrainSettings
from demur.core.training.turn_back import (
    TurnBack,
    cut_at_sentence,
    cut_at_token,
    is_drawn,
    kept_positions,
    may_turn_back,
    rows_to_harvest,
)
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.training.batches import IGNORE, TrainingRow
from demur.engines.training.rows import learns_reply


def mid_answer_rows(
    examples: Sequence[Example], taxonomy: Taxonomy, encoder: ChatEncoder, settings: TrainSettings
) -> list[TrainingRow]:
    """Turn-back rows and transition rows of the examples with a prefix; [] where none are wanted.

    A row that max_length leaves no room for is left out. Raises EngineError if none is left.
    """
    turn_back, seed = settings.turn_back, settings.seed
    if turn_back is None:
        return []
    weights = row_weights(examples, settings.balance)
    found: list[TrainingRow | None] = []
    for example, weight in zip(examples, weights, strict=True):
        if not may_turn_back(example) or not example.prefix:
            continue
        builder = _Builder(example, taxonomy.column(example.label), encoder, settings)
        total = float(weight) * turn_back.weight
        if is_drawn(example, turn_back.turn_back_share, seed):
            found.append(builder.turn_back_row(turn_back, total))
        if is_drawn(example, turn_back.transition_share, seed):
            found.append(builder.transition_row(turn_back, total))
    rows = [row for row in found if row is not None]
    if not rows:
        refusals = sum(map(may_turn_back, examples))
        having = sum(may_turn_back(e) and bool(e.prefix) for e in examples)
        raise EngineError(
            f"train.turn_back: of {refusals} training rows to be refused {having} have a prefix, "
            f"and none became a row of at most {settings.max_length} tokens",
            'give rows the column "prefix", name a file of prefixes, or set prefixes = "harvest"',
        )
    return rows


def expected_rows(
    examples: Sequence[Example], encoder: ChatEncoder, settings: TrainSettings
) -> list[TrainingRow]:
    """Stand-ins for the rows that harvesting will give, as long as these may become: for the
    estimate of memory and disk.
    """
    turn_back = settings.turn_back
    if turn_back is None or turn_back.prefixes != "harvest":
        return []
    kinds = (turn_back.turn_back_share > 0) + (turn_back.transition_share > 0)
    rows = []
    for example in rows_to_harvest(examples, turn_back, settings.seed):
        ids = [*encoder.prompt(example.prompt), *[0] * (turn_back.most_tokens + 1)]
        labels = [IGNORE] * (len(ids) - 1) + ids[-1:]
        if len(ids) <= settings.max_length:
            rows += [TrainingRow(input_ids=ids, labels=labels)] * kinds
    return rows


class _Builder:
    """Builds the rows of one example. column: its refusal token, as a score column."""

    def __init__(
        self, example: Example, column: int, encoder: ChatEncoder, settings: TrainSettings
    ) -> None:
        self._example, self._column = example, column
        self._encoder, self._settings = encoder, settings

    def transition_row(self, turn_back: TurnBack, weight: float) -> TrainingRow | None:
        """[respond] prefix, the refusal token as the target at a share of the prefix's positions.

        weight: of these targets together. None if not one token of the prefix fits.
        """
        ids, start = self._begun(self._example.prefix or "", turn_back)
        if len(ids) == start:
            return None
        kept = kept_positions(
            self._example.id, len(ids) - start, turn_back.kept_share, self._settings.seed
        )
        # A label is the target of the position before it: that of the prefix's first token is the
        # target at [respond], and the decision's own target, [respond]'s label, stays ignored.
        labels = [IGNORE] * len(ids)
        for n in kept:
            labels[start + n] = self._encoder.token_ids[self._column]
        end = start + kept[-1] + 1  # tokens after the last target have no loss
        return TrainingRow(
            input_ids=ids[:end], labels=labels[:end], weight=weight / len(kept), midway="transition"
        )

    def turn_back_row(self, turn_back: TurnBack, weight: float) -> TrainingRow | None:
        """[respond] beginning of the prefix, refusal token, reply; loss on the last two.

        None if the refusal token does not fit.
        """
        example, seed = self._example, self._settings.seed
        prefix = example.prefix or ""
        sentences = cut_at_sentence(example.id, prefix, seed)
        ids, start = self._begun(sentences or prefix, turn_back)
        if sentences is None and len(ids) > start:
            ids = ids[: start + cut_at_token(example.id, len(ids) - start, seed)]
        room = self._settings.max_length - len(ids)
        if len(ids) == start or room < 1:
            return None
        turn = self._turn()[:room]
        return TrainingRow(
            input_ids=[*ids, *turn],
            labels=[*[IGNORE] * len(ids), *turn],
            has_reply=len(turn) > 1,
            weight=weight,
            midway="turn_back",
        )

    def _begun(self, prefix: str, turn_back: TurnBack) -> tuple[list[int], int]:
        """Ids of prompt, [respond] and the prefix within its limits; where the prefix begins."""
        begun = Message(role="assistant", content=prefix)
        ids, turns = self._encoder.conversation(
            [*self._example.prompt, begun], [*_past(self._example), 0]
        )
        start = turns[-1].control_at + 1
        # One token less than max_length: the refusal token must fit behind it.
        most = min(start + turn_back.most_tokens, self._settings.max_length - 1)
        return ids[: max(start, min(turns[-1].text_end, most))], start

    def _turn(self) -> list[int]:
        """The refusal token, and the tokens of the reply that are learnt."""
        example, token = self._example, self._encoder.token_ids[self._column]
        if example.reply is None or not learns_reply(example, self._settings):
            return [token]
        ids, turns = self._encoder.conversation(example.messages, [*_past(example), self._column])
        last = turns[-1]
        # text_end + 1: the end-of-turn token is learnt too
        end = min(last.text_end + 1, last.control_at + 1 + self._settings.answer_tokens)
        return ids[last.control_at : end]


def _past(example: Example) -> list[int]:
    """Columns of the past assistant turns: [respond]."""
    return [0] * sum(m.role == "assistant" for m in example.prompt)
