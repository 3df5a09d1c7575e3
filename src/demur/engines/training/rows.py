"""Examples to tokenized training rows; the trainer itself never encodes people's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from demur.base.errors import EngineError
from demur.core.example import Example
from demur.core.rows.splitting import uniform_hash
from demur.core.taxonomy import Taxonomy
from demur.core.training.balance import row_weights
from demur.core.training.settings import TrainSettings
from demur.core.training.twins import has_twin
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.training.batches import IGNORE, TrainingRow


def training_rows(
    examples: Sequence[Example], taxonomy: Taxonomy, encoder: ChatEncoder, settings: TrainSettings
) -> list[TrainingRow]:
    """One row per example, labelled on control tokens and the first tokens of each answer.

    A row without a reply, or one not drawn for it (`reply_share`), ends at its control token;
    others have labels on as many tokens of each answer as `answer_tokens` below says. Past
    assistant turns of a conversation open with [respond], the last one with the example's own
    token. A row longer than max_length tokens is left out; raises EngineError if all are.
    """
    replying = [e.reply is not None and learns_reply(e, settings) for e in examples]
    rows = [
        reply_row(e, taxonomy.column(e.label), encoder, answer_tokens(e, settings))
        if replies
        else decision_row(e, taxonomy.column(e.label), encoder)
        for e, replies in zip(examples, replying, strict=True)
    ]
    fitting = [n for n, row in enumerate(rows) if len(row.input_ids) <= settings.max_length]
    if not fitting:
        raise EngineError(
            f"none of {len(rows)} training rows fits {settings.max_length} tokens",
            "raise train.max_length",
        )
    weights = row_weights([examples[n] for n in fitting], settings.balance)
    return [
        replace(rows[n], weight=float(weight)) for n, weight in zip(fitting, weights, strict=True)
    ]


def validation_rows(
    examples: Sequence[Example], taxonomy: Taxonomy, encoder: ChatEncoder, settings: TrainSettings
) -> list[TrainingRow]:
    """One row per example that fits max_length, up to its control token.

    Raises EngineError if validation is wanted and no row fits.
    """
    rows = [decision_row(e, taxonomy.column(e.label), encoder) for e in examples]
    fitting = [r for r in rows if len(r.input_ids) <= settings.max_length]
    if settings.validation_share and not fitting:
        raise EngineError(
            f"train.validation_share = {settings.validation_share} sets {len(rows)} rows aside, "
            f"of which none fits {settings.max_length} tokens",
            "raise validation_share or max_length, or set validation_share = 0",
        )
    return fitting


def answer_tokens(example: Example, settings: TrainSettings) -> int:
    """Number of tokens of each answer that are learnt, where a row learns its reply.

    A model that learns to turn back learns more of the replies to rows to be answered: their later
    positions are then known as those of ordinary answers. Of a row with a twin at least as many
    tokens are learnt as of the twin.
    """
    if example.label is not None:
        return settings.answer_tokens
    most = [settings.answer_tokens]
    if settings.turn_back is not None:
        most.append(settings.turn_back.most_tokens)
    if settings.twins is not None and has_twin(example, settings.twins, settings.seed):
        most.append(settings.twins.tokens)
    return max(most)


def learns_reply(example: Example, settings: TrainSettings) -> bool:
    """Whether a row's reply is learnt: by the row's id and the seed alone. A row with a twin does,
    being the answering half of the pair.
    """
    if has_twin(example, settings.twins, settings.seed):
        return True
    share = settings.reply_share
    if settings.turn_back is not None and example.label is None:
        share = max(share, settings.turn_back.answer_share)
    return uniform_hash(settings.seed, f"reply:{example.id}") < share


def decision_row(example: Example, column: int, encoder: ChatEncoder) -> TrainingRow:
    """Row of a prompt and the control token that answers it; labels on that token alone."""
    past = [0] * sum(m.role == "assistant" for m in example.prompt)
    ids = [*encoder.prompt(example.prompt, past), encoder.token_ids[column]]
    return TrainingRow(input_ids=ids, labels=[IGNORE] * (len(ids) - 1) + ids[-1:])


def reply_row(
    example: Example, column: int, encoder: ChatEncoder, answer_tokens: int
) -> TrainingRow:
    """Row of a conversation up to the last reply token that is learnt.

    column: the control token of the last answer, as a score column.
    """
    past = [0] * sum(m.role == "assistant" for m in example.prompt)
    ids, turns = encoder.conversation(example.messages, [*past, column])
    labels = [IGNORE] * len(ids)
    for turn in turns:
        # text_end + 1: the end-of-turn token is learnt too
        last = min(turn.text_end + 1, turn.control_at + 1 + answer_tokens)
        labels[turn.control_at : last] = ids[turn.control_at : last]
    learnt = last if turns else 0  # tokens after the last labelled one have no loss
    return TrainingRow(input_ids=ids[:learnt], labels=labels[:learnt], has_reply=True)
