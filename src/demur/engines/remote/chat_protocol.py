"""Read chat completions and write chat requests, for the backends in front of a chat endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from demur.base.errors import BackendDown, ScoreDoubt
from demur.core.serving import Finish, ServeRequest
from demur.engines.remote.answer_stream import finish_of
from demur.engines.remote.completion import (
    ChatPiece,
    MalformedReply,
    parse_json,
    read_chat,
    top_logprobs,
)
from demur.engines.remote.declines import FILTER, FilteredDecline, printable_name
from demur.engines.remote.upstream import LOG, UpstreamClient, stream_error


class _Card(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Card]


async def require_served(client: UpstreamClient, model: str) -> None:
    """Raise BackendDown unless the server lists a model of this name."""
    served = await client.get("models", _Models)
    if all(m.id != model for m in served.data):
        LOG.error(
            "upstream serves %s, not %r",
            ", ".join(printable_name(m.id) for m in served.data[:20]),
            model,
        )
        raise BackendDown(f"the backend does not serve {model!r}", "check the model's name")


def read_completion(data: bytes) -> ChatPiece:
    """Parse a completion. Raises BackendDown on any other body."""
    return _read(data, whole=True)


def read_event(data: bytes) -> ChatPiece:
    """Parse an event of a stream. Raises BackendDown on any other payload."""
    return _read(data, whole=False)


def require_same_model(piece: ChatPiece, answers_as: str) -> None:
    """Raise BackendDown on an error or on the answer of another model than `answers_as`.

    Raises FilteredDecline on an error that is a decline.
    """
    if piece.error is not None:
        raise stream_error(piece.error)
    # a decline without a choice may name no model
    if piece.model != answers_as and not (piece.declined and not piece.chosen):
        LOG.error(
            "upstream answers as %s, at start-up it was %r", printable_name(piece.model), answers_as
        )
        raise BackendDown(
            "the backend serves another model than at start-up", "restart once it is back"
        )


def first_token_logprobs(piece: ChatPiece) -> dict[str, float]:
    """Natural log-probabilities of the most probable first tokens, by token.

    Raises ScoreDoubt where there are none or one is invalid, FilteredDecline where the server
    declined instead.
    """
    try:
        listed = top_logprobs(piece, 0)
    except MalformedReply as e:
        LOG.error("upstream: %s", e)
        raise ScoreDoubt(
            "the backend's log-probabilities are no numbers", "look at its numerics"
        ) from None
    if not listed and piece.declined:
        raise FilteredDecline(piece.declined)
    if not listed:
        raise ScoreDoubt(
            "the backend reports no log-probabilities", "it needs logprobs and top_logprobs"
        )
    # Tokens may share a text. The list is sorted, and a dict keeps the last entry of a key, which
    # in reversed order is the most probable one.
    return dict(reversed(listed))


def finish_of_piece(chat: ChatPiece) -> Finish | None:
    """The finish of an answer, if this event ends it. Raises BackendDown as `finish_of`."""
    return FILTER if chat.declined and not chat.chosen else finish_of(chat.finish)


def sampling_fields(ask: ServeRequest) -> Mapping[str, Any]:
    """The sampling fields of a request, of those that every server knows."""
    s = ask.sampling
    fields: dict[str, Any] = {
        "max_tokens": s.max_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
    }
    # left out where they are not set: some servers reject null
    if s.seed is not None:
        fields["seed"] = s.seed
    if s.stop:
        fields["stop"] = list(s.stop)
    return fields


def _read(data: bytes, *, whole: bool) -> ChatPiece:
    try:
        return read_chat(parse_json(data), whole=whole)
    except MalformedReply as e:
        LOG.error("malformed answer from upstream: %d bytes, %s", len(data), e)
        raise BackendDown(
            "the backend sent what cannot be read", "the log of this server says more"
        ) from None
