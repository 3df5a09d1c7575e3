"""Tool calls and JSON answers on a server that need not know of either: a grammar over one object that we read.

The functions are described in the system message, as text like any other, and the answer must fit a JSON schema:
{"name": a function's name, "arguments": what its own schema allows}. OpenAI's shape is made of that.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from demur.core.errors import BackendDown, EngineError
from demur.core.example import Message
from demur.core.ports import Prompt
from demur.core.serving import Ask, Part
from demur.engines.gateway_parts import Parts, collected

_WORDS = (
    "You can call one of these functions. To call it, answer with one JSON object and nothing else: "
    '{"name": the name of the function, "arguments": an object that fits its parameters}.'
)


def wants_call(ask: Ask) -> bool:
    """Whether the answer must be a tool call. Raises EngineError where the choice is left to the model, or unknown."""
    if not ask.tools or ask.tool_choice == "none":
        return False
    if ask.tool_choice in (None, "auto"):
        raise EngineError(
            "this backend cannot leave it to the model whether to call a tool",
            'set tool_choice to "required" or to a function, or to "none"',
        )
    _chosen(ask)
    return True


def response_format(ask: Ask, *, call: bool) -> dict[str, Any] | None:
    """What the answer must look like, in the words of OpenAI's protocol; None: anything."""
    if call:
        return _format({"anyOf": [_call_schema(f) for f in _chosen(ask)]})
    if ask.json_schema is None:
        return None
    return _format(ask.json_schema) if ask.json_schema else {"type": "json_object"}


def with_tools(ask: Ask) -> Prompt:
    """The conversation with the functions described in its system message."""
    text = "\n".join([_WORDS, *(json.dumps(f, ensure_ascii=False) for f in _chosen(ask))])
    first, *rest = ask.messages
    if first.role == "system":
        return (Message(role="system", content=f"{first.content}\n\n{text}"), *rest)
    return (Message(role="system", content=text), *ask.messages)


class CallParts:
    """One part with the call; without it when the answer was cut short, for then it is no JSON."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ended = False

    def __aiter__(self) -> CallParts:
        return self

    async def __anext__(self) -> Part:
        if self._ended:
            raise StopAsyncIteration
        self._ended = True
        text, tokens, finish = await collected(self._parts)
        if finish == "length":
            return Part(tokens=tokens, finish="length")
        return Part(tokens=tokens, finish="tool_calls", tool_calls=(_call(text),))

    async def aclose(self) -> None:
        """Hang up."""
        await self._parts.aclose()


def _chosen(ask: Ask) -> list[Mapping[str, Any]]:
    functions = [tool["function"] for tool in ask.tools]
    chosen = [f for f in functions if ask.tool_choice in ("required", f["name"])]
    if not chosen:
        names = ", ".join(str(f["name"]) for f in functions)
        raise EngineError(f"tool_choice names {ask.tool_choice!r}, which is no function here", f"known: {names}")
    return chosen


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _call(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        function = {"name": value["name"], "arguments": json.dumps(value["arguments"], ensure_ascii=False)}
    except (ValueError, KeyError, TypeError):
        raise BackendDown(
            "the backend did not keep to the grammar of a tool call", "does it support JSON schemas?"
        ) from None
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
