"""Settings of the in-process backend: limits of concurrency, memory and time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendLimits:
    """Limits of the in-process backend: the keys of [backend] in a run's TOML file."""

    waiting: int = 256  # requests that may await their decision; one more is BackendBusy
    rows: int = 64  # answers written at once
    # positions cached at once, those of whole answers counted; a single long request may exceed it
    cache_tokens: int = 2**16
    # tokens of prompts read between two steps of the answers under way, which wait meanwhile
    prefill_tokens: int = 2048
    threads: int | None = None  # CPU threads of the model; None: torch's default
    # longest step of the model, plus TOKEN_S for each token read in it; beyond that it is stuck
    step_s: float = 30.0
    # restarts within an hour of a model that was stuck or failed; then the server stays not ready
    restarts: int = 3
