"""Log lines about alarms: promises that live scores or labels speak against, and drift."""

from __future__ import annotations

import logging

from demur.server.monitoring.log import log_event
from demur.stages.watch import LiveWatch


def log_new_alarms(before: LiveWatch | None, after: LiveWatch) -> None:
    """Log alarms and drift that the state before did not have."""
    known = _alarms(before) if before else {}
    for key, fields in _alarms(after).items():
        if key not in known:
            log_event(logging.WARNING, key[0], policy=after.policy.name, **fields)


def _alarms(watch: LiveWatch) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return the log fields of all alarms and drift, by event, tenant and risk or test."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for tenant in sorted({*watch.monitors, ""}):
        for w in watch.watched(tenant):
            for a in w.alarms:
                fields = {"risk": w.promise.risk, "reason": a.text, "tenant": tenant}
                found["promise no longer supported", tenant, w.promise.risk] = fields
            for a in w.drift:
                found["drift seen", tenant, a.about] = {"reason": a.text, "tenant": tenant}
    return found
