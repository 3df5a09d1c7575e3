"""POST /v1/chat/completions: admit the caller, decide the request, write the response.

1. The caller is admitted by its key, the body is read and prepared for the backend.
2. Text in tools and schemas is scored by itself; one refusal there refuses the request, and one
   deferral defers it unless the conversation is refused.
3. Otherwise the conversation (or its latest turn) is scored and decided, once per choice.
4. The decision is counted in metrics, monitors and the log before any answer text is generated.
5. Answers, refusals and deferrals are sent whole or as a stream of events: demur.server.writer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from demur.base.errors import ScoreDoubt, ScoreError
from demur.core.conversation.declared import policy_for_declared
from demur.core.conversation.folding import latest_turn
from demur.core.conversation.languages import operators_text, preferred_languages
from demur.core.decision import doubt_reason
from demur.core.serving import Backend, ServeReply, ServeRequest
from demur.server.admission.control import Caller, read_body
from demur.server.monitoring.log import log_event
from demur.server.requests.context import RequestContext, context_of, while_connected
from demur.server.requests.prepare import PreparedRequest, prepare_request, schema_digest
from demur.server.requests.schema import parse_chat
from demur.server.responses import ResponseHead, action_of, decision_word, scores_of
from demur.server.state import ServerState
from demur.server.writer import DecidedChoice, ResponseWriter
from demur.stages.watch.live import ScoredRequest
from demur.stages.watch.state import session_key

# the two values of an answer's "doubt" field
NO_SCORE = "there is no score that decides"
OFF_THE_TOKENS = "the score puts too much probability outside the control tokens"
# Bytes of a body that is parsed at once; a longer one waits for its key's turn, because parsing
# holds up the event loop.
PARSE_AT_ONCE = 4096
SESSION = "x-session-id"  # of the conversation that a request belongs to
SYNTHETIC = "x-demur-synthetic"  # "true" in a probe's or a test's request
STREAM_HEADERS = {"x-accel-buffering": "no"}  # a proxy that buffers would delay every event


async def answer_chat(request: Request, state: ServerState) -> Response:
    """Answer or refuse a chat request. Raises ApiError, and DemurError for one that gets no answer.

    What the request holds (its admission, a schema slot, open replies) is released by the context's
    exit stack, once the response has been sent.
    """
    context, access = context_of(request), state.registry.current
    caller = context.exit_stack.enter_context(state.admission.admitted(request.headers, access))
    context.tenant, context.key = caller.tenant.name, caller.key
    body = await read_body(request, state.settings.limits)

    def parse() -> PreparedRequest:
        return prepare_request(parse_chat(body), caller.tenant, access.policies, state.settings)

    short = len(body) <= PARSE_AT_ONCE
    prepared = parse() if short else await state.admission.in_turn(caller, parse)
    context.policy, context.policy_hash = prepared.live.policy.name, prepared.live.digest
    context.overridden, context.stream = prepared.effective.overridden, prepared.stream
    # Only operators may call a request synthetic: anybody else could hide from the monitors so.
    context.synthetic = caller.tenant.synthetic or (
        caller.tenant.sees_scores and request.headers.get(SYNTHETIC, "") == "true"
    )
    # Requests of one session err together: the monitors count them as one.
    named = request.headers.get(SESSION) or prepared.session
    context.session = session_key(context.tenant, named) if named else None
    state.admission.charge(caller, len(prepared.declared))
    # A schema slot is taken before anything is scored: compiling a schema is what may be slow.
    if (digest := schema_digest(prepared.serve_requests[0])) is not None:
        slot = context.exit_stack.enter_async_context(state.admission.schema_slot(caller, digest))
        await while_connected(request.receive, slot)
    context.languages = preferred_languages(request.headers.get("accept-language", ""))
    choices = await while_connected(request.receive, _decide(prepared, state, context))
    writer = ResponseWriter(state.settings, state.metrics, prepared, choices, context)
    head = _response_head(state, prepared, choices[0], caller, context)
    if prepared.stream:
        return StreamingResponse(
            writer.events(head), media_type="text/event-stream", headers=STREAM_HEADERS
        )
    return JSONResponse(await while_connected(request.receive, writer.whole(head)))


async def _decide(
    prepared: PreparedRequest, state: ServerState, context: RequestContext
) -> list[DecidedChoice]:
    """Decide every choice of a request, and record the decision.

    Raises ScoreDoubt or ScoreError where no score decides and the operator's `on_doubt` is "error".
    """
    try:
        # Declared text first: nothing is generated, or compiled, for a request that it refuses.
        replies = await _open_declared(state, prepared, context)
        declared = bool(replies)
        replies = replies or await _open_conversation(state, prepared.serve_requests, context)
    except (ScoreDoubt, ScoreError) as e:
        log_event(
            logging.ERROR, "undecided", request_id=context.request_id, reason=e.message, hint=e.hint
        )
        state.metrics.record_decision(context, prepared.effective.policy, None, None)
        context.doubt = True
        if state.settings.on_doubt == "error":
            raise
        context.decision = "undecided"
        undecided = DecidedChoice(reply=None, text=state.settings.doubt_text)
        return [undecided for _ in prepared.serve_requests]
    _record_decision(replies[0], prepared, state, context, declared=declared)
    policy = prepared.effective.policy
    return [
        DecidedChoice(
            reply=reply,
            text=operators_text(policy, reply.decision, context.languages),
            declared=declared,
        )
        for reply in replies
    ]


def _record_decision(
    first: ServeReply,
    prepared: PreparedRequest,
    state: ServerState,
    context: RequestContext,
    *,
    declared: bool,
) -> None:
    """Record a request's decision in the log, the metrics, the monitors and the live scores.

    first: the reply of the first choice. It stands for all: choices share one prompt, so their
    scores are the same. declared: whether declared text was refused.
    """
    policy = prepared.effective.policy
    context.decision_s = round(context.elapsed_s(), 6)
    context.decision, context.category = decision_word(first.decision), first.decision.category
    context.on_defer = action_of(policy, first.decision)
    if state.backend.fingerprint.front is not None:
        context.by_front = first.by_front
    if first.decision.doubt:
        context.doubt = True
        reason = doubt_reason(policy, first.logp_C)
        log_event(logging.WARNING, "doubt", request_id=context.request_id, reason=reason)
    state.metrics.record_decision(context, policy, first.decision, first.logp_C)
    # Promises are about conversations under the stored thresholds: overrides, declared text and
    # synthetic requests are outside. `_response_head` marks the same requests "void".
    if not (prepared.effective.overridden or declared or context.synthetic):
        scored = ScoredRequest(
            tenant=context.tenant or "",
            logp_C=first.logp_C,
            session=context.session,
            at_s=time.time(),
        )
        state.monitors.record_score(prepared.live.digest, scored)
        if (live := state.live_scores) is not None:
            live.record(context.request_id, first.logp_C, context.session, context.tenant)


async def _open_declared(
    state: ServerState, prepared: PreparedRequest, context: RequestContext
) -> list[ServeReply]:
    """Score the request's declared text; return refusals or deferrals, one per choice, or [] if
    none is due.

    A refusal goes before a deferral, also one of the conversation.
    """
    serve_requests = prepared.serve_requests
    policy = policy_for_declared(serve_requests[0].policy, state.settings.declared_categories)
    # decision only: without schema and tools, and without an answer unless it is a refusal
    bare = [
        replace(a.under(policy), json_schema=None, tools=(), tool_choice=None, answers=False)
        for a in serve_requests
    ]
    opened = await _open_all(
        state.backend, [replace(bare[0], messages=prompt) for prompt in prepared.declared], context
    )
    context.beside_tokens += sum(reply.prompt_tokens for reply in opened)
    pairs = list(zip(prepared.declared, opened, strict=True))
    held = [pair for pair in pairs if pair[1].decision.refuses]
    held = held or [pair for pair in pairs if pair[1].decision.outcome == "defer"]
    if not held:
        return []
    prompt, reply = held[0]
    if reply.decision.outcome == "defer":
        # Read once more below where it refuses: rare, and nothing is generated here.
        alone = [replace(a, policy=serve_requests[0].policy) for a in bare]
        (conversation, *_) = await _open_conversation(state, alone, context)
        context.beside_tokens += conversation.prompt_tokens
        if conversation.decision.refuses:
            return []
    # this prompt is the one that is answered, so usage counts it as the prompt itself
    context.beside_tokens -= reply.prompt_tokens
    others = [replace(serve_request, messages=prompt) for serve_request in bare[1:]]
    return [reply, *await _open_all(state.backend, others, context)]


async def _open_conversation(
    state: ServerState, serve_requests: Sequence[ServeRequest], context: RequestContext
) -> list[ServeReply]:
    """Open a reply per choice, decided on the conversation or, if so set, on its latest turn.

    Where the latest turn is answered, the whole conversation is, and no category refuses it.
    """
    latest = latest_turn(serve_requests[0].messages)
    if state.settings.decides_on == "conversation" or latest == serve_requests[0].messages:
        return await _open_all(state.backend, serve_requests, context)
    bare = [
        replace(a, messages=latest, json_schema=None, tools=(), tool_choice=None, answers=False)
        for a in serve_requests
    ]
    (decided,) = await _open_all(state.backend, bare[:1], context)
    if decided.decision.outcome != "answer":
        return [decided, *await _open_all(state.backend, bare[1:], context)]
    context.beside_tokens += decided.prompt_tokens
    # Every category is suppressed, so that the answer to the whole conversation cannot be refused
    # for a turn that was decided before.
    answered = [a.under(a.policy.passing()) for a in serve_requests]
    replies = await _open_all(state.backend, answered, context)
    # Only doubt can refuse the conversation now. Otherwise the latest turn's decision and score are
    # reported, because they are what decided.
    return [
        r if r.decision.refuses else replace(r, decision=decided.decision, logp_C=decided.logp_C)
        for r in replies
    ]


async def _open_all(
    backend: Backend, serve_requests: Sequence[ServeRequest], context: RequestContext
) -> list[ServeReply]:
    """Open a reply per request concurrently; the first error cancels the others.

    Opened replies are closed by the context's exit stack, whatever happens to the request.
    """

    async def one(serve_request: ServeRequest) -> ServeReply:
        reply = await backend.open(serve_request)
        # only generators have aclose: closing one early stops generation and frees its place
        if (aclose := getattr(reply.parts, "aclose", None)) is not None:
            context.exit_stack.push_async_callback(aclose)
        return reply

    tasks = [asyncio.create_task(one(serve_request)) for serve_request in serve_requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _response_head(
    state: ServerState,
    prepared: PreparedRequest,
    first: DecidedChoice,
    caller: Caller,
    context: RequestContext,
) -> ResponseHead:
    live, overridden = prepared.live, prepared.effective.overridden
    # requests that no monitor counts: see _record_decision
    outside = overridden or first.declared or bool(context.synthetic)
    note: dict[str, Any] = {
        "decision": first.word,
        "category": first.reply.decision.category if first.reply else None,
        "policy": live.policy.name,
        "policy_hash": live.digest,
        "overridden": overridden,
        "promises": state.monitors.promise_status(
            live.policy, live.digest, caller.tenant.name, outside=outside
        ),
    }
    if first.reply is None or first.reply.decision.doubt:
        note["doubt"] = NO_SCORE if first.reply is None else OFF_THE_TOKENS
    if first.word == "defer" and first.reply is not None:
        note["on_defer"] = action_of(prepared.effective.policy, first.reply.decision)
    if first.declared:
        note["decided_on"] = "declared"
    elif state.settings.decides_on != "conversation" and len(
        latest_turn(messages := prepared.serve_requests[0].messages)
    ) < len(messages):
        note["decided_on"] = state.settings.decides_on
    if caller.tenant.sees_scores and first.reply is not None:
        note |= scores_of(prepared.effective.policy, first.reply.decision, first.reply.logp_C)
    model_digest = state.backend.fingerprint.model_digest.removeprefix("sha256:")
    return ResponseHead(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=state.settings.model,
        system_fingerprint=f"fp_{model_digest[:12]}",
        taxonomy=live.policy.taxonomy.names,
        note=note,
    )
