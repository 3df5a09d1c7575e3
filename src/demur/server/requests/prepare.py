"""Prepare a parsed chat request for the backend: conversation, policy, sampling, schema, tools.

Everything that can be refused without the model is refused here: what the tenant may not have, what
exceeds a limit, and fields that contradict each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from demur.base.schemas.limits import exceeded_bound, exceeded_bound_together
from demur.core.access import EffectivePolicy, Tenant, apply_overrides, choose_policy
from demur.core.conversation.declared import declared_prompts
from demur.core.example import Message
from demur.core.midway.monitor import AnswerSampling
from demur.core.ports import Prompt
from demur.core.rows.turns import tool_call_text, tool_result_text
from demur.core.serving import Sampling, ServeRequest
from demur.server.errors import ApiError
from demur.server.requests import schema
from demur.server.settings import ServerSettings
from demur.store.policies.folder import Live, PolicySet


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRequest:
    """A chat request that passed all checks, in the backend's terms."""

    live: Live  # the stored policy
    effective: EffectivePolicy  # the policy with the caller's overrides applied
    serve_requests: tuple[ServeRequest, ...]  # one per choice
    declared: tuple[Prompt, ...]  # scored beside the conversation: demur.core.conversation.declared
    stream: bool
    include_usage: bool
    session: str | None  # as the client named it; never kept as it is


def prepare_request(
    chat: schema.ChatRequest, tenant: Tenant, policies: PolicySet, settings: ServerSettings
) -> PreparedRequest:
    """Check a request and translate it into core's terms.

    Raises ApiError where the server's limits or the protocol forbid it, and AccessError for a
    policy or an override that the tenant may not use.
    """
    if chat.model != settings.model:
        raise ApiError(
            404,
            f"The model {chat.model!r} does not exist here.",
            code="model_not_found",
            param="model",
        )
    choice = (chat.demur or schema.DemurAsk()).to_core()
    live = policies.policies[choose_policy(tenant, choice, policies.policies)]
    found, sampling = apply_overrides(live.policy, choice), _sampling(chat, settings)
    if found.policy.monitor is not None:
        _require_covered(sampling, found.policy.monitor.answers)
    first = ServeRequest(
        messages=_prompt(chat.messages, settings.limits.messages),
        policy=found.policy,
        policy_digest=live.digest,
        sampling=sampling,
        json_schema=_schema(chat),
        tools=_tools(chat),
        tool_choice=_tool_choice(chat),
        tenant=tenant.name,
    )
    return PreparedRequest(
        live=live,
        effective=found,
        serve_requests=_choices(first, chat.n or 1, settings.limits.choices),
        declared=declared_prompts(first),
        stream=bool(chat.stream),
        include_usage=_include_usage(chat),
        session=_session(chat),
    )


def schema_digest(serve_request: ServeRequest) -> str | None:
    """Return a digest of the request's schema and tools, or None if it declares neither."""
    if not (serve_request.json_schema or serve_request.tools):
        return None
    return sha256(json.dumps([serve_request.json_schema, serve_request.tools]).encode()).hexdigest()


def _session(chat: schema.ChatRequest) -> str | None:
    """The conversation or user that the body names, in the fields in which clients do."""
    beside = chat.model_extra or {}
    metadata = beside.get("metadata")
    found = metadata if isinstance(metadata, dict) else {}
    named = (
        found.get("session_id"),
        found.get("conversation_id"),
        beside.get("safety_identifier"),
        beside.get("user"),
    )
    return next((name for name in named if isinstance(name, str) and name), None)


def _prompt(messages: Sequence[schema.Message], most: int) -> Prompt:
    """Translate a conversation. Raises ApiError if it is too long or ends with an assistant turn.

    Clients cannot prefill the assistant's turn: it begins with the control token that decides.
    """
    if len(messages) > most:
        raise _invalid("messages", f"{len(messages)} messages, at most {most} are taken")
    if not isinstance(messages[-1], schema.UserMessage | schema.ToolMessage):
        raise _invalid(
            "messages",
            "the last message must be the user's, or a tool's; an answer cannot be begun for us",
        )
    called: dict[str, str] = {}  # tool call id -> function
    prompt = []
    for at, message in enumerate(messages):
        match message:
            case schema.SystemMessage(content=None | ()):
                pass  # an empty system turn would still change the rendered prompt
            case schema.SystemMessage():
                prompt.append(Message(role="system", content=_text(message.content)))
            case schema.UserMessage():
                prompt.append(Message(role="user", content=_text(message.content)))
            case schema.AssistantMessage():
                called |= {c.id: c.function.name for c in message.tool_calls or ()}
                prompt.append(Message(role="assistant", content=_past_answer(message)))
            case schema.ToolMessage():
                if message.tool_call_id not in called:
                    param = f"messages[{at}].tool_call_id"
                    raise _invalid(param, "no earlier tool call has this id")
                # A result is a turn of the user's side: it is scored and decided about like
                # anything that the user types.
                words = tool_result_text(called[message.tool_call_id], _text(message.content))
                prompt.append(Message(role="user", content=words))
    return tuple(prompt)


