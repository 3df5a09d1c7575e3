"""HTTP errors: OpenAI's status codes and error object, from errors of demur.

Callers see the message of an error that they caused. Of all others they see a fixed text, and the
operator finds the reason in the log.
"""

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

RETRY_S = 1  # value of Retry-After where nothing better is known

# by code of AccessError: what the tenant may not have; any other code is a fault of the request
_ACCESS_STATUS = {"policy_not_found": 404, "no_overrides": 403, "locked": 403, "not_permitted": 403}
_OURS = "The server had an error while processing your request."


class ApiError(Exception):
    """A response other than 200. The message goes to the caller as it is."""

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
        """Return the headers of the response: Retry-After, and what the status calls for."""
        headers = {} if self.retry_s is None else {"retry-after": str(self.retry_s)}
        # after 408 the rest of the body may still be on its way
        by_status = {401: {"www-authenticate": "Bearer"}, 408: {"connection": "close"}}
        return headers | by_status.get(self.status, {})


def api_error(error: DemurError, *, decided: bool = False) -> ApiError:
    """Translate an error into the response to send.

    decided: it was raised after the decision. The request was valid then, so the fault is the
    server's: a 500 in place of a 400.
    """
    match error:
        case AccessError():
            param = "demur" if error.param is None else f"demur.{error.param}"
            status = _ACCESS_STATUS.get(error.code, 400)
            return ApiError(status, _with_hint(error), code=error.code, param=param)
        case BackendError() | ScoreError() | ScoreDoubt():
            return next(make() for kind, make in _NO_ANSWER if isinstance(error, kind))
        case PromptTooLong() if not decided:
            return ApiError(
                400, _with_hint(error), code="context_length_exceeded", param="messages"
            )
        case MissingDependency() if not decided:
            return ApiError(
                400, "This server does not give answers of that kind.", code="unsupported_request"
            )
        # A schema's cost may show only while the answer is written; it is the client's even then.
        case EngineError() if not decided or isinstance(error, SchemaTooCostly):
            code = (
                "schema_too_costly" if isinstance(error, SchemaTooCostly) else "unsupported_request"
            )
            return ApiError(400, _with_hint(error), code=code)
    return internal_error()


def internal_error() -> ApiError:
    """Return the 500 for a bug, without any detail."""
    return ApiError(500, _OURS, code="server_error")


# The first that matches counts: subclasses stand before their base class.
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


def _with_hint(error: DemurError) -> str:
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
