"""One chat completion, or one event of its stream, read: answer, thought, refusal, calls, and
whether it declined.

OpenAI's shape and what endpoints make of it: content as a list of parts, thoughts in fields or
parts of their own, no choices at all, finish reasons of other services. Everything that asks an
endpoint reads its replies here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demur.engines.remote.declines import FILTER, NO_CHOICES, REFUSAL, decline_word, declined_error

_TEXT_PARTS = ("text", "output_text", "input_text")
_THOUGHT_PARTS = (
    "thinking",
    "reasoning",
    "reasoning_text",
    "reasoning.text",
    "reasoning_content",
    "thought",
)
_SILENT_PARTS = (
    "redacted_thinking",
    "reasoning.encrypted",
    "reasoning.summary",
    "tool_use",
    "step-start",
)
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_BLOCKS = ("prompt_feedback", "promptFeedback")
_BLOCK_REASONS = ("block_reason", "blockReason")
_FINISHES = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
}
_MESSAGES = ("message", "delta")
# what tells a completion from any other object
_BODIES = ("object", "model", "id", "usage", "choices", *_BLOCKS)


class MalformedReply(ValueError):
    """What came is no chat completion. The message names the fault, never what was said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallPiece:
    """A tool call, or a piece of one: the pieces of a call share its index."""

    index: int | None = None  # some servers send whole calls, and number none
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatPiece:
    """A whole completion, or one event of a stream."""

    model: str = ""
    text: str = ""
    refusal: str = ""  # the model's own, where it has a field or part of its own
    thought: str = ""  # where it has a field or part of its own
    calls: tuple[CallPiece, ...] = ()
    finish: str | None = None  # in OpenAI's words where they are known
    declined: str | None = None  # why, where the endpoint says that it declined
    chosen: bool = False  # whether there was a choice at all
    places: tuple[Mapping[str, Any], ...] = ()  # logprobs.content
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: Any = None  # an error in the place of an answer; not a decline


def parse_json(data: bytes | str) -> Any:
    """JSON, parsed. Raises MalformedReply on anything else, however deep or long it is."""
    try:
        return json.loads(data, parse_constant=_constant)
    except (ValueError, RecursionError) as e:
        raise MalformedReply(f"no JSON ({type(e).__name__})") from None


def read_chat(value: Any, *, whole: bool = True) -> ChatPiece:
    """A parsed body as a piece. whole: a completion; else an event of a stream, which may well have
    no choices.

    Raises MalformedReply where it is neither a completion nor an error.
    """
    if not isinstance(value, Mapping):
        raise MalformedReply(f"a {type(value).__name__} in the place of an object")
    if (error := value.get("error")) is not None:
        declined = declined_error(error)
        return ChatPiece(
            model=_text(value.get("model")), error=None if declined else error, declined=declined
        )
    choices = value.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise MalformedReply(f"choices is a {type(choices).__name__}")
    if whole and not any(name in value for name in _BODIES):
        raise MalformedReply("an object that is no completion")
    prompt_tokens, completion_tokens = _usage(value.get("usage"))
    model, blocked = _text(value.get("model")), _blocked(value)
    if not choices:
        declined = blocked or (NO_CHOICES if whole else None)
        return ChatPiece(
            model=model,
            declined=declined,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )
    piece = _choice(choices[0], model, blocked or decline_word(value.get("stop_reason")))
    return _counted(piece, prompt_tokens, completion_tokens)


def top_logprobs(piece: ChatPiece, place: int) -> tuple[tuple[str, float], ...]:
    """(token, natural-log probability) of the most probable tokens in a place, as listed; empty
    where none are.

    Raises MalformedReply on what is no probability.
    """
    if place >= len(piece.places):
        return ()
    listed = piece.places[place].get("top_logprobs")
    if not isinstance(listed, list):
        return ()
    return tuple(_logprob(entry) for entry in listed)


def token_at(piece: ChatPiece, place: int) -> str:
    """The token that was generated in a place."""
    return _text(piece.places[place].get("token"))


def _logprob(entry: Any) -> tuple[str, float]:
    token, logp = (
        (entry.get("token"), entry.get("logprob")) if isinstance(entry, Mapping) else (None, None)
    )
    if (
        not isinstance(token, str)
        or not isinstance(logp, int | float)
        or math.isnan(logp)
        or logp == math.inf
    ):
        raise MalformedReply("a log-probability is no number")
    return token, float(logp)


def _constant(name: str) -> float:
    """-Infinity is a log-probability; NaN and Infinity are nothing."""
    if name != "-Infinity":
        raise ValueError(name)
    return -math.inf


