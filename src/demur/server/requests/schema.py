"""What a request may say. A field that is neither here nor in demur.server.requests.ignored is
refused.

Strict: a number in quotes is no number. Null stands for a field that was left out, whatever its
name, as OpenAI's clients send it.
"""

from __future__ import annotations

import math
import re
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from demur.core.access import PolicyChoice
from demur.core.threshold import NEVER
from demur.server.errors import ApiError
from demur.server.requests.ignored import NOTES, SAME, is_ignored, is_known

SIGNED_64 = 2**63
SMALL_BODY = 2**15  # bytes that may hold whatever they like: reading them takes milliseconds
# names and texts in a larger one; 256 messages and 128 tools of 40 fields have fewer
MOST_STRINGS = 16_384
# A string of JSON; cut off, it goes on to the end, so that no place is looked at twice.
_STRING = re.compile(rb'"[^"\\]*(?:\\.?[^"\\]*)*+(?:"|\Z)', re.DOTALL)
# to look through for the one to name: a small body can hold half a million of them
MOST_FAULTS = 1000


def _describe_ignored(schema: dict[str, Any], record: type[BaseModel]) -> None:
    """Name the ignored fields in the OpenAPI document, and say that there are no others."""
    for place in getattr(record, "places", ()):
        for name in (*NOTES.get(place, ()), *SAME.get(place, {})):
            schema.setdefault("properties", {}).setdefault(name, {"description": "Ignored."})
    schema["additionalProperties"] = False


class RequestModel(BaseModel):
    """A part of a request.

    places: where demur.server.requests.ignored lists the fields that it may hold besides its
    own.
    """

    # Others are kept by pydantic and looked at by `_stray`, which knows which of them say nothing.
    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        json_schema_extra=_describe_ignored,
    )
    places: ClassVar[tuple[str, ...]] = ()
    is_open: ClassVar[bool] = False  # whether any field at all may stand beside the listed ones


def plain(value: Any) -> Any:
    """The value itself. Raises ValueError on text with NUL, which some back ends end a string at,
    and odd numbers.
    """
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


class TextPart(RequestModel):
    """A piece of a message. There is no other kind: images, sound and files are refused."""

    places: ClassVar = ("part",)
    type: Literal["text"]
    text: Text


class RefusalPart(RequestModel):
    """A piece of an earlier answer that was a refusal."""

    places: ClassVar = ("part",)
    type: Literal["refusal"]
    refusal: Text


class ThoughtPart(RequestModel):
    """A piece of an earlier answer that was thought and not said: dropped, whatever it holds."""

    is_open: ClassVar = True
    type: Literal["thinking", "redacted_thinking", "reasoning"]


TextParts = Annotated[tuple[TextPart, ...], Field(fail_fast=True)]
Content = Text | Annotated[tuple[TextPart, ...], Field(min_length=1, fail_fast=True)]
PastContent = (
    Text | Annotated[tuple[TextPart | RefusalPart | ThoughtPart, ...], Field(fail_fast=True)]
)


class SystemMessage(RequestModel):
    """The application's instructions. Null and an empty list stand for none."""

    places: ClassVar = ("message",)
    role: Literal["system", "developer"]
    content: Text | TextParts | None


class UserMessage(RequestModel):
    """What the user said."""

    places: ClassVar = ("message",)
    role: Literal["user"]
    content: Content


class CalledFunction(RequestModel):
    """Name and arguments of an earlier call."""

    name: FunctionName
    arguments: Text | None = None


class ToolCall(RequestModel):
    """An earlier call, as an answer of ours carried it."""

    places: ClassVar = ("tool call",)
    id: Annotated[Text, Field(min_length=1, max_length=256)]
    type: Literal["function"] | None = None
    function: CalledFunction


class AssistantMessage(RequestModel):
    """An earlier answer, as clients send it back; one that says nothing is an empty turn."""

    places: ClassVar = ("message", "assistant message")
    role: Literal["assistant"]
    content: PastContent | None = None
    refusal: Text | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(fail_fast=True)] | None = None


class ToolMessage(RequestModel):
    """What a called function returned; null and an empty list: nothing."""

    places: ClassVar = ("message",)
    role: Literal["tool"]
    tool_call_id: Annotated[Text, Field(min_length=1, max_length=256)]
    content: Text | TextParts | None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class StreamOptions(RequestModel):
    """How to stream."""

    places: ClassVar = ("stream_options",)
    include_usage: bool | None = None


class PlainFormat(RequestModel):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class NamedSchema(RequestModel):
    """A JSON schema that the answer must fit."""

    name: FunctionName
    schema_: Annotated[Schema, Field(alias="schema")]
    description: Text | None = None
    strict: bool | None = None


class SchemaFormat(RequestModel):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class FunctionDeclaration(RequestModel):
    """A function that the model may call."""

    places: ClassVar = ("tool",)
    name: FunctionName
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """A tool. There is no kind but functions."""

    places: ClassVar = ("tool",)
    type: Literal["function"]
    function: FunctionDeclaration


class ChosenFunction(RequestModel):
    """The function that must be called."""

    name: FunctionName


class ToolChoice(RequestModel):
    """A call that is asked for by name."""

    type: Literal["function"]
    function: ChosenFunction


