"""What is put to the test."""

from __future__ import annotations

from dataclasses import dataclass

from demur.core.judging.asking import Asker
from demur.core.policy import Policy
from demur.core.ports import Generator, Judge, Scorer
from demur.core.training.seen import Seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A model that is known by its answers only."""

    asker: Asker
    judge: Judge


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A model under a policy."""

    policy: Policy
    scorer: Scorer
    generator: Generator
    # of its texts; None: decisions only, one prefill a prompt and no text
    judge: Judge | None = None
    settings: str = ""  # of the generator: texts written with others are written again
    seen: Seen | None = None  # what was trained and calibrated on; None: not known
