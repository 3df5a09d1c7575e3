"""Server state: the settings, backend, registries and monitors that all routes share."""

from __future__ import annotations

from dataclasses import dataclass

from demur.core.serving import Backend
from demur.server.admission.control import AdmissionControl
from demur.server.monitoring.live_scores import LiveScores
from demur.server.monitoring.metrics import Metrics
from demur.server.monitoring.promises import PromiseMonitors
from demur.server.registry import AccessRegistry
from demur.server.settings import ServerSettings


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServerState:
    """What one server is made of; its parts change, the set of parts does not."""

    settings: ServerSettings
    backend: Backend
    registry: AccessRegistry
    admission: AdmissionControl
    metrics: Metrics
    monitors: PromiseMonitors
    live_scores: LiveScores | None  # where the operator wants scores of served requests
