"""The readiness of a model: one finding per condition that must hold before it decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check of a model."""

    check: str  # what was looked at
    ok: bool
    detail: str  # what was found, with values
    hint: str = ""  # what to do about it; empty when ok


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """All findings about one model, in the order in which one depends on another."""

    model: str
    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether every check held."""
        return all(f.ok for f in self.findings)
