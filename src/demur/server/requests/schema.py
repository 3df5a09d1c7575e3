"""The schema of a chat request. A field that is neither here nor in `ignored` is refused.

1. pydantic checks types and ranges strictly: a number in quotes is not a number.
2. Unlisted fields are kept by pydantic and looked up in demur.server.requests.ignored; one that is
   not there, or has a value that would matter, is a 400 that names it.
3. Null stands for a field that was left out, whatever its name, as OpenAI's clients send it.
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
from demur.server.requests.ignored import DEFAULTS, IGNORED, is_ignored, is_known

SIGNED_64 = 2**63
SMALL_BODY = 2**15  # bytes that are parsed whatever they hold: it takes milliseconds
# names and texts in a larger one; 256 messages and 128 tools of 40 fields have fewer
MOST_STRINGS = 16_384
# A string of JSON. One that is cut off matches up to the end, and the repetition is possessive
# ("*+"): no byte is looked at twice, so the search takes linear time.
_STRING = re.compile(rb'"[^"\\]*(?:\\.?[^"\\]*)*+(?:"|\Z)', re.DOTALL)
# validation errors among which the one to report is chosen: a small body can have half a million
MOST_FAULTS = 1000


def _describe_ignored(schema: dict[str, Any], record: type[BaseModel]) -> None:
    """Add the ignored fields to a model's JSON schema, and forbid all others there."""
    for place in getattr(record, "places", ()):
        for name in (*IGNORED.get(place, ()), *DEFAULTS.get(place, {})):
            schema.setdefault("properties", {}).setdefault(name, {"description": "Ignored."})
    schema["additionalProperties"] = False


class RequestModel(BaseModel):
    """Base class of the request's models.

    places: keys of the tables of demur.server.requests.ignored whose fields may stand beside the
    model's own.
    """

    # "allow" keeps unlisted fields for `_unlisted_field`, which tells ignored ones from others.
    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        json_schema_extra=_describe_ignored,
    )
    places: ClassVar[tuple[str, ...]] = ()
    is_open: ClassVar[bool] = False  # whether any field at all may stand beside the listed ones


def require_plain(value: Any) -> Any:
    """Return the value. Raises ValueError for text with NUL and for numbers beyond 64 bits.

    NUL ends a string in some backends, which would read another text than the one that was scored.
    """
    match value:
        case str():
            if "\0" in value:
                raise ValueError("it contains the character U+0000")
        case dict():
            for key, item in value.items():
                require_plain(key)
                require_plain(item)
        case list() | tuple():
            for item in value:
                require_plain(item)
        case int() | float():
            if not math.isfinite(value) or abs(value) >= SIGNED_64:
                raise ValueError("it contains a number that does not fit 64 bits")
    return value


Text = Annotated[str, AfterValidator(require_plain)]
Schema = Annotated[dict[str, Any], AfterValidator(require_plain)]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# JSON has no infinity: "never" is the threshold that nothing reaches, as in a policy file.
Threshold = Annotated[float, Field(ge=0)] | Literal["never"]


class TextPart(RequestModel):
    """A text part of a message. There is no other kind: images, sound and files are refused."""

    places: ClassVar = ("part",)
    type: Literal["text"]
    text: Text


class RefusalPart(RequestModel):
    """A part of an earlier answer that was a refusal."""

    places: ClassVar = ("part",)
    type: Literal["refusal"]
    refusal: Text


class ThoughtPart(RequestModel):
    """A reasoning part of an earlier answer: dropped, whatever it holds."""

    is_open: ClassVar = True
    type: Literal["thinking", "redacted_thinking", "reasoning"]


TextParts = Annotated[tuple[TextPart, ...], Field(fail_fast=True)]
Content = Text | Annotated[tuple[TextPart, ...], Field(min_length=1, fail_fast=True)]
PastContent = (
    Text | Annotated[tuple[TextPart | RefusalPart | ThoughtPart, ...], Field(fail_fast=True)]
)


class SystemMessage(RequestModel):
    """The application's instructions. Null and an empty list mean that there are none."""

    places: ClassVar = ("message",)
    role: Literal["system", "developer"]
    content: Text | TextParts | None


class UserMessage(RequestModel):
    """A message of the user's."""

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
    """An earlier answer, as clients send it back; one without any content is an empty turn."""

    places: ClassVar = ("message", "assistant message")
    role: Literal["assistant"]
    content: PastContent | None = None
    refusal: Text | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(fail_fast=True)] | None = None


class ToolMessage(RequestModel):
    """The result of a tool call; null and an empty list mean an empty result."""

    places: ClassVar = ("message",)
    role: Literal["tool"]
    tool_call_id: Annotated[Text, Field(min_length=1, max_length=256)]
    content: Text | TextParts | None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class StreamOptions(RequestModel):
    """Options of a streamed response."""

    places: ClassVar = ("stream_options",)
    include_usage: bool | None = None


class PlainFormat(RequestModel):
    """A response format without a schema: any text, or any JSON object."""

    type: Literal["text", "json_object"]


class NamedSchema(RequestModel):
    """A JSON schema that the answer must fit."""

    name: FunctionName
    schema_: Annotated[Schema, Field(alias="schema")]
    description: Text | None = None
    strict: bool | None = None


