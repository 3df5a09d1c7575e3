"""How much a backend takes on at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendLimits:
    """How much a backend takes on at once."""

    waiting: int = 256  # requests that may await their decision; one more is BackendBusy
    rows: int = 64  # answers written at once
    # positions kept at once, room for whole answers counted; one long request may exceed it
    cache_tokens: int = 2**16
    # of prompts read between two steps: how long the answers under way may be held up
    prefill_tokens: int = 2048
    threads: int | None = None  # CPU threads of the model; None: leave them
    # for one step of the model, and TOKEN_S for each token read in it: longer is stuck
    step_s: float = 30.0
    # of a model that was stuck or failed, within an hour; then the server is not ready for good
    restarts: int = 3
