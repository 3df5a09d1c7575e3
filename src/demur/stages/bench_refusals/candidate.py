"""What is put to the test, and how its prompts are recognised."""

from __future__ import annotations

from dataclasses import dataclass

from demur.core.asking import Asker
from demur.core.example import fold
from demur.core.policy import Policy
from demur.core.ports import Generator, Judge, Prompt, Scorer


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
    judge: Judge | None = None  # of its texts; None: decisions only, one prefill a prompt and no text
    settings: str = ""  # of the generator: texts written with others are written again
    seen: frozenset[str] | None = None  # prompt_key of what was trained and calibrated on; None: not known


def prompt_key(prompt: Prompt) -> str:
    """Key under which two prompts count as the same: the folded text of all turns, as for examples."""
    return "\n".join(fold(m.content) for m in prompt)
