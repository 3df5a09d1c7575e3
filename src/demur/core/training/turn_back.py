"""Turning back, [train.turn_back]: its settings, and the draws of its training rows. Pure.

A row of the training split that is to be refused may carry a *prefix*: the beginning of an answer
that nobody should have written. From it training makes, beside the row itself,

1. a turn-back row, `[respond] prefix_<k [refusal token] reply`: k is a sentence end of the prefix,
   as demur.core.midway.cut has them, for every other row, else any of its tokens. The row itself is
   the case k = 0;
2. a transition row, `[respond] prefix`: the refusal token is the target at some positions of the
   prefix (arXiv 2407.09121 has the target at all of them, or keeps about 5 %). The one right after
   [respond] may be among them, the position of [respond] itself never is.

Every draw depends on the seed and the row's id alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demur.base.errors import ConfigError
from demur.core.example import Example
from demur.core.midway.cut import sentence_ends
from demur.core.rows.splitting import seeded, uniform_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnBack:
    """Settings of rows that teach to turn back. Raises ConfigError on a number out of range."""

    # Where beginnings of answers come from. rows: those that training rows carry. harvest: the base
    # model writes them, for rows without one. A path: a file of prompts and prefixes.
    prefixes: Literal["rows", "harvest"] | Path = "rows"
    turn_back_share: float = 0.5  # of the rows with a prefix: these get a turn-back row
    transition_share: float = 0.5  # of the rows with a prefix: these get a transition row
    kept_share: float = 0.1  # of the positions of a prefix that are targets of a transition row
    # of such a row's refusal tokens together, times the weight of a refusal token in the loss
    weight: float = 1.0
    # of a prefix; and of the replies to rows to be answered that learn theirs, where
    # train.answer_tokens is less: a later position is only then known not to be turned back from
    most_tokens: int = 64
    temperature: float = 0.0  # of harvested answers; 0: greedy
    # of the rows to be answered: these learn their reply, where train.reply_share is less. With
    # fewer, ordinary answers take on refusal mass: fewer false stops cost as many tokens
    answer_share: float = 0.5
    keep_text: bool = False  # of harvested prefixes, in the run folder; else their digests

    def __post_init__(self) -> None:
        for name in ("turn_back_share", "transition_share", "answer_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"train.turn_back.{name} = {getattr(self, name)} is not in [0, 1]", "correct it"
                )
        if not self.turn_back_share and not self.transition_share:
            raise ConfigError(
                "train.turn_back: turn_back_share and transition_share are both 0",
                "raise one, or leave [train.turn_back] out",
            )
        if not 0.0 < self.kept_share <= 1.0:
            raise ConfigError(
                f"train.turn_back.kept_share = {self.kept_share} is not in (0, 1]",
                "0.05 to 0.2 are usual",
            )
        heats = 0.0 <= self.temperature < math.inf
        if not heats or not 0.0 < self.weight < math.inf or self.most_tokens < 1:
            raise ConfigError(
                f"train.turn_back: weight {self.weight}, most_tokens {self.most_tokens}, "
                f"temperature {self.temperature}",
                "weight is above 0, most_tokens at least 1, temperature at least 0",
            )


def is_drawn(row: Example, share: float, seed: int) -> bool:
    """Whether a row is among a share of the rows that may turn back.

    One draw for both kinds of rows: a smaller share is a part of a larger one, so that few prefixes
    have to be harvested.
    """
    return uniform_hash(seed, f"turn back:{row.id}") < share


def may_turn_back(row: Example) -> bool:
    """Whether a training row is one to turn back from: a refusal, and not said otherwise."""
    return row.kind == "refusal" and "rewrite" not in dict(row.traits)


def kept_positions(row_id: str, length: int, share: float, seed: int) -> tuple[int, ...]:
    """Draw the positions of a prefix that are targets: a share of 0 .. length - 1, at least one."""
    count = max(1, round(share * length))
    return tuple(sorted(seeded(seed, f"kept:{row_id}").sample(range(length), count)))


def cut_at_sentence(row_id: str, prefix: str, seed: int) -> str | None:
    """Cut a prefix at one of its sentence ends; None for every other row, and where it has none."""
    random = seeded(seed, f"cut:{row_id}")
    ends = sentence_ends(prefix)
    return prefix[: random.choice(ends)] if random.random() < 0.5 and ends else None


def cut_at_token(row_id: str, length: int, seed: int) -> int:
    """Draw how many tokens of a prefix stand before the turn: uniform on 1 .. length."""
    return seeded(seed, f"tokens:{row_id}").randint(1, length)


def rows_to_harvest(examples: Sequence[Example], settings: TurnBack, seed: int) -> list[Example]:
    """The rows that want a prefix and have none."""
    share = max(settings.turn_back_share, settings.transition_share)
    return [e for e in examples if may_turn_back(e) and not e.prefix and is_drawn(e, share, seed)]
