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
5. Where a policy's monitor would stop a row, the row's next token is chosen as the monitor's
   answers were written, greedily or by a draw. If the model writes on, the gate forces the refusal
   token there; if it ends its answer, the gate forces that end.

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
from demur.core.midway.monitor import Monitor, MonitorState, Stop
from demur.core.policy import Policy
from demur.core.serving import Sampling
from demur.engines.gate import banned_ids, settled_ids
from demur.engines.heads import control_scores
from demur.engines.hf.sample import next_tokens


class RefusalGate(LogitsProcessor):
    """Forces the control token of each row's decision, and bans control tokens after it, but for
    the refusal token of a stop.

    policies: one for all rows, or one per prompt; a prompt returned n times has its policy n times.
    control_ids: C ids in the order of a score's columns. prompt_length: columns of the padded batch
    passed to `generate`. stop_ids: that end an answer; the model's own if None.

    `stops` holds, by row, where a monitor has stopped it: its answer are the tokens ahead of that
    position, its refusal those behind. A promise on stops holds where `generate` samples as
    `policy.monitor.answers` says.

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
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        self._model = model
        self._policies = [policies] if isinstance(policies, Policy) else list(policies)
        for policy in self._policies:
            policy.require_no_deferral("RefusalGate")
        self._control_ids = banned_ids(control_ids)
        self._prompt_length = prompt_length
        self._raw_RV: torch.Tensor | None = None  # raw logits of the last forward pass
        # prompts and forced ids of the generation that is under way, padding included
        self._opening_RT: torch.Tensor | None = None
        self._hook: Any = None
        self._end_ids = _end_ids(model) if stop_ids is None else frozenset(stop_ids)
        # by row; None: not watched, or no longer
        self._states: list[MonitorState | None] = []
        self.stops: list[Stop | None] = []

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
            self._watch_rows(ids_R.tolist())
            return torch.full_like(scores, -torch.inf).scatter(1, ids_R[:, None], 0.0)
        if self._opening_RT is None or not torch.equal(input_ids[:, : width + 1], self._opening_RT):
            raise EngineError(
                f"{len(scores)} rows of {input_ids.shape[1]} tokens were not decided after "
                f"{width} tokens",
                "prompt_length is the width of the padded batch: batch.input_ids.shape[1]",
            )
        banned_C = torch.as_tensor(self._control_ids, device=scores.device)
        masked = scores.index_fill(1, banned_C, -torch.inf)
        for r, token in self._stopped(input_ids, masked).items():
            masked[r] = torch.full_like(masked[r], -torch.inf)
            masked[r, token] = 0.0
        return masked

    def _watch_rows(self, first_ids: Sequence[int]) -> None:
        """Begin to watch the rows that are answered under a policy with a monitor."""
        policies = self._by_row(len(first_ids))
        respond = int(self._control_ids[0])
        self.stops = [None] * len(policies)
        self._states = [
            MonitorState(policy.monitor)
            if policy.monitor is not None and first == respond
            else None
            for policy, first in zip(policies, first_ids, strict=True)
        ]

    def _stopped(self, input_ids: torch.Tensor, masked: torch.Tensor) -> dict[int, int]:
        """The id that is forced on each row that a monitor stops, or would stop, here."""
        for r, last in enumerate(input_ids[:, -1].tolist()):
            if last in self._end_ids:  # the row has ended; what follows is padding
                self._states[r] = None
        watched = [r for r, state in enumerate(self._states) if state is not None]
        if not watched or self._raw_RV is None:
            return {}
        policies, forced = self._by_row(len(masked)), {}
        logp_RC = control_scores(self._raw_RV[watched], self._control_ids.tolist())
        for r, logp_C in zip(watched, logp_RC, strict=True):
            state, monitor = self._states[r], policies[r].monitor
            stop = None if state is None else state.push(logp_C)
            if stop is None or monitor is None:
                continue
            self._states[r] = None
            token = self._chosen(masked[r], monitor)
            if token in self._end_ids:
                forced[r] = token
            else:
                self.stops[r], forced[r] = stop, int(self._control_ids[stop.column])
        return forced

    def _chosen(self, scores_V: torch.Tensor, monitor: Monitor) -> int:
        """The token that the model would write here, chosen as the monitor's answers were."""
        answers = monitor.answers
        how = Sampling(temperature=answers.temperature, top_p=answers.top_p)
        return next_tokens(scores_V[None].float(), [how], [float(torch.rand(()))])[0]

    def _by_row(self, rows: int) -> list[Policy]:
        """The policy of each row; generate puts the copies of a prompt one after the other."""
        copies = rows // len(self._policies)
        return [policy for policy in self._policies for _ in range(copies)]

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
        copies, rest = divmod(len(scores), len(self._policies))
        if rest or not copies:
            raise EngineError(
                f"{len(self._policies)} policies for {len(scores)} rows",
                "give one policy, or one per prompt",
            )
        logp_RC = control_scores(raw_RV, self._control_ids.tolist())
        ids_R = np.empty(len(scores), dtype=np.int64)
        # Rows of one policy are decided together: (R,) identities of each row's policy.
        own_R = np.array([id(policy) for policy in self._by_row(len(scores))])
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


def _end_ids(model: Any) -> frozenset[int]:
    """Ids with which `generate` ends or pads a row of the model, by its generation settings."""
    config = getattr(model, "generation_config", None)
    found = (getattr(config, "eos_token_id", None), getattr(config, "pad_token_id", None))
    ids: set[int] = set()
    for one in found:
        ids |= {one} if isinstance(one, int) else set(one or ())
    return frozenset(ids)
