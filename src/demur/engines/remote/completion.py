"""Parse a chat completion, or one event of its stream, into a `ChatPiece`.

1. `parse_json` turns bytes into a value, `read_chat` the value into text, thought, refusal, tool
   calls, finish reason, log-probabilities and token counts.
2. OpenAI's shape is read with the variants of other endpoints: content as a list of parts, thoughts
   in fields or parts of their own, no choices at all, finish reasons of other services.
3. A part of an unknown kind is ignored beside a known one; alone it makes the reply malformed,
   since an empty text would be counted as an answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from demur.engines.remote.declines import FILTER, NO_CHOICES, REFUSAL, decline_word, declined_error

# kinds of content parts by the field of ChatPiece that their text belongs to; the last: to none
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
# Google's way to say that a prompt was blocked, in the spellings of its two protocols
_BLOCKS = ("prompt_feedback", "promptFeedback")
_BLOCK_REASONS = ("block_reason", "blockReason")
# finish reasons of other services -> OpenAI's
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
# keys of which a completion has at least one
_BODIES = ("object", "model", "id", "usage", "choices", *_BLOCKS)


class MalformedReply(ValueError):
    """A reply is not a chat completion. The message names the fault and quotes nothing of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallPiece:
    """A tool call, or a piece of one: the pieces of a call share its index."""

    index: int | None = None  # None: some servers send whole calls without a number
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
    declined: str | None = None  # the reason, where the endpoint declined
    chosen: bool = False  # whether there was any choice
    places: tuple[Mapping[str, Any], ...] = ()  # logprobs.content
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: Any = None  # an error in the place of an answer; not a decline


def parse_json(data: bytes | str) -> Any:
    """Parse JSON. Raises MalformedReply on anything else, however deeply nested or long it is."""

    def constant(name: str) -> float:
        # -Infinity is a log-probability; NaN and Infinity mean nothing
        if name != "-Infinity":
            raise ValueError(name)
        return -math.inf

    try:
        return json.loads(data, parse_constant=constant)
    except (ValueError, RecursionError) as e:
        raise MalformedReply(f"no JSON ({type(e).__name__})") from None


def read_chat(value: Any, *, whole: bool = True) -> ChatPiece:
    """Read a parsed body. whole: a completion; else an event of a stream, which may lack choices.

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
    model, blocked = _text(value.get("model")), _blocked(value)
    if choices:
        piece = _choice(choices[0], model, blocked or decline_word(value.get("stop_reason")))
    else:
        piece = ChatPiece(model=model, declined=blocked or (NO_CHOICES if whole else None))
    usage = value.get("usage")
    counts: list[int | None] = []
    for name in ("prompt_tokens", "completion_tokens"):
        count = usage.get(name) if isinstance(usage, Mapping) else None
        # what no answer could hold is taken for a count that is missing
        counts.append(count if isinstance(count, int) and 0 <= count < 10**9 else None)
    return replace(piece, prompt_tokens=counts[0], completion_tokens=counts[1])


def top_logprobs(piece: ChatPiece, place: int) -> tuple[tuple[str, float], ...]:
    """(token, natural-log probability) of the most probable tokens at a position, as listed.

    place: position in the answer, from 0. Empty where none are listed. Raises MalformedReply on a
    log-probability that is invalid.
    """
    if place >= len(piece.places):
        return ()
    listed = piece.places[place].get("top_logprobs")
    if not isinstance(listed, list):
        return ()
    found = []
    for entry in listed:
        values = entry if isinstance(entry, Mapping) else {}
        token, logp = values.get("token"), values.get("logprob")
        if not isinstance(token, str) or not isinstance(logp, int | float):
            raise MalformedReply("a log-probability is no number")
        if math.isnan(logp) or logp == math.inf:
            raise MalformedReply("a log-probability is no number")
        found.append((token, float(logp)))
    return tuple(found)


def token_at(piece: ChatPiece, place: int) -> str:
    """The token that was generated at a position of the answer."""
    return _text(piece.places[place].get("token"))


def _choice(choice: Any, model: str, declined: str | None) -> ChatPiece:
    """A choice as a piece. declined: the reason, where the body says that it declined."""
    if not isinstance(choice, Mapping):
        raise MalformedReply(f"a choice is a {type(choice).__name__}")
    message = next(
        (choice[name] for name in _MESSAGES if isinstance(choice.get(name), Mapping)), None
    )
    if message is None:
        # a completion of the older protocol, unless a message is there in another form
        if any(choice.get(name) is not None for name in _MESSAGES):
            raise MalformedReply("a message is no object")
        message = {"content": choice.get("text")}
    text, refusal, thought = _content(message.get("content"))
    refusal += _text(message.get("refusal"))
    # endpoints fill several of these fields with the same thought: the first that has one counts
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


def _content(content: Any) -> tuple[str, str, str]:
    """(text, refusal, thought) of a message's content.

    Raises MalformedReply if the content holds parts and none of these three kinds.
    """
    if content is None or isinstance(content, str):
        return content or "", "", ""
    parts = content if isinstance(content, list) else [content]
    found, unknown = ["", "", ""], 0  # texts, refusals, thoughts
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
    """The text under the first of these names, also where it lies one object deeper."""
    for name in names:
        value = part.get(name)
        if isinstance(value, Mapping):
            value = value.get("value") or value.get("text")
        if isinstance(value, str):
            return value
    return ""


def _thought(value: Any, depth: int = 0) -> str:
    """The text of a thought: a string, a list of parts, or parts within a part."""
    if isinstance(value, str):
        return value
    if depth > 4:  # replies come from outside: no recursion without an end
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
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise MalformedReply("tool_calls is no list")
    if (older := message.get("function_call")) is not None:
        calls = [{"index": 0, "function": older}]
    return [_call(call) for call in calls or []]


def _call(call: Any) -> CallPiece:
    """One tool call, or a piece of it. Raises MalformedReply where it is no object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping | None):
        raise MalformedReply("a tool call is no object")
    function = function or {}
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):  # the protocol wants JSON text; some send the object
        arguments = json.dumps(arguments, ensure_ascii=False)
    index = call.get("index")
    return CallPiece(
        index=index if isinstance(index, int) else None,
        id=_text(call.get("id")) or None,
        name=_text(function.get("name")) or None,
        arguments=_text(arguments),
    )


def _places(logprobs: Any) -> tuple[Mapping[str, Any], ...]:
    """The entries of `logprobs.content`, one a generated token; empty where there are none."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return tuple(p for p in content if isinstance(p, Mapping)) if isinstance(content, list) else ()


def _blocked(value: Mapping[str, Any]) -> str | None:
    """Why a prompt was blocked, in the form of Google's API and of proxies in front of it."""
    for name in _BLOCKS:
        feedback = value.get(name)
        for key in _BLOCK_REASONS:
            reason = feedback.get(key) if isinstance(feedback, Mapping) else None
            if isinstance(reason, str) and reason:
                return f"blocked: {decline_word(reason) or 'other'}"
    return None


def _text(value: Any) -> str:
    """The value if it is a text, else an empty text."""
    return value if isinstance(value, str) else ""