def _choice(choice: Any, model: str, declined: str | None) -> ChatPiece:
    if not isinstance(choice, Mapping):
        raise MalformedReply(f"a choice is a {type(choice).__name__}")
    message = next(
        (choice[name] for name in _MESSAGES if isinstance(choice.get(name), Mapping)), None
    )
    if message is None:
        if any(choice.get(name) is not None for name in _MESSAGES):
            raise MalformedReply("a message is no object")
        message = {"content": choice.get("text")}
    text, refusal, thought = _content(message.get("content"))
    refusal += _text(message.get("refusal"))
    apart = next((t for name in _THOUGHT_FIELDS if (t := _thought(message.get(name)))), "")
    raw = choice.get("finish_reason")
    why = decline_word(raw) or decline_word(choice.get("stop_reason")) or declined
    finish = FILTER if why else _FINISHES.get(raw, raw) if isinstance(raw, str) else None
    return ChatPiece(
        model=model,
        text=text,
        refusal=refusal,
        thought=apart + thought,
        calls=tuple(_calls(message)),
        finish=finish,
        declined=why or (REFUSAL if refusal else None),
        chosen=True,
        places=_places(choice.get("logprobs")),
    )


def _counted(
    piece: ChatPiece, prompt_tokens: int | None, completion_tokens: int | None
) -> ChatPiece:
    return ChatPiece(
        **{
            name: getattr(piece, name)
            for name in ChatPiece.__slots__
            if not name.endswith("_tokens")
        },
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )


def _content(content: Any) -> tuple[str, str, str]:
    """(text, refusal, thought) of a message's content.

    Raises MalformedReply if the content holds parts and none of these three kinds.
    """
    if content is None or isinstance(content, str):
        return content or "", "", ""
    parts = content if isinstance(content, list) else [content]
    found, unknown = ["", "", ""], 0
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            found[0] += part
        elif kind == "refusal":
            found[1] += _inner(part, "refusal", "text")
        elif kind in _THOUGHT_PARTS:
            found[2] += _thought(part)
        elif kind in _TEXT_PARTS or (kind is None and isinstance(part, Mapping) and "text" in part):
            found[0] += _inner(part, "text", "content")
        else:
            unknown += kind not in _SILENT_PARTS
    if unknown and not any(found):
        raise MalformedReply(f"the content is no text: {unknown} parts of other kinds")
    return found[0], found[1], found[2]


def _inner(part: Mapping[str, Any], *names: str) -> str:
    """The text of a part, also where it lies one object deeper."""
    for name in names:
        value = part.get(name)
        if isinstance(value, Mapping):
            value = value.get("value") or value.get("text")
        if isinstance(value, str):
            return value
    return ""


def _thought(value: Any, depth: int = 0) -> str:
    """The text of a thought, however it is packed: a string, parts, or parts within a part."""
    if isinstance(value, str):
        return value
    if depth > 4:
        return ""
    if isinstance(value, Sequence):
        return "".join(_thought(v, depth + 1) for v in value)
    if isinstance(value, Mapping):
        names = ("thinking", "reasoning", "text", "content", "summary")
        return next((t for n in names if (t := _thought(value.get(n), depth + 1))), "")
    return ""


def _calls(message: Mapping[str, Any]) -> list[CallPiece]:
    """The tool calls of a message, or the one function call of the older protocol.

    Raises MalformedReply on values of another type in their place.
    """
    given = message.get("tool_calls")
    if given is not None and not isinstance(given, list):
        raise MalformedReply("tool_calls is no list")
    whole = (
        [{"index": 0, "function": old}]
        if (old := message.get("function_call")) is not None
        else (given or [])
    )
    return [_call(call) for call in whole]


def _call(call: Any) -> CallPiece:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping | None):
        raise MalformedReply("a tool call is no object")
    function = function or {}
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    index = call.get("index")
    return CallPiece(
        index=index if isinstance(index, int) else None,
        id=_text(call.get("id")) or None,
        name=_text(function.get("name")) or None,
        arguments=_text(arguments),
    )


def _places(logprobs: Any) -> tuple[Mapping[str, Any], ...]:
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return tuple(p for p in content if isinstance(p, Mapping)) if isinstance(content, list) else ()


def _blocked(value: Mapping[str, Any]) -> str | None:
    """Why a prompt was blocked, as Google's API and those in front of it say it."""
    for name in _BLOCKS:
        feedback = value.get(name)
        told = [feedback.get(n) for n in _BLOCK_REASONS] if isinstance(feedback, Mapping) else []
        if reason := next((r for r in told if isinstance(r, str) and r), None):
            return f"blocked: {decline_word(reason) or 'other'}"
    return None


def _usage(usage: Any) -> tuple[int | None, int | None]:
    given = usage if isinstance(usage, Mapping) else {}
    counts = [given.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (n if isinstance(n, int) and 0 <= n < 10**9 else None for n in counts)
    return prompt, completion


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
