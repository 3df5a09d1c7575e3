"""Tool calls by any engine that can hold an answer to a JSON schema, decided first and called
afterwards.

The functions are described in the system message, as text like any other, and a call is one object
that we read: {"name": a function's name, "arguments": what its own schema allows}. OpenAI's shape
is made of that. Where the choice is the model's it writes freely at first: an answer that begins
with a brace is a call, and is written again under the schema; anything else is text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

from demur.base.errors import BackendDown, EngineError
from demur.core.example import Message
from demur.core.ports import Prompt
from demur.core.serving import Ask, Part

Schema = Mapping[str, Any]
Mode = Literal["none", "auto", "call"]  # no call; text or a call; a call

_BRACE = "{"  # what a call begins with, and text is not taken to
_WORDS = (
    "You can call one of these functions. To call it, answer with one JSON object and nothing "
    "else: "
    '{"name": the name of the function, "arguments": an object that fits its parameters}.'
)


class PartStream(Protocol):
    """The parts of an answer, which can be closed early."""

    def __aiter__(self) -> PartStream: ...

    async def __anext__(self) -> Part: ...

    async def aclose(self) -> None:
        """Stop writing."""
        ...


def mode_of(ask: Ask) -> Mode:
    """What may be called. Raises EngineError for an unknown function, or a schema that a call could
    be taken for.
    """
    if not ask.tools or ask.tool_choice == "none":
        return "none"
    if ask.tool_choice not in (None, "auto"):
        _chosen(ask)
        return "call"
    if ask.json_schema is not None:
        raise EngineError(
            "a JSON answer cannot be told from a call where the model may choose",
            'leave out response_format, or set tool_choice to "required", to a function or to '
            '"none"',
        )
    return "auto"


def with_tools(ask: Ask) -> Prompt:
    """The conversation with the functions described in its system message."""
    text = "\n".join([_WORDS, *(json.dumps(f, ensure_ascii=False) for f in _chosen(ask))])
    first, *rest = ask.messages
    if first.role == "system":
        return (Message(role="system", content=f"{first.content}\n\n{text}"), *rest)
    return (Message(role="system", content=text), *ask.messages)


def call_schema(ask: Ask) -> Schema:
    """What a call of one of the functions is written under."""
    return {
        "anyOf": [
            _call_schema(f, f"#/anyOf/{at}/properties/arguments")
            for at, f in enumerate(_chosen(ask))
        ]
    }


async def text_or_call(
    ask: Ask, mode: Mode, write: Callable[[Schema | None], Awaitable[PartStream]]
) -> PartStream:
    """The answer to a conversation `with_tools`. write: begins an answer, under a schema or
    freely.
    """
    if mode == "auto":
        text = await write(None)
        try:
            first = await _begun(text)
        except BaseException:
            await text.aclose()
            raise
        if not first.text.lstrip().startswith(_BRACE):
            return _Resumed(first, text)
        await text.aclose()
    return ToolCallStream(await write(call_schema(ask)))


class ToolCallStream:
    """One part with the call; without it when the answer was cut short, for then it is no JSON."""

    def __init__(self, parts: PartStream) -> None:
        self._parts = parts
        self._ended = False

    def __aiter__(self) -> ToolCallStream:
        return self

    async def __anext__(self) -> Part:
        if self._ended:
            raise StopAsyncIteration
        self._ended = True
        whole = Part()
        async for part in self._parts:
            whole = _joined(whole, part)
        if whole.finish != "stop" or whole.refusal:  # cut short, or declined by the model behind
            return replace(whole, text="")
        return Part(tokens=whole.tokens, finish="tool_calls", tool_calls=(_call(whole.text),))

    async def aclose(self) -> None:
        """Stop writing."""
        self._ended = True
        await self._parts.aclose()


class _Resumed:
    """Parts whose first one was looked at already."""

    def __init__(self, first: Part, parts: PartStream) -> None:
        self._first: Part | None = first
        self._parts = parts

    def __aiter__(self) -> _Resumed:
        return self

    async def __anext__(self) -> Part:
        if self._first is not None:
            part, self._first = self._first, None
            return part
        return await anext(self._parts)

    async def aclose(self) -> None:
        """Stop writing."""
        await self._parts.aclose()


async def _begun(parts: PartStream) -> Part:
    """What comes up to the first visible character, as one part."""
    first = await anext(parts)
    while not first.text.strip() and not first.refusal and first.finish is None:
        first = _joined(first, await anext(parts))
    return first


def _joined(left: Part, right: Part) -> Part:
    return replace(
        right,
        text=left.text + right.text,
        refusal=left.refusal + right.refusal,
        thought=left.thought + right.thought,
        tokens=left.tokens + right.tokens,
    )


def _chosen(ask: Ask) -> list[Mapping[str, Any]]:
    functions = [tool["function"] for tool in ask.tools]
    chosen = [f for f in functions if ask.tool_choice in (None, "auto", "required", f["name"])]
    if not chosen:
        names = ", ".join(str(f["name"]) for f in functions)
        raise EngineError(
            f"tool_choice names {ask.tool_choice!r}, which is no function here", f"known: {names}"
        )
    return chosen


def _call_schema(function: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A call of one function. place: where its parameters stand in the whole, so that their
    references lead there.
    """
    arguments = function.get("parameters") or {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": _moved(arguments, place)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _is_local(name: str, item: Any) -> bool:
    """Whether this refers to a place in the same schema."""
    return name == "$ref" and isinstance(item, str) and item.startswith("#")


def _moved(schema: Any, place: str) -> Any:
    """A schema that became a part of another: what referred to its root refers to its new place."""
    if isinstance(schema, Mapping):
        return {
            name: place + item[1:] if _is_local(name, item) else _moved(item, place)
            for name, item in schema.items()
        }
    return [_moved(item, place) for item in schema] if isinstance(schema, list | tuple) else schema


def _call(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        function = {
            "name": value["name"],
            "arguments": json.dumps(value["arguments"], ensure_ascii=False),
        }
    except (ValueError, KeyError, TypeError):
        raise BackendDown(
            "the backend did not keep to the grammar of a tool call",
            "does it support JSON schemas?",
        ) from None
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