class DemurAsk(RequestModel):
    """The "demur" object: which policy, and what of it to change. See demur.core.access for what
    wins.
    """

    policy: Text | None = None
    sensitivity: Text | None = None
    rates: dict[Text, Annotated[float, Field(ge=0, le=1)]] | None = None
    thresholds: dict[Text, Threshold] | None = None

    def to_core(self) -> PolicyChoice:
        """The core record."""
        named = self.thresholds or {}
        thresholds = {c: NEVER if isinstance(t, str) else t for c, t in named.items()}
        rates = self.rates or {}
        return PolicyChoice(
            policy=self.policy, sensitivity=self.sensitivity, rates=rates, thresholds=thresholds
        )


StopText = Annotated[Text, Field(min_length=1, max_length=256)]


class ChatRequest(RequestModel):
    """POST /v1/chat/completions."""

    places: ClassVar = ("request",)
    model: Annotated[Text, Field(max_length=256)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-SIGNED_64, lt=SIGNED_64)] | None = None
    stop: StopText | Annotated[tuple[StopText, ...], Field(max_length=4, fail_fast=True)] | None = (
        None
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = (
        None
    )
    tools: Annotated[tuple[Tool, ...], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    demur: DemurAsk | None = None


TEXT_ONLY = "Messages are text only: images, sound and files are not read."


def parse_chat(body: bytes) -> ChatRequest:
    """The request in a body. Raises ApiError 400 naming the first field at fault; its value is
    never repeated.
    """
    if len(body) > SMALL_BODY:
        _require_few(body)
    try:
        chat = ChatRequest.model_validate_json(body)
    except ValidationError as e:
        if e.error_count() > MOST_FAULTS:
            raise ApiError(
                400, f"The request has {e.error_count()} faults.", code="invalid_value"
            ) from None
        faults = e.errors(include_url=False, include_context=False, include_input=False)
    else:
        if (found := _stray(chat)) is not None:
            raise _unsupported(*found)
        return chat
    # Of a union every member complains: the one that got furthest into the value is the one that
    # was meant.
    same_field = [f for f in faults if f["loc"][:1] == faults[0]["loc"][:1]]
    raise _refusal(max(same_field, key=lambda f: len(f["loc"])))


def _require_few(body: bytes) -> None:
    """Raise ApiError for a body of countless small values: what it takes to read is not bounded by
    its bytes.
    """
    strings = sum(1 for _ in islice(_STRING.finditer(body), MOST_STRINGS + 1))
    others = _STRING.sub(b"", body).count(b",") if strings <= MOST_STRINGS else 0
    if max(strings, others) > MOST_STRINGS:
        message = f"The request holds more than {MOST_STRINGS} values."
        raise ApiError(413, message, code="request_too_large")


def _stray(record: RequestModel) -> tuple[str, RequestModel] | None:
    """The path of the first field that is neither listed nor ignored, and the record that holds it.

    Looks through records inside records as well. Paths are made only where there is something to
    tell.
    """
    if record.is_open:
        return None
    for name, value in (record.model_extra or {}).items():
        if not is_ignored(record.places, name, value):
            return name[:200], record
    for name, value in record.__dict__.items():
        items = value if isinstance(value, tuple) else (value,)
        for n, item in enumerate(items):
            if isinstance(item, RequestModel) and (found := _stray(item)) is not None:
                at = f"{name}[{n}]" if items is value else name
                return f"{at}.{found[0]}", found[1]
    return None


def _unsupported(param: str, record: RequestModel) -> ApiError:
    name = param.rpartition(".")[2]
    if name == "audio":
        return ApiError(400, TEXT_ONLY, code="unsupported_value", param=param)
    if is_known(record.places, name):
        message = f"{param!r} cannot be used here. Leave it out."
        return ApiError(400, message, code="unsupported_value", param=param)
    message = f"Unsupported parameter: {param!r}. Leave it out."
    return ApiError(400, message, code="unsupported_parameter", param=param)


def _refusal(fault: ErrorDetails) -> ApiError:
    param = _param(fault["loc"])
    if not param:
        return ApiError(400, "The body is not a JSON object that can be read.", code="invalid_json")
    if _is_foreign_part(fault):
        return ApiError(400, TEXT_ONLY, code="unsupported_value", param=param)
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return ApiError(400, f"Invalid {param!r}: {fault['msg'][:200]}.", code=code, param=param)


def _is_foreign_part(fault: ErrorDetails) -> bool:
    """Whether a piece of a message is of a kind that is no text."""
    loc = fault["loc"]
    return (
        loc[0] == "messages"
        and "content" in loc
        and loc[-1] == "type"
        and fault["type"] == "literal_error"
    )


def _param(loc: tuple[int | str, ...]) -> str:
    """A place in the request as OpenAI writes it, "messages[0].content", without pydantic's names
    of union members.
    """
    path = ""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (
            _is_member(part)
            or (loc[0] == "messages" and at == 2)
            or (loc[0] == "response_format" and at == 1)
        ):
            path += f".{part}" if path else part
    return path[:200]


def _is_member(part: str) -> bool:
    return (
        part in ("str", "constrained-float", "ToolChoice", "TextPart", "RefusalPart", "ThoughtPart")
        or "[" in part
        or "function-after" in part
    )
