"""Tool calls by any engine that can hold an answer to a JSON schema.

1. The policy decides on the conversation without the functions.
2. The functions are described in the system message, as text like any other.
3. A call is one JSON object, {"name": a function's name, "arguments": what its schema allows},
   written under a schema and translated to OpenAI's form.
4. With tool_choice "auto" the model writes freely at first. An answer that begins with a brace is a
   call, and is written again under the schema; any other answer is text.
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
from demur.core.serving import AnswerPart, ServeRequest

Schema = Mapping[str, Any]
Mode = Literal["none", "auto", "call"]  # no call; text or a call; a call

_BRACE = "{"  # the first character of a call; an answer that begins otherwise is text
_WORDS = (
    "You can call one of these functions. To call it, answer with one JSON object and nothing "
    "else: "
    '{"name": the name of the function, "arguments": an object that fits its parameters}.'
)


class PartStream(Protocol):
    """Parts of an answer in order; an async iterator that can be closed early."""

    def __aiter__(self) -> PartStream: ...

    async def __anext__(self) -> AnswerPart: ...

    async def aclose(self) -> None:
        """Stop writing the answer."""
        ...


def mode_of(ask: ServeRequest) -> Mode:
    """Mode of a request: no call, text or a call, or a call.

    Raises EngineError for an unknown function, and for a response schema where the model may
    choose: its JSON could not be told from a call.
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


def with_tools(ask: ServeRequest) -> Prompt:
    """Describe a request's functions in the system message of its conversation."""
    text = "\n".join([_WORDS, *(json.dumps(f, ensure_ascii=False) for f in _chosen(ask))])
    first, *rest = ask.messages
    if first.role == "system":
        return (Message(role="system", content=f"{first.content}\n\n{text}"), *rest)
    return (Message(role="system", content=text), *ask.messages)


def call_schema(ask: ServeRequest) -> Schema:
    """JSON schema of a call of one of the request's functions."""
    return {
        "anyOf": [
            _call_schema(f, f"#/anyOf/{at}/properties/arguments")
            for at, f in enumerate(_chosen(ask))
        ]
    }


async def text_or_call(
    ask: ServeRequest, mode: Mode, write: Callable[[Schema | None], Awaitable[PartStream]]
) -> PartStream:
    """Answer a conversation `with_tools` by text or by a call.

    write: begins an answer, under a schema or freely.
    """
    if mode == "auto":
        text = await write(None)
        try:
            # Collect parts up to the first visible character: white space may precede the brace.
            first = await anext(text)
            while not (first.text.strip() or first.refusal or first.stop or first.finish):
                first = _joined(first, await anext(text))
        except BaseException:
            await text.aclose()
            raise
        if first.stop or not first.text.lstrip().startswith(_BRACE):
            return _Resumed(first, text)
        await text.aclose()
    return ToolCallStream(await write(call_schema(ask)))


class ToolCallStream:
    """One part with the tool call; an answer that was cut short is no JSON and gives no call."""

    def __init__(self, parts: PartStream) -> None:
        self._parts = parts
        self._ended = False

    def __aiter__(self) -> ToolCallStream:
        return self

    async def __anext__(self) -> AnswerPart:
        if self._ended:
            raise StopAsyncIteration
        self._ended = True
        whole = AnswerPart()
        async for part in self._parts:
            whole = _joined(whole, part)
        # cut short, declined by the model behind, or stopped by the policy's monitor
        if whole.finish != "stop" or whole.refusal or whole.stop:
            return replace(whole, text="")
        return AnswerPart(tokens=whole.tokens, finish="tool_calls", tool_calls=(_call(whole.text),))

    async def aclose(self) -> None:
        """Stop writing the answer."""
        self._ended = True
        await self._parts.aclose()


class _Resumed:
    """A first part that was read already, then the rest of its stream."""

    def __init__(self, first: AnswerPart, parts: PartStream) -> None:
        self._first: AnswerPart | None = first
        self._parts = parts

    def __aiter__(self) -> _Resumed:
        return self

    async def __anext__(self) -> AnswerPart:
        if self._first is not None:
            part, self._first = self._first, None
            return part
        return await anext(self._parts)

    async def aclose(self) -> None:
        """Stop writing the answer."""
        await self._parts.aclose()


def _joined(left: AnswerPart, right: AnswerPart) -> AnswerPart:
    """Concatenate two successive parts; everything but texts, tokens and a stop is the later
    one's.
    """
    return replace(
        right,
        text=left.text + right.text,
        refusal=left.refusal + right.refusal,
        thought=left.thought + right.thought,
        tokens=left.tokens + right.tokens,
        stop=left.stop or right.stop,
    )


def _chosen(ask: ServeRequest) -> list[Mapping[str, Any]]:
    """Functions that tool_choice allows. Raises EngineError if it names an unknown one."""
    functions = [tool["function"] for tool in ask.tools]
    chosen = [f for f in functions if ask.tool_choice in (None, "auto", "required", f["name"])]
    if not chosen:
        names = ", ".join(str(f["name"]) for f in functions)
        raise EngineError(
            f"tool_choice names {ask.tool_choice!r}, which is not among the tools",
            f"known: {names}",
        )
    return chosen


def _call_schema(function: Mapping[str, Any], place: str) -> dict[str, Any]:
    """JSON schema of a call of one function.

    place: JSON pointer to its parameters in the whole schema, for their own references.
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


def _moved(schema: Any, place: str) -> Any:
    """Copy a schema for another one's `place`: references to its root ("#...") point there."""
    if isinstance(schema, Mapping):
        moved = {}
        for name, item in schema.items():
            local = name == "$ref" and isinstance(item, str) and item.startswith("#")
            moved[name] = place + item[1:] if local else _moved(item, place)
        return moved
    return [_moved(item, place) for item in schema] if isinstance(schema, list | tuple) else schema


def _call(text: str) -> dict[str, Any]:
    """OpenAI's form of a call. Raises BackendDown if the backend ignored the schema."""
    try:
        value = json.loads(text)
        function = {
            "name": value["name"],
            "arguments": json.dumps(value["arguments"], ensure_ascii=False),
        }
    except (ValueError, KeyError, TypeError):
        raise BackendDown(
            "the backend wrote a tool call that does not follow its schema",
            "does it support JSON schemas?",
        ) from None
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
