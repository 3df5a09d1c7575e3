"""demur inside transformers' `model.generate`: a logits processor with a policy per row.

    gate = RefusalGate(model, policies, control_ids, prompt_length=batch.input_ids.shape[1])
    with gate:
        model.generate(**batch, logits_processor=LogitsProcessorList([gate]))

1. A forward hook keeps the model's raw logits, before any other processor.
2. At the first answer position the gate compares them with the scores that `generate` passes. If
   they differ, the decision would rest on other numbers than calibration did, and it raises: so
   beam search, assisted decoding, penalties and processors before the gate are refused.
3. It decides each row by its policy and leaves the decided control token alone finite.
4. At later positions it checks that the rows are those it decided, and bans control tokens.

Greedy decoding, sampling and num_return_sequences work; batches are padded on the left. Shapes: R
rows that are written, V vocabulary, T columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from demur.base.arrays import Ints
from demur.base.errors import EngineError
from demur.core.policy import Policy
from demur.engines.gate import banned_ids, settled_ids
from demur.engines.heads import control_scores


class RefusalGate(LogitsProcessor):
    """Forces the control token of each row's decision, and bans control tokens after it.

    policies: one for all rows, or one per prompt; a prompt returned n times has its policy n times.
    control_ids: C ids in the order of a score's columns. prompt_length: columns of the padded batch
    passed to `generate`.

    A call raises EngineError, with the cause, when the decision cannot be made or the ban cannot
    hold.
    """

    def __init__(
        self,
        model: Any,
        policies: Policy | Sequence[Policy],
        control_ids: Sequence[int],
        *,
        prompt_length: int,
    ) -> None:
        self._model = model
        self._policies = [policies] if isinstance(policies, Policy) else list(policies)
        for policy in self._policies:
            policy.require_no_monitor("RefusalGate")
        self._control_ids = banned_ids(control_ids)
        self._prompt_length = prompt_length
        self._raw_RV: torch.Tensor | None = None  # raw logits of the last forward pass
        # prompts and forced ids of the generation that is under way, padding included
        self._opening_RT: torch.Tensor | None = None
        self._hook: Any = None

    def __enter__(self) -> RefusalGate:
        """Begin to record the model's raw logits."""
        self._hook = self._model.register_forward_hook(self._watch, with_kwargs=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop recording."""
        self._hook.remove()
        self._raw_RV = self._opening_RT = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask scores (R, V): one finite entry a row at the first position, no control id later."""
        width = self._prompt_length
        if input_ids.shape[1] == width:
            ids_R = torch.as_tensor(self._decide(scores), device=scores.device)
            self._opening_RT = torch.cat([input_ids, ids_R[:, None]], dim=1)
            return torch.full_like(scores, -torch.inf).scatter(1, ids_R[:, None], 0.0)
        if self._opening_RT is None or not torch.equal(input_ids[:, : width + 1], self._opening_RT):
            raise EngineError(
                f"{len(scores)} rows of {input_ids.shape[1]} tokens were not decided after "
                f"{width} tokens",
                "prompt_length is the width of the padded batch: batch.input_ids.shape[1]",
            )
        banned_C = torch.as_tensor(self._control_ids, device=scores.device)
        return scores.index_fill(1, banned_C, -torch.inf)

    def _decide(self, scores: torch.Tensor) -> Ints:
        """Control id of each row, (R,), decided on its raw logits by its policy."""
        raw_RV = self._raw_RV
        if raw_RV is None:
            raise EngineError(
                "the gate has seen no logits of the model",
                "call generate inside `with gate:`, unassisted",
            )
        if raw_RV.shape != scores.shape or not torch.equal(raw_RV.float(), scores.float()):
            raise EngineError(
                f"scores {tuple(scores.shape)} are not the model's logits {tuple(raw_RV.shape)}: "
                "something came before",
                "no beam search, assisted decoding, penalties or min_new_tokens; no logits "
                "processor before the gate",
            )
        # generate repeats each prompt num_return_sequences times, its copies one after the other.
        copies, rest = divmod(len(scores), len(self._policies))
        if rest or not copies:
            raise EngineError(
                f"{len(self._policies)} policies for {len(scores)} rows",
                "give one policy, or one per prompt",
            )
        logp_RC = control_scores(raw_RV, self._control_ids.tolist())
        ids_R = np.empty(len(scores), dtype=np.int64)
        # Rows of one policy are decided together: (R,) identities of each row's policy.
        own_R = np.repeat([id(policy) for policy in self._policies], copies)
        for policy in {id(policy): policy for policy in self._policies}.values():
            rows = own_R == id(policy)
            ids_R[rows] = settled_ids(policy, self._control_ids.tolist(), logp_RC[rows])
        return ids_R

    def _watch(
        self, _model: Any, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Forward hook: keep the last position's logits. Raises EngineError on right padding."""
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and not bool(mask[:, -1].all()):
            raise EngineError(
                "a row of the batch ends in padding",
                "pad on the left: tokenizer.padding_side = 'left'",
            )
        self._raw_RV = output.logits[:, -1]
