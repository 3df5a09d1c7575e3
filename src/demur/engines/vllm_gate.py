"""The vLLM plug-in: a logits processor that decides inside the server, in the prefill step.

    DEMUR_POLICIES=policies python -m vllm.entrypoints.openai.api_server \
        --model MODEL --logits-processors demur.engines.vllm_gate:RefusalGate

A request names its policy in `vllm_xargs`: {"demur_policy": NAME, "demur_digest": DIGEST,
"demur_threshold_safety": 0.7}; only the name is needed. Settings of the server are environment
variables: DEMUR_POLICIES, the folder; DEMUR_POLICY, the policy of requests that name none;
DEMUR_REQUIRE_POLICY=1, to refuse requests that would have none. Without the last two a request
without a policy passes untouched. See docs/vllm.md.

vLLM has two model runners with different interfaces; the class implements both.

1. V1: a request is a row of the batch, and its first token is due while its list of output ids is
   empty.
2. V2: a request has a slot, to which rows are mapped on the device; its first token is due where
   the last prompt token is read.
3. Decisions are not stored, since vLLM may read unfinished and preempted prompts more than once.
4. Under a policy with a monitor every later position is scored too, from the same logits, and the
   answer may be stopped there: demur.engines.vllm.open_answers.

Shapes: R rows of a step's logits, V vocabulary.
"""

from __future__ import annotations

import os
from functools import cache
from random import Random
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor as RowProcessor
from vllm.v1.sample.logits_processor import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotProcessor

from demur.base.errors import AccessError, DemurError, EngineError, PolicyError
from demur.core.policy import Policy
from demur.engines.gate import banned_ids
from demur.engines.vllm.batch_rows import (
    BatchRows,
    RequestSlots,
    RowRequest,
    force_decisions,
)
from demur.engines.vllm.open_answers import open_answer
from demur.engines.vllm.policies import PolicyRegistry, decode_policy
from demur.engines.vllm.policy_request import (
    EFFECTIVE,
    POLICY,
    check_answers,
    check_sampling,
    is_beam_search,
    read_request,
)
from demur.engines.vllm.served_model import require_unmodified, served_fingerprint

# Rows of draft tokens would be watched that are thrown away afterwards.
_SPECULATIVE = "the plug-in beside speculative decoding"


# vLLM may be absent where types are checked
class RefusalGate(RowProcessor, SlotProcessor):  # type: ignore[misc]
    """Forces the control token of each answer's decision and of a monitor's stop, and bans control
    tokens elsewhere.

    Raises PolicyError, which stops the server, when the policies were made for another model than
    the one served.
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Attach the policy that decides a request to its parameters.

        Raises ValueError, which vLLM answers with HTTP 400, on an unknown policy, an invalid
        threshold, beam search, sampling that would hide the decision, or answers that the policy's
        monitor was not calibrated on.
        """
        # EFFECTIVE is for this method alone to set: a client's value is dropped.
        args = {k: v for k, v in (sampling_params.extra_args or {}).items() if k != EFFECTIVE}
        try:
            if is_beam_search(sampling_params):
                raise AccessError("beam search drops a policy", "sample, or decode greedily")
            policy = _registry().effective(read_request(args))
            if policy is not None:
                check_sampling(sampling_params)
                check_answers(decode_policy(policy), sampling_params)
        except DemurError as e:
            raise ValueError(f"demur: {e.message} ({e.hint})") from None
        sampling_params.extra_args = {**args, EFFECTIVE: policy} if policy else args or None

    def __init__(self, vllm_config: Any, *args: Any) -> None:
        """V1 passes (vllm_config, device, is_pin_memory), V2 (vllm_config, states)."""
        require_unmodified(vllm_config)
        self._model = _registry().model
        if differing := self._model.differences(served_fingerprint(vllm_config, self._model)):
            raise PolicyError(
                "the policies were made for another model than "
                f"{vllm_config.model_config.model!r}: {', '.join(differing)} differ",
                "calibrate on this model's scores, or serve the one (and the --dtype) that they "
                "were made for",
            )
        device = args[0].device if len(args) == 1 else args[0]
        ids = banned_ids(self._model.token_ids)
        self._control_ids = torch.as_tensor(ids, device=device)
        # Processes that share a model draw alike: all of them sample the same token.
        self._draws = Random(vllm_config.model_config.seed)
        self._speculative = vllm_config.speculative_config is not None
        if self._speculative:
            _registry().require_no_monitor(_SPECULATIVE)
        self._rows = BatchRows(device, ids[1:].tolist())
        if len(args) == 1:
            self._slots = RequestSlots(
                args[0], exact=not self._speculative, refusal_ids=ids[1:].tolist()
            )

    def is_argmax_invariant(self) -> bool:
        """V1: no; vLLM skips processors that are argmax-invariant when it decodes greedily."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: update the rows of requests that enter, leave or move."""
        if process_dict_updates(self._rows.entries, batch_update, self._entry):
            self._rows.changed()

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: give a request a slot; returns whether it has a policy."""
        policy = self._policy(sampling_params)
        answer = None if policy is None else open_answer(policy, sampling_params, self._draws)
        return self._slots.take(req_idx, policy, answer)

    def apply_staged_writes(self) -> None:
        """V2: copy the policies of new slots to the device."""
        self._slots.flush()

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Change the logits (R, V) in place. ctx: mapping of the step's rows to slots, V2 only."""
        if ctx is not None:
            due, watched = self._slots.due(ctx), self._slots.watched(ctx)
            force_decisions(logits, due, watched, self._slots.mask(ctx), self._control_ids)
        elif self._rows.entries:
            due, watched = self._rows.due(), self._rows.watched()
            mask_R = self._rows.mask(len(logits))
            force_decisions(logits, due, watched, mask_R, self._control_ids)
        return logits

    def _entry(self, params: Any, _prompt: Any, written: list[int]) -> RowRequest | None:
        """V1: state of a request's row. written: its output ids, which vLLM extends."""
        policy = self._policy(params)
        if policy is None:
            return None
        answer = open_answer(policy, params, self._draws)
        return RowRequest(policy=policy, written=written, answer=answer)

    def _policy(self, params: Any) -> Policy | None:
        """Policy that validate_params attached to a request; None without one.

        An error here stops the server, which is better than an undecided answer.
        """
        args = params.extra_args or {}
        if EFFECTIVE not in args:
            if POLICY in args:
                raise EngineError(
                    "a request with a policy was not checked",
                    "load demur by --logits-processors only",
                )
            return None
        policy = decode_policy(args[EFFECTIVE])
        if policy.fingerprint != self._model:
            raise EngineError(
                f"policy {policy.name!r} was made for another model", "restart with its model"
            )
        if self._speculative:
            policy.require_no_monitor(_SPECULATIVE)
        return policy


@cache
def _registry() -> PolicyRegistry:
    """Policies of this process, read on first use."""
    return PolicyRegistry.from_environment(os.environ)
