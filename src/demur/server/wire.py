"""What a request may say. A field that is not here is refused: it could move the decision, or look behind it.

Strict: a number in quotes is no number. None stands for a field that was left out, as OpenAI's clients send it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from demur.core.access import PolicyAsk
from demur.core.policy import NEVER
from demur.server.errors import ApiError

SIGNED_64 = 2**63
MOST_FAULTS = 1000  # to look through for the one to name: a small body can hold half a million of them


class Wire(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def plain(value: Any) -> Any:
    """The value itself. Raises ValueError on text with NUL, which some back ends end a string at, and odd numbers."""
    match value:
        case str():
            if "\0" in value:
                raise ValueError("it contains the character U+0000")
        case dict():
            for key, item in value.items():
                plain(key)
                plain(item)
        case list() | tuple():
            for item in value:
                plain(item)
        case int() | float():
            if not math.isfinite(value) or abs(value) >= SIGNED_64:
                raise ValueError("it contains a number that does not fit 64 bits")
    return value


Text = Annotated[str, AfterValidator(plain)]
Schema = Annotated[dict[str, Any], AfterValidator(plain)]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# JSON has no infinity: "never" is the threshold that nothing reaches, as in a policy file.
Threshold = Annotated[float, Field(ge=0)] | Literal["never"]


class TextPart(Wire):
    """A piece of a message. There is no other kind: images, sound and files are refused."""

    type: Literal["text"]
    text: Text


class RefusalPart(Wire):
    """A piece of an earlier answer that was a refusal."""

    type: Literal["refusal"]
    refusal: Text


Content = Text | Annotated[tuple[TextPart, ...], Field(min_length=1, fail_fast=True)]
PastContent = Text | Annotated[tuple[TextPart | RefusalPart, ...], Field(min_length=1, fail_fast=True)]


class SystemMessage(Wire):
    """The application's instructions."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(Wire):
    """What the user said."""

    role: Literal["user"]
    content: Content


class CalledFunction(Wire):
    """Name and arguments of an earlier call."""

    name: FunctionName
    arguments: Text


class ToolCall(Wire):
    """An earlier call, as an answer of ours carried it."""

    id: Annotated[Text, Field(min_length=1, max_length=256)]
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Wire):
    """An earlier answer, as clients send it back."""

    role: Literal["assistant"]
    content: PastContent | None = None
    refusal: Text | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(min_length=1, fail_fast=True)] | None = None
    annotations: Annotated[tuple[Any, ...], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Wire):
    """What a called function returned."""

    role: Literal["tool"]
    tool_call_id: Annotated[Text, Field(min_length=1, max_length=256)]
    content: Content


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class StreamOptions(Wire):
    """How to stream."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class PlainFormat(Wire):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class NamedSchema(Wire):
    """A JSON schema that the answer must fit."""

    name: FunctionName
    schema_: Annotated[Schema, Field(alias="schema")]
    description: Text | None = None
    strict: bool | None = None


class SchemaFormat(Wire):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class FunctionDeclaration(Wire):
    """A function that the model may call."""

    name: FunctionName
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Wire):
    """A tool. There is no kind but functions."""

    type: Literal["function"]
    function: FunctionDeclaration


class ChosenFunction(Wire):
    """The function that must be called."""

    name: FunctionName


class ToolChoice(Wire):
    """A call that is asked for by name."""

    type: Literal["function"]
    function: ChosenFunction


class DemurAsk(Wire):
    """The "demur" object: which policy, and what of it to change. See demur.core.access for what wins."""

    policy: Text | None = None
    sensitivity: Text | None = None
    rates: dict[Text, Annotated[float, Field(ge=0, le=1)]] = {}
    thresholds: dict[Text, Threshold] = {}

    def to_core(self) -> PolicyAsk:
        """The core record."""
        thresholds = {c: NEVER if isinstance(t, str) else t for c, t in self.thresholds.items()}
        return PolicyAsk(policy=self.policy, sensitivity=self.sensitivity, rates=self.rates, thresholds=thresholds)


StopText = Annotated[Text, Field(min_length=1, max_length=256)]


class ChatRequest(Wire):
    """POST /v1/chat/completions."""

    model: Annotated[Text, Field(max_length=256)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-SIGNED_64, lt=SIGNED_64)] | None = None
    stop: StopText | Annotated[tuple[StopText, ...], Field(max_length=4, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[tuple[Tool, ...], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    demur: DemurAsk | None = None
    # Sent by some clients for their own books. Nothing is made of them.
    user: Annotated[Text, Field(max_length=512)] | None = None
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = None
    # Only in the form in which they change nothing.
    store: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None


_OFF = {"store", "logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "audio", "function_call"}


def parse_chat(body: bytes) -> ChatRequest:
    """The request in a body. Raises ApiError 400 naming the first field at fault; its value is never repeated."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as e:
        if e.error_count() > MOST_FAULTS:
            raise ApiError(400, f"The request has {e.error_count()} faults.", code="invalid_value") from None
        faults = e.errors(include_url=False, include_context=False, include_input=False)
    unknown = next((f for f in faults if f["type"] == "extra_forbidden"), None)
    # Of a union every member complains: the one that got furthest into the value is the one that was meant.
    same_field = [f for f in faults if f["loc"][:1] == faults[0]["loc"][:1]]
    raise _refusal(unknown or max(same_field, key=lambda f: len(f["loc"])))


def _refusal(fault: ErrorDetails) -> ApiError:
    param = _param(fault["loc"])
    if fault["type"] == "extra_forbidden":
        return ApiError(
            400, f"Unsupported parameter: {param!r}. Leave it out.", code="unsupported_parameter", param=param
        )
    if not param:
        return ApiError(400, "The body is not a JSON object that can be read.", code="invalid_json")
    if str(fault["loc"][-1]) in _OFF or param.split(".")[0] in _OFF:
        return ApiError(400, f"{param!r} cannot be used here. Leave it out.", code="unsupported_value", param=param)
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return ApiError(400, f"Invalid {param!r}: {fault['msg'][:200]}.", code=code, param=param)


def _param(loc: tuple[int | str, ...]) -> str:
    """A place in the request as OpenAI writes it, "messages[0].content", without pydantic's names of union members."""
    path = ""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (_is_member(part) or (loc[0] == "messages" and at == 2) or (loc[0] == "response_format" and at == 1)):
            path += f".{part}" if path else part
    return path[:200]


def _is_member(part: str) -> bool:
    return (
        part in ("str", "constrained-float", "ToolChoice", "TextPart", "RefusalPart")
        or "[" in part
        or "function-after" in part
    )
