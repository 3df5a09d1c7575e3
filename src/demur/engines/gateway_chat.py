"""OpenAI's chat protocol as a client speaks it: what its answers hold, and how an answer is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from demur.core.errors import BackendDown
from demur.core.serving import Ask
from demur.engines.gateway_http import LOG, Wire, broken_off


class Token(BaseModel):
    """A token that may have stood in a place."""

    token: str
    logprob: float


class Position(Token):
    """A place in an answer, with its most probable tokens."""

    top_logprobs: list[Token] = []


class Logprobs(BaseModel):
    """The places of an answer."""

    content: list[Position] | None = None


class Function(BaseModel):
    """A called function, or a piece of that."""

    name: str | None = None
    arguments: str | None = None


class Call(BaseModel):
    """A tool call, or a piece of one: the pieces of a call share its index."""

    index: int | None = None  # some servers send whole calls, and number none
    id: str | None = None
    function: Function = Function()


class Delta(BaseModel):
    """A piece of a message."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None


class Choice(BaseModel):
    """A piece of an answer."""

    delta: Delta = Delta()
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int = 0


class Chat(BaseModel):
    """An answer of /v1/chat/completions, or an event of its stream."""

    model: str = ""
    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


class _Card(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Card]


async def require_served(wire: Wire, model: str) -> None:
    """Raise BackendDown unless the server says that it serves a model of this name."""
    served = await wire.get("models", _Models)
    if all(m.id != model for m in served.data):
        LOG.error("upstream serves %s, not %r", [m.id for m in served.data], model)
        raise BackendDown(f"the backend does not serve {model!r}", "check the model's name")


def choice_of(chat: Chat, answers_as: str) -> Choice | None:
    """The one choice of an event; None where it has none. Raises BackendDown on an error or another model's answer."""
    if chat.error is not None:
        raise broken_off(chat.error)
    if chat.model != answers_as:
        LOG.error("upstream answers as %r, at start-up it was %r", chat.model, answers_as)
        raise BackendDown("the backend serves another model than at start-up", "restart once it is back")
    return chat.choices[0] if chat.choices else None


def writing(ask: Ask) -> Mapping[str, Any]:
    """How the answer is to be written, in fields that every server knows."""
    s = ask.sampling
    optional = {"seed": s.seed, "stop": list(s.stop) or None}
    return {
        "max_tokens": s.max_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
        **{name: value for name, value in optional.items() if value is not None},
    }
