"""Errors, one class per boundary. A message states the fact with values, the hint what to do."""

from __future__ import annotations


class DemurError(Exception):
    """Base of every error demur raises on purpose.

    message: what happened, with values, and what was expected. hint: what to do about it.
    exit_code: what the command line returns (2 = the caller's input, 3 = a goal that cannot be
    met).
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(DemurError):
    """A setting that is unknown, malformed or contradicts another."""


class DataError(DemurError):
    """A row, a file of rows or a set of rows that cannot be used."""


class TaxonomyError(DemurError):
    """Categories or control tokens that cannot stand together."""


class ScoreError(DemurError):
    """Scores that are not log-probabilities of the control tokens."""


class PolicyError(DemurError):
    """A policy that contradicts itself, its taxonomy or its model."""


class GoalError(DemurError):
    """A goal that cannot be read, or that the data at hand cannot express."""


class GoalInfeasible(DemurError):
    """A goal that no threshold meets on the data at hand. A result, not a fault: exit code 3."""

    exit_code = 3


class Undefined(DemurError):
    """The value of a rate with an empty denominator was requested."""


class ArtifactError(DemurError):
    """A file of a run folder that is missing, damaged, or was made from something else."""


class EngineError(DemurError):
    """A model, tokenizer or backend that does not do what demur needs of it."""


class BackendError(EngineError):
    """A backend that did not answer a request. Callers learn that, never how the backend looks
    inside.
    """


class BackendDown(BackendError):
    """It cannot be reached, has shut down, or broke off in mid-answer."""


class BackendTimeout(BackendError):
    """It did not answer within the operator's limit."""


class BackendBusy(BackendError):
    """It holds as many requests as it may."""


class PromptTooLong(EngineError):
    """A prompt that leaves no room for an answer in the model's context. The caller can shorten
    it.
    """


class ScoreDoubt(EngineError):
    """A backend's scores are known within bounds only, and the bounds leave the decision open. The
    operator settles it.

    A policy that forces a category, or suppresses all, leaves nothing open: ask again with one to
    fail closed or open.
    """


class SchemaTooCostly(EngineError):
    """A JSON schema that takes more time or memory than one may, before the answer or while it is
    written.
    """


class AccessError(DemurError):
    """A caller requested what its tenant may not have: a policy, an override, a route.

    code: why not, one word for programs. param: the part of the "demur" object at fault, such as
    "thresholds.safety"; None for the request as a whole. An OpenAI error has a field for each.
    """

    def __init__(
        self, message: str, hint: str = "", *, code: str = "not_permitted", param: str | None = None
    ) -> None:
        super().__init__(message, hint)
        self.code = code
        self.param = param


class MissingDependency(DemurError):
    """An optional package that the chosen part needs is not installed."""