def _text(
    content: str | Sequence[schema.TextPart | schema.RefusalPart | schema.ThoughtPart] | None,
) -> str:
    """Join the text of a message. Thoughts of past answers are left out: they were not answered."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = (p for p in content if not isinstance(p, schema.ThoughtPart))
    return "\n".join(p.text if isinstance(p, schema.TextPart) else p.refusal for p in parts)


def _past_answer(message: schema.AssistantMessage) -> str:
    """Join text, refusal and tool calls of an earlier answer; it may be empty.

    Calls are put into words: core's messages, and so the score, hold text only.
    """
    lines = [_text(message.content)] if message.content else []
    lines += [message.refusal] if message.refusal else []
    lines += [
        tool_call_text(c.function.name, c.function.arguments or "")
        for c in message.tool_calls or ()
    ]
    return "\n".join(lines)


def _sampling(chat: schema.ChatRequest, settings: ServerSettings) -> Sampling:
    limits = settings.limits
    # OpenAI renamed max_tokens; clients may send both, if they agree
    if (
        None not in (chat.max_tokens, chat.max_completion_tokens)
        and chat.max_tokens != chat.max_completion_tokens
    ):
        raise _invalid("max_tokens", "it contradicts max_completion_tokens")
    tokens = chat.max_completion_tokens or chat.max_tokens or limits.answer_tokens
    if tokens > limits.most_answer_tokens:
        name = "max_tokens" if chat.max_tokens else "max_completion_tokens"
        raise _invalid(
            name, f"{tokens} is more than the {limits.most_answer_tokens} that an answer may have"
        )
    stop = (chat.stop,) if isinstance(chat.stop, str) else chat.stop or ()
    return Sampling(
        max_tokens=tokens,
        temperature=settings.temperature if chat.temperature is None else chat.temperature,
        top_p=settings.top_p if chat.top_p is None else chat.top_p,
        seed=chat.seed,
        stop=stop,
    )


def _require_covered(sampling: Sampling, answers: AnswerSampling) -> None:
    """Raise ApiError unless the policy's monitor was calibrated on answers like these.

    Its promise holds for answers no longer than those, sampled alike.
    """
    asked = AnswerSampling(
        most_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
    if not answers.covers(asked):
        name = "max_tokens" if answers.covers(replace(asked, most_tokens=1)) else "temperature"
        raise _invalid(
            name,
            f"answers of {asked.text} are not written under this policy, whose monitor was "
            f"calibrated on answers of {answers.text}",
        )


def _schema(chat: schema.ChatRequest) -> dict[str, Any] | None:
    match chat.response_format:
        case schema.SchemaFormat(json_schema=named):
            _require_bounded(exceeded_bound(named.schema_), "response_format.json_schema.schema")
            return named.schema_
        case schema.PlainFormat(type="json_object"):
            return {}  # the schema that any JSON object fits
    return None


def _tools(chat: schema.ChatRequest) -> tuple[dict[str, Any], ...]:
    if chat.tool_choice == "none":
        return ()
    names = [t.function.name for t in chat.tools or ()]
    for at, name in enumerate(names):
        if names.index(name) < at or name in ("none", "auto", "required"):
            raise _invalid(f"tools[{at}].function.name", "taken: choose another name")
    # Bounded together before each by itself: 128 schemas may each be small and be costly together.
    parameters = [t.function.parameters or {} for t in chat.tools or ()]
    _require_bounded(exceeded_bound_together(parameters), "tools")
    for at, declared in enumerate(parameters):
        _require_bounded(exceeded_bound(declared), f"tools[{at}].function.parameters")
    return tuple(t.model_dump(exclude_none=True) for t in chat.tools or ())


def _require_bounded(fault: str | None, param: str) -> None:
    """Raise ApiError if a schema exceeds the bounds of demur.base.schemas.limits.

    fault: their message; it holds numbers and words of JSON Schema, never the client's text.
    """
    if fault is not None:
        raise _invalid(param, f"the schema is not taken: {fault}")


def _tool_choice(chat: schema.ChatRequest) -> str | None:
    names = [t.function.name for t in chat.tools or ()]
    if not names and chat.tool_choice in ("none", "auto"):
        return None  # some clients always send the field, with or without tools
    if chat.tool_choice is not None and not names:
        raise _invalid("tool_choice", "it needs tools")
    match chat.tool_choice:
        case schema.ToolChoice(function=chosen):
            if chosen.name not in names:
                raise _invalid("tool_choice.function.name", "there is no tool of that name")
            return chosen.name
        case "none":
            return None
        case None:
            return "auto" if names else None
        case word:
            return word


def _choices(first: ServeRequest, n: int, most: int) -> tuple[ServeRequest, ...]:
    """Repeat a request n times, with seeds counting up from a given one: else all are equal."""
    if n > most:
        raise _invalid("n", f"{n} is more than the {most} choices that may be asked for")
    seed = first.sampling.seed
    if seed is None:
        return (first,) * n
    return tuple(
        replace(first, sampling=replace(first.sampling, seed=seed + at)) for at in range(n)
    )


def _include_usage(chat: schema.ChatRequest) -> bool:
    if chat.stream_options is None:
        return False
    if not chat.stream:
        raise _invalid("stream_options", "it needs stream to be true")
    return bool(chat.stream_options.include_usage)


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, f"Invalid {param!r}: {message}.", code="invalid_value", param=param)
