"""The OpenAPI document: every route, request field and status code, written by hand.

Names of the models here are names in the document, which generated clients carry.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from demur.base.version import installed_version
from demur.server.requests.schema import ChatRequest
from demur.server.responses import ChatCompletion

CHAT, MODELS, HEALTH, READY, METRICS = (
    "/v1/chat/completions",
    "/v1/models",
    "/healthz",
    "/readyz",
    "/metrics",
)

_STATUSES = {
    400: "Not a request that this server takes.",
    401: "No key, or a wrong or expired one.",
    403: "The key may not have that.",
    404: "No such model, policy or route.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "As much as the key may have.",
    500: "A fault of the server.",
    503: "The model is not available, or the server is full.",
    504: "The model did not answer in time.",
}


class ErrorObject(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every answer but 200."""

    error: ErrorObject


class PolicyNames(BaseModel):
    """The "demur" object of a model."""

    policies: list[str]  # that this key may use, its default first


class ModelCard(BaseModel):
    """OpenAI's model object."""

    id: str
    object: str
    created: int
    owned_by: str
    demur: PolicyNames


class ModelList(BaseModel):
    """OpenAI's list of models, which holds one."""

    object: str
    data: list[ModelCard]


class Status(BaseModel):
    """The body of /healthz and /readyz."""

    status: str


def openapi_document() -> dict[str, Any]:
    """Return the document, as JSON values."""
    models = (ChatRequest, ChatCompletion, ErrorBody, ModelList, ModelCard, Status)
    _, defined = models_json_schema(
        [(m, "validation") for m in models], ref_template="#/components/schemas/{model}"
    )
    model_name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    keyed = (401, 403, 429, 503)  # statuses of every route that takes a key
    return {
        "openapi": "3.1.0",
        "info": {"title": "demur", "version": installed_version()},
        "paths": {
            CHAT: {"post": _chat()},
            MODELS: {"get": _get("models", ModelList, keyed)},
            MODELS + "/{model}": {
                "get": _get("model", ModelCard, (*keyed, 404)) | {"parameters": [model_name]}
            },
            HEALTH: {"get": _get("health", Status) | {"security": []}},
            READY: {"get": _get("ready", Status) | {"security": []}},
            METRICS: {"get": _get("metrics", None, keyed)},
        },
        "components": {
            "schemas": defined["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _chat() -> dict[str, Any]:
    answer = {**_json(ChatCompletion), "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "operationId": "chat",
        "requestBody": {"required": True, "content": _json(ChatRequest)},
        "responses": {"200": {"description": "The answer, or a refusal.", "content": answer}}
        | _refusals(*_STATUSES),
    }


def _get(
    name: str, model: type[BaseModel] | None, refusals: tuple[int, ...] = ()
) -> dict[str, Any]:
    content = _json(model) if model else {"text/plain": {"schema": {"type": "string"}}}
    responses = {"200": {"description": "Found.", "content": content}} | _refusals(*refusals)
    if name == "ready":
        responses["503"] = {"description": "Not now.", "content": _json(Status)}
    return {"operationId": name, "responses": responses}


def _refusals(*statuses: int) -> dict[str, Any]:
    return {str(s): {"description": _STATUSES[s], "content": _json(ErrorBody)} for s in statuses}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
