"""What callers see of an error: OpenAI's status codes and error object. Nothing of the inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from demur.base.errors import (
    AccessError,
    BackendBusy,
    BackendError,
    BackendTimeout,
    DemurError,
    EngineError,
    MissingDependency,
    PromptTooLong,
    SchemaTooCostly,
    ScoreDoubt,
    ScoreError,
)

RETRY_S = 1  # what a client is told to wait where nothing better is known

# codes of AccessError that more rights would cure
_FORBIDDEN = {"no_overrides", "locked", "not_permitted"}
_OURS = "The server had an error while processing your request."


class ApiError(Exception):
    """An answer other than 200. The message goes to the caller as it is."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_s = retry_s

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, as the body of a response or the data of a stream's last event."""
        error = {
            "message": self.message,
            "type": _kind(self.status),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """What goes beside the body."""
        headers = {} if self.retry_s is None else {"retry-after": str(self.retry_s)}
        by_status = {401: {"www-authenticate": "Bearer"}, 408: {"connection": "close"}}
        return headers | by_status.get(self.status, {})


def api_error(error: DemurError, *, decided: bool = False) -> ApiError:
    """The answer that an error of ours deserves. decided: it came after the decision, so the
    request was sound.
    """
    match error:
        case AccessError():
            param = "demur" if error.param is None else f"demur.{error.param}"
            return ApiError(_access_status(error.code), _plain(error), code=error.code, param=param)
        case BackendError() | ScoreError() | ScoreDoubt():
            return next(make() for kind, make in _NO_ANSWER if isinstance(error, kind))
        case PromptTooLong() if not decided:
            return ApiError(400, _plain(error), code="context_length_exceeded", param="messages")
        case MissingDependency() if not decided:
            return ApiError(
                400, "This server does not give answers of that kind.", code="unsupported_request"
            )
        # what that takes may show late
        case EngineError() if not decided or isinstance(error, SchemaTooCostly):
            code = (
                "schema_too_costly" if isinstance(error, SchemaTooCostly) else "unsupported_request"
            )
            return ApiError(400, _plain(error), code=code)
    return internal_error()


def internal_error() -> ApiError:
    """What a caller is told when something went wrong that should not have."""
    return ApiError(500, _OURS, code="server_error")


_NO_ANSWER: tuple[tuple[type[DemurError], Callable[[], ApiError]], ...] = (
    (BackendBusy, lambda: ApiError(503, "The server is full.", code="overloaded", retry_s=RETRY_S)),
    (BackendTimeout, lambda: ApiError(504, "The model did not answer in time.", code="timeout")),
    (
        BackendError,
        lambda: ApiError(
            503, "The model is not available.", code="model_unavailable", retry_s=RETRY_S
        ),
    ),
    (DemurError, lambda: ApiError(503, "The request could not be decided.", code="undecided")),
)


def _access_status(code: str) -> int:
    if code == "policy_not_found":
        return 404
    return 403 if code in _FORBIDDEN else 400


def _plain(error: DemurError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _kind(status: int) -> str:
    """OpenAI's error type."""
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
