"""The backend in front of a vLLM server that runs demur's plug-in: one call, decided by the plug-in
and checked here.

1. The request names the policy, its digest and the thresholds in force.
2. The stream opens with the control token that the plug-in forced and the scores it decided on.
3. The same scores must lead to the same token here, under the caller's policy; else BackendDown.
4. Under a policy with a monitor the plug-in forces a refusal token where an answer is stopped. The
   scores of every position are checked here too.
5. JSON answers, tool calls, policies that defer, those that the plug-in lacks and those that the
   server has changed take the two calls of the gateway.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from demur.base.arrays import Floats
from demur.base.errors import BackendDown, BackendError, EngineError, ScoreDoubt
from demur.core.decision import Decision, decide_or_doubt
from demur.core.policy import THRESHOLD_RULES, Policy
from demur.core.serving import AnswerPart, ServeReply, ServeRequest, generates_nothing, no_parts
from demur.engines.remote.answer_stream import AnswerRules, AnswerStream, finish_of
from demur.engines.remote.upstream import LOG, EventStream, parse_body
from demur.engines.vllm.completions_api import (
    Completion,
    CompletionChoice,
    decision_body,
    logprob_fields,
    single_choice,
    writing_fields,
)
from demur.engines.vllm.policy_request import (
    DIGEST,
    NEVER_WORD,
    POLICY,
    THRESHOLD,
    is_stateless,
)
from demur.engines.vllm.two_call_backend import ServedModel, TwoCallBackend
from demur.engines.vllm.watched_stream import WatchedReader, WatchedStream

_NO_POLICY = "\x00"  # a name that no policy has: a server with the plug-in refuses it


@dataclass(kw_only=True, eq=False)
class PluginBackend(TwoCallBackend):
    """Implements demur.core.serving.Backend in front of vLLM with
    `demur.engines.vllm_gate:RefusalGate`.

    The server reads the same policy files. A grammar would hide the control tokens from the
    plug-in, so JSON answers and tool calls take the gateway's two calls, and so do requests under a
    version of a policy that the plug-in does not hold.
    """

    async def open(self, ask: ServeRequest) -> ServeReply:
        """See TwoCallBackend.open. Raises BackendDown also where the server decided otherwise."""
        # The plug-in forces a control token, which cannot defer, keeps no sums, and knows stored
        # policies alone.
        two_calls = ask.policy.defers or not is_stateless(ask.policy) or not ask.policy_digest
        if ask.json_schema is not None or ask.tools or two_calls:
            return await TwoCallBackend.open(self, ask)
        ask.policy.require_model(self.declared)
        served = await self._served_model()
        ids = await self._encode(ask.messages)
        body = self._body(ask, ids, served)
        events: EventStream | None = None
        try:
            events = await self._client.stream("completions", body, undecided=True)
            logp_C, decision, choice = await self._read_decision(events, ask.policy, served)
            parts: AsyncIterator[AnswerPart] = no_parts()
            if generates_nothing(ask, decision):
                await events.aclose()
            else:
                watched = ask.policy.monitor is not None and not decision.refuses
                go_on = self._watched_parts if watched else self._plain_parts
                parts = go_on(ask, ids, events, choice)
        except BaseException as e:  # also when the caller is cancelled: the stream must be closed
            if events is not None:
                await events.aclose()
            # The server refused the request itself: most likely it lacks this policy version.
            if isinstance(e, EngineError) and not isinstance(e, BackendError | ScoreDoubt):
                return await self._decide_in_two_calls(ask)
            raise
        return ServeReply(decision=decision, logp_C=logp_C, prompt_tokens=len(ids), parts=parts)

    def _plain_parts(
        self, ask: ServeRequest, _ids: list[int], events: EventStream, choice: CompletionChoice
    ) -> AnswerStream:
        """The parts behind a first event, of a text that nothing stops."""
        rest = (choice.token_ids or [])[1:]
        if set(rest) & set(self._encoder.token_ids):
            LOG.error("the plug-in wrote another control token behind the first: %s", rest)
            raise BackendDown("the backend wrote a control token in mid-answer", "ask again")
        first = AnswerPart(
            text=choice.text, tokens=len(rest), finish=finish_of(choice.finish_reason)
        )
        rules = AnswerRules(most_tokens=ask.sampling.max_tokens)
        return AnswerStream(events, self._read_part, rules, first)

    def _watched_parts(
        self, ask: ServeRequest, ids: list[int], events: EventStream, choice: CompletionChoice
    ) -> WatchedStream:
        """The parts behind a first event, of an answer that the policy's monitor may stop."""
        reader = WatchedReader(self._watch_rules(ask, plugged=True))
        rules = AnswerRules(most_tokens=ask.sampling.max_tokens)
        parts = AnswerStream(events, reader.read, rules, reader.part_of(choice, skip=1))
        start = [*ids, self._encoder.token_ids[0]]
        return WatchedStream(parts, reader, partial(self._refuse, ask, start, reader.read))

    async def _decide_in_two_calls(self, ask: ServeRequest) -> ServeReply:
        """Decide in two calls, under a policy that the plug-in refuses.

        Errors of the caller were checked before.
        """
        # The plug-in never read this version if its file was replaced twice before the first
        # request under it.
        LOG.warning(
            "the plug-in does not hold policy %r as %s: decided here",
            ask.policy.name,
            ask.policy_digest,
        )
        return await TwoCallBackend.open(self, ask)

    def _body(self, ask: ServeRequest, ids: list[int], served: ServedModel) -> dict[str, Any]:
        """The request for control token and answer in one stream. ids: of the prompt."""
        room = self._tokens_left(ids, served)
        wanted = ask.sampling.max_tokens + 1  # the control token
        # The answer ends at once after the token of a category whose refusal is the policy's text.
        refusals = zip(self._encoder.token_ids[1:], ask.policy.categories, strict=True)
        silent = [i for i, c in refusals if c.own_text is not None]
        return {
            "model": self.model,
            "prompt": ids,
            **writing_fields(ask.sampling, wanted if room is None else min(wanted, room + 1)),
            **logprob_fields(self._encoder),
            "stop_token_ids": [
                *silent,
                *([] if self._end_of_turn is None else [self._end_of_turn]),
            ],
            "vllm_xargs": policy_args(ask),
        }

    async def _read_decision(
        self, events: EventStream, policy: Policy, served: ServedModel
    ) -> tuple[Floats, Decision, CompletionChoice]:
        """Score (C,), decision and choice, from the stream's first event with a token.

        Raises BackendDown where the emitted token is not the policy's decision on that score.
        """
        choice: CompletionChoice | None = None
        async for data in events:
            choice = single_choice(parse_body(data, Completion), served.answers_as)
            if choice is not None and choice.token_ids:
                break
        logp_C = self._checked_score(choice)
        decision = decide_or_doubt(policy, logp_C)
        # -1, which is no token's id, where the stream ended without a token
        emitted = (choice.token_ids if choice else None) or [-1]
        expected = self._encoder.token_ids[decision.column]
        if choice is None or emitted[0] != expected:
            LOG.error(
                "the plug-in emitted %d, the policy decides on %d: scores %s",
                emitted[0],
                expected,
                logp_C,
            )
            raise BackendDown(
                "the backend decided otherwise than the policy", "does it run demur's plug-in?"
            )
        return logp_C, decision, choice

    async def _check_upstream(self, before: ServedModel | None) -> ServedModel:
        """Check the model as TwoCallBackend does; the first time, also that the plug-in runs."""
        now = await TwoCallBackend._check_upstream(self, before)
        if before is not None:
            return now
        body = {"model": self.model, **decision_body(self._encoder, self._encoder.token_ids[:1])}
        body["vllm_xargs"] = {POLICY: _NO_POLICY}
        # The plug-in refuses an unknown policy; a server without it ignores the name and answers.
        try:
            await self._client.post("completions", body, partial(parse_body, kind=Completion))
        except BackendError:
            raise
        except EngineError:
            return now
        raise BackendDown(
            "the backend does not run demur's plug-in",
            "start vLLM with --logits-processors demur.engines.vllm_gate:RefusalGate",
        )


def policy_args(ask: ServeRequest) -> dict[str, Any]:
    """The `vllm_xargs` of a request: policy, digest and every threshold a caller may have moved."""
    policy = ask.policy
    args: dict[str, Any] = {POLICY: policy.name, DIGEST: ask.policy_digest}
    forced = any(c.override == "force" for c in policy.categories)
    bound = policy.rule == "sum" and any(c.active and c.locked for c in policy.categories)
    if policy.rule not in THRESHOLD_RULES or forced or bound:
        return args  # no threshold of such a policy can have been moved
    for name, category in zip(policy.taxonomy.names, policy.categories, strict=True):
        if category.may_emit and not category.locked:
            args[THRESHOLD + name] = (
                NEVER_WORD if math.isinf(category.threshold) else category.threshold
            )
    return args
