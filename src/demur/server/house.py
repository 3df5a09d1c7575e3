"""The parts of a server that its routes share."""

from __future__ import annotations

from dataclasses import dataclass

from demur.core.serving import Backend
from demur.server.admission.doors import Doors
from demur.server.monitoring.drift import Drift
from demur.server.monitoring.live_scores import LiveScores
from demur.server.monitoring.metrics import Metrics
from demur.server.policies import Book
from demur.server.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class House:
    """One server's parts."""

    settings: Settings
    backend: Backend
    book: Book
    doors: Doors
    metrics: Metrics
    drift: Drift
    live: LiveScores | None  # where the operator wants scores of served requests