class SchemaFormat(RequestModel):
    """A response format with a schema that the answer must fit."""

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
    """A tool that the model may call: a function, the only kind."""

    places: ClassVar = ("tool",)
    type: Literal["function"]
    function: FunctionDeclaration


class ChosenFunction(RequestModel):
    """The function that must be called."""

    name: FunctionName


class ToolChoice(RequestModel):
    """A choice of one function, by name, that the answer must call."""

    type: Literal["function"]
    function: ChosenFunction


class DemurAsk(RequestModel):
    """The "demur" object: the policy to use and overrides of its thresholds.

    demur.core.access says which override wins and what a tenant may change.
    """

    policy: Text | None = None
    sensitivity: Text | None = None
    rates: dict[Text, Annotated[float, Field(ge=0, le=1)]] | None = None
    thresholds: dict[Text, Threshold] | None = None

    def to_core(self) -> PolicyChoice:
        """Return the core record, with "never" as the threshold that nothing reaches."""
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
    """Parse and check the body of a chat request.

    Raises ApiError 400 naming the first invalid field, and 413 for a body with too many values. The
    message never repeats a value: it may be shown to others than who sent it.
    """
    if len(body) > SMALL_BODY:
        _require_few_values(body)
    try:
        chat = ChatRequest.model_validate_json(body)
    except ValidationError as e:
        if e.error_count() > MOST_FAULTS:
            raise ApiError(
                400, f"The request has {e.error_count()} faults.", code="invalid_value"
            ) from None
        faults = e.errors(include_url=False, include_context=False, include_input=False)
    else:
        if (found := _unlisted_field(chat)) is not None:
            raise _unsupported(*found)
        return chat
    # Every member of a union reports an error for the same value. The one whose location is deepest
    # is the member that the client meant.
    same_field = [f for f in faults if f["loc"][:1] == faults[0]["loc"][:1]]
    raise _invalid_field(max(same_field, key=lambda f: len(f["loc"])))


def _require_few_values(body: bytes) -> None:
    """Raise ApiError 413 for a body of very many small values.

    Parsing time grows with the number of values, which the size in bytes does not bound. Values are
    counted without parsing: strings by the regular expression, all others by the commas outside
    strings.
    """
    strings = sum(1 for _ in islice(_STRING.finditer(body), MOST_STRINGS + 1))
    others = _STRING.sub(b"", body).count(b",") if strings <= MOST_STRINGS else 0
    if max(strings, others) > MOST_STRINGS:
        message = f"The request holds more than {MOST_STRINGS} values."
        raise ApiError(413, message, code="request_too_large")


def _unlisted_field(record: RequestModel) -> tuple[str, RequestModel] | None:
    """Return the path of the first field that is neither listed nor ignored, and its record.

    Searches nested records as well. The path is built on the way back, only if there is one.
    """
    if record.is_open:
        return None
    for name, value in (record.model_extra or {}).items():
        if not is_ignored(record.places, name, value):
            return name[:200], record
    for name, value in record.__dict__.items():
        items = value if isinstance(value, tuple) else (value,)
        for n, item in enumerate(items):
            if isinstance(item, RequestModel) and (found := _unlisted_field(item)) is not None:
                at = f"{name}[{n}]" if items is value else name
                return f"{at}.{found[0]}", found[1]
    return None


def _unsupported(param: str, record: RequestModel) -> ApiError:
    """Return the 400 for an unlisted field, by whether its name or only its value is refused."""
    name = param.rpartition(".")[2]
    if name == "audio":
        return ApiError(400, TEXT_ONLY, code="unsupported_value", param=param)
    if is_known(record.places, name):
        message = f"{param!r} cannot be used here. Leave it out."
        return ApiError(400, message, code="unsupported_value", param=param)
    message = f"Unsupported parameter: {param!r}. Leave it out."
    return ApiError(400, message, code="unsupported_parameter", param=param)


def _invalid_field(fault: ErrorDetails) -> ApiError:
    """Return the 400 for one of pydantic's validation errors."""
    loc = fault["loc"]
    param = _param(loc)
    if not param:
        return ApiError(400, "The body is not a JSON object that can be read.", code="invalid_json")
    # the `type` of a part of a message's content is none of ours: an image, say
    is_type_of_part = loc[0] == "messages" and "content" in loc and loc[-1] == "type"
    if is_type_of_part and fault["type"] == "literal_error":
        return ApiError(400, TEXT_ONLY, code="unsupported_value", param=param)
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return ApiError(400, f"Invalid {param!r}: {fault['msg'][:200]}.", code=code, param=param)


def _param(loc: tuple[int | str, ...]) -> str:
    """Write an error's location as OpenAI does, such as "messages[0].content".

    pydantic puts the names of union members into it, which are left out.
    """
    path = ""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        # a discriminated union's tag: the role of a message, the type of a response format
        is_tag = (loc[0] == "messages" and at == 2) or (loc[0] == "response_format" and at == 1)
        if not (is_tag or _is_union_member(part)):
            path += f".{part}" if path else part
    return path[:200]


def _is_union_member(part: str) -> bool:
    """Whether a part of a location is pydantic's name of a union's member, not a field's."""
    return (
        part in ("str", "constrained-float", "ToolChoice", "TextPart", "RefusalPart", "ThoughtPart")
        or "[" in part
        or "function-after" in part
    )
