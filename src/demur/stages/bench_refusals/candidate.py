"""The model to be measured: under a policy, or behind an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from demur.core.judging.cached_chat import CachedChat
from demur.core.policy import Policy
from demur.core.ports import Generator, Judge, Scorer
from demur.core.training.seen import Seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A model behind an endpoint, which shows no scores: its answers are judged."""

    asker: CachedChat
    judge: Judge


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A model under a policy."""

    policy: Policy
    scorer: Scorer
    generator: Generator
    # of its texts; None: decisions only, one prefill a prompt and no text
    judge: Judge | None = None
    settings: str = ""  # of the generator: texts written with other settings are written again
    seen: Seen | None = None  # the rows that it was trained and calibrated on; None: unknown
