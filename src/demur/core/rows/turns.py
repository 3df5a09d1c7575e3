"""Reading turns of a conversation as OpenAI, ShareGPT, TRL and others write them, into demur's
messages.

1. Roles have many names: `human` is the user, `gpt` and `model` the assistant, `developer` the
   system.
2. Content is a text or a list of parts; only text parts can be read.
3. A tool call becomes the text `name(arguments)` of the assistant, a tool's result a turn of the
   user's side, as the server does with its requests: a model must see in training what it will see
   in service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

from demur.base.errors import DataError
from demur.core.example import Message

_Side = Literal["system", "user", "assistant", "tool"]

_SIDES: Mapping[str, _Side] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "ai", "bot", "chatbot"), "assistant"),
    # ShareGPT: the call itself, in words
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response"), "tool"),
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHTS = ("thinking", "reasoning", "redacted_thinking")  # parts that were never said to the user


def tool_call_text(name: str, arguments: str) -> str:
    """A tool call as the text that stands for it in a past turn of the assistant."""
    return f"{name}({arguments})"


def tool_result_text(name: str, result: str) -> str:
    """A tool's result as the text of the turn that stands for it."""
    return f"{name} returned:\n{result}"


def read_turns(value: Sequence[Any], key: str) -> tuple[Message, ...]:
    """Read a list of turns. An empty system turn, and an empty last answer, are none.

    key: names the list in errors. Raises DataError naming the turn and what is wrong with it.
    """
    called: dict[str, str] = {}  # tool call id -> function
    found: list[Message] = []
    for n, turn in enumerate(value):
        at = f"{key}.{n}"
        if not isinstance(turn, Mapping):
            raise DataError(
                f"{at}: {turn!r:.60} is not a turn", 'a turn is {"role": ..., "content": ...}'
            )
        side = _side(turn, at)
        text = _said(turn, side, called, at)
        if side == "user" and not (text or "").strip():
            raise DataError(f"{at}.content: the user's turn is blank", "drop the turn, or the row")
        if side == "assistant" and n < len(value) - 1:
            text = text or ""  # an empty past answer is one; an empty last one is no reply to learn
        if text is not None and (side != "system" or text.strip()):
            found.append(Message(role="user" if side == "tool" else side, content=text))
    return tuple(found)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is a list or a tuple; texts and bytes are sequences too."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def check_text(text: str, key: str) -> str:
    """Return the text. Raises DataError if it holds what no request can: U+0000, or half of a
    character.
    """
    if "\0" in text:
        raise DataError(
            f"{key}: the text holds the character U+0000", "take it out: requests cannot hold it"
        )
    half = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
    if half is not None:
        what = f"half of a character, \\u{ord(half):04x}"
        raise DataError(
            f"{key}: the text holds {what}",
            "the text was cut inside an emoji or the like: mend the row",
        )
    return text


def read_content(value: object, key: str) -> str | None:
    """Read content: a text, or a list of text parts, which become lines; None if nothing is there.

    Raises DataError on parts that are no text, and on other values.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return check_text(value, key)
    if is_list(value):
        parts = [_part(part, f"{key}.{n}") for n, part in enumerate(value)]
        said = [p for p in parts if p is not None]
        return "\n".join(said) if said else None
    raise DataError(
        f"{key}: {value!r:.60} is not a text", "content is a text, or a list of text parts"
    )


def _side(turn: Mapping[str, Any], at: str) -> _Side:
    role = turn.get("role") or turn.get("from")
    side = _SIDES.get(str(role).strip().lower())
    if side is None:
        known = "system, developer, user, human, assistant, gpt, tool"
        raise DataError(
            f"{at}.role: {role!r} is an unknown role", f"known are {known} and a few more"
        )
    return side


def _said(turn: Mapping[str, Any], side: _Side, called: dict[str, str], at: str) -> str | None:
    """The text of a turn; None if it is empty. Records in `called` which functions were called."""
    raw = next((turn[k] for k in ("content", "value", "text") if turn.get(k) is not None), None)
    text = read_content(raw, f"{at}.content")
    if side == "tool":
        # the call that this result answers: by its id, by its own name, else the latest call
        name = (
            called.get(str(turn.get("tool_call_id")))
            or turn.get("name")
            or next(reversed(called.values()), "tool")
        )
        return tool_result_text(str(name), text or "")
    if side != "assistant":
        return text
    refusal = read_content(turn.get("refusal"), f"{at}.refusal")
    said = [t for t in (text, refusal) if t is not None and t.strip()]
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if not is_list(calls):
        raise DataError(
            f"{at}.tool_calls: {calls!r:.60} is not a list of calls",
            'a call has {"function": {"name"}}',
        )
    said += [_call(call, called, f"{at}.tool_calls.{n}") for n, call in enumerate(calls)]
    return "\n".join(said) if said else None


def _call(call: object, called: dict[str, str], at: str) -> str:
    function = call.get("function") or call if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(
            f"{at}: {call!r:.60} is not a tool call",
            'a call has {"function": {"name", "arguments"}}',
        )
    name, arguments = function["name"], function.get("arguments")
    called[str(call.get("id")) if isinstance(call, Mapping) else name] = name
    as_text = "" if arguments is None else arguments
    as_text = as_text if isinstance(as_text, str) else json.dumps(as_text, ensure_ascii=False)
    return check_text(tool_call_text(name, as_text), at)


def _part(part: object, key: str) -> str | None:
    """The text of a part; None if it is a thought. Raises DataError if it is no text."""
    if isinstance(part, str):
        return check_text(part, key)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in _THOUGHTS:
        return None
    if (
        isinstance(part, Mapping)
        and kind in (*_TEXT_PARTS, None)
        and isinstance(part.get("text"), str)
    ):
        return check_text(part["text"], key)
    if isinstance(part, Mapping) and kind == "refusal" and isinstance(part.get("refusal"), str):
        return check_text(part["refusal"], key)
    what = f"a part of type {kind!r}" if kind else f"{part!r:.60}"
    raise DataError(
        f"{key}: {what} cannot be read: text only", "drop the row, or keep its text parts alone"
    )
