"""In front of a vLLM server that runs demur's plug-in: one call, decided over there and checked
here.

The stream opens with the control token that the plug-in forced and the scores that it decided on;
the same scores must lead to the same token here, under the policy that the caller was promised, or
the answer is not passed on.
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
    read_part,
    single_choice,
    writing_fields,
)
from demur.engines.vllm.policy_request import DIGEST, NEVER_WORD, POLICY, THRESHOLD
from demur.engines.vllm.two_call_backend import ServedModel, TwoCallBackend

_NOBODYS = "\x00"  # no policy has this name: a server that knows policies refuses it


@dataclass(kw_only=True, eq=False)
class PluginBackend(TwoCallBackend):
    """Implements demur.core.serving.Backend in front of vLLM with
    `demur.engines.vllm_gate:RefusalGate`.

    The server there reads the same policy files; each request names its policy, that policy's
    digest and the thresholds in force. A grammar hides the control tokens: JSON answers and tool
    calls take the gateway's two calls, and so do requests under a version of a policy that the
    plug-in does not hold.
    """

    async def open(self, ask: ServeRequest) -> ServeReply:
        """See TwoCallBackend.open. BackendDown also when the server's decision is not the
        policy's.
        """
        if ask.json_schema is not None or ask.tools:
            return await TwoCallBackend.open(self, ask)
        ask.policy.require_model(self.declared)
        seen = await self._checked()
        ids = await self._encode(ask.messages)
        body = self._body(ask, ids, seen)
        events: EventStream | None = None
        try:
            events = await self._client.stream("completions", body, undecided=True)
            logp_C, decision, first = await self._decided(events, ask.policy, seen)
        except BaseException as e:
            if events is not None:
                await events.aclose()
            if isinstance(e, EngineError) and not isinstance(e, BackendError | ScoreDoubt):
                return await self._decide_here(ask)
            raise
        parts: AsyncIterator[AnswerPart] = no_parts()
        if generates_nothing(ask, decision):
            await events.aclose()
        else:
            read = partial(read_part, model=seen.answers_as, banned=self._encoder.token_ids)
            parts = AnswerStream(
                events, read, AnswerRules(most_tokens=ask.sampling.max_tokens), first
            )
        return ServeReply(decision=decision, logp_C=logp_C, prompt_tokens=len(ids), parts=parts)

    async def _decide_here(self, ask: ServeRequest) -> ServeReply:
        """Two calls under a policy that the plug-in refuses. Whatever the caller could do wrong was
        checked before.
        """
        # The plug-in never saw this version if the file was replaced twice before the first request
        # under it came.
        LOG.warning(
            "the plug-in does not hold policy %r as %s: decided here",
            ask.policy.name,
            ask.policy_digest,
        )
        return await TwoCallBackend.open(self, ask)

    def _body(self, ask: ServeRequest, ids: list[int], seen: ServedModel) -> dict[str, Any]:
        room = self._room(ids, seen)
        wanted = ask.sampling.max_tokens + 1  # the control token
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

    async def _decided(
        self, events: EventStream, policy: Policy, seen: ServedModel
    ) -> tuple[Floats, Decision, AnswerPart]:
        """Score, decision and first part of a stream, from the event with its first token."""
        choice: CompletionChoice | None = None
        async for data in events:
            choice = single_choice(parse_body(data, Completion), seen.answers_as)
            if choice is not None and choice.token_ids:
                break
        logp_C = self._checked_score(choice)
        decision = decide_or_doubt(policy, logp_C)
        emitted, *rest = (choice.token_ids if choice else None) or [-1]
        expected = self._encoder.token_ids[decision.column]
        if choice is None or emitted != expected or set(rest) & set(self._encoder.token_ids):
            LOG.error(
                "the plug-in emitted %d, the policy decides on %d: scores %s",
                emitted,
                expected,
                logp_C,
            )
            raise BackendDown(
                "the backend decided otherwise than the policy", "does it run demur's plug-in?"
            )
        return (
            logp_C,
            decision,
            AnswerPart(text=choice.text, tokens=len(rest), finish=finish_of(choice.finish_reason)),
        )

    async def _check_upstream(self, before: ServedModel | None) -> ServedModel:
        """The first time, also whether the plug-in is there: it refuses a policy that nobody
        has.
        """
        now = await TwoCallBackend._check_upstream(self, before)
        if before is not None:
            return now
        body = {"model": self.model, **decision_body(self._encoder, self._encoder.token_ids[:1])}
        try:
            asked = {**body, "vllm_xargs": {POLICY: _NOBODYS}}
            await self._client.ask("completions", asked, partial(parse_body, kind=Completion))
        except BackendError:
            raise
        except EngineError:
            return now
        raise BackendDown(
            "the backend does not run demur's plug-in",
            "start vLLM with --logits-processors demur.engines.vllm_gate:RefusalGate",
        )


def policy_args(ask: ServeRequest) -> dict[str, Any]:
    """What the plug-in is told: the stored policy and every threshold that a caller may have
    moved.
    """
    policy = ask.policy
    args: dict[str, Any] = {POLICY: policy.name, DIGEST: ask.policy_digest}
    forced = any(c.override == "force" for c in policy.categories)
    bound = policy.rule == "sum" and any(c.active and c.locked for c in policy.categories)
    if policy.rule not in THRESHOLD_RULES or forced or bound:
        return args  # nothing of it can have been moved
    for name, category in zip(policy.taxonomy.names, policy.categories, strict=True):
        if category.may_emit and not category.locked:
            args[THRESHOLD + name] = (
                NEVER_WORD if math.isinf(category.threshold) else category.threshold
            )
    return args
