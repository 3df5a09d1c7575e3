"""The errors of demur.base.errors, under the name by which most of the code knows them. New ones are made there."""

from __future__ import annotations

from demur.base.errors import (
    AccessError,
    ArtifactError,
    BackendBusy,
    BackendDown,
    BackendError,
    BackendTimeout,
    ConfigError,
    DataError,
    DemurError,
    EngineError,
    GoalError,
    GoalInfeasible,
    MissingDependency,
    PolicyError,
    PromptTooLong,
    SchemaTooCostly,
    ScoreDoubt,
    ScoreError,
    TaxonomyError,
    Undefined,
)

__all__ = [
    "AccessError",
    "ArtifactError",
    "BackendBusy",
    "BackendDown",
    "BackendError",
    "BackendTimeout",
    "ConfigError",
    "DataError",
    "DemurError",
    "EngineError",
    "GoalError",
    "GoalInfeasible",
    "MissingDependency",
    "PolicyError",
    "PromptTooLong",
    "SchemaTooCostly",
    "ScoreDoubt",
    "ScoreError",
    "TaxonomyError",
    "Undefined",
]
