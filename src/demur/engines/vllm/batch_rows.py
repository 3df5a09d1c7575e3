"""Find the rows of a vLLM batch whose first token is due, and force their control tokens.

1. `BatchRows` (model runner V1) and `RequestSlots` (V2) know which rows have a policy, and which of
   them are due: about to emit the first token of their answer.
2. `force_decisions` leaves a due row one control token, the policy's decision, and removes all
   control tokens from every other row with a policy.
Shapes: R rows of a step's logits, F of them due, G due under one policy, V vocabulary, C control
tokens (column 0 = respond), S request slots.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from demur.base.arrays import Floats, Ints
from demur.base.errors import ScoreError
from demur.core.policy import Policy
from demur.engines.gate import forced_ids
from demur.engines.heads import control_scores

LOG = logging.getLogger(__name__)

# rows whose first token is chosen in this step, each with the policy that decides it
Due = Sequence[tuple[int, Policy]]


def force_decisions(
    logits_RV: torch.Tensor, due: Due, mask_R: torch.Tensor | None, control_ids: torch.Tensor
) -> None:
    """Force each due row's control token and ban control tokens from the mask's other rows.

    logits_RV: changed in place. mask_R: the rows with a policy, the due ones among them; None: all
    rows. Runs at every decoding step.
    """
    rows = [row for row, _ in due]
    # Scores are read before any logit is changed. Rows are copied only where some are not due,
    # since V is large.
    if rows:
        index_F = torch.tensor(rows, device=logits_RV.device)
        read_FV = logits_RV if rows == list(range(len(logits_RV))) else logits_RV[index_F]
        chosen_F = torch.as_tensor(
            _chosen_ids(read_FV, due, control_ids.tolist()), device=logits_RV.device
        )
    if mask_R is None:
        logits_RV.index_fill_(1, control_ids, -torch.inf)
    else:
        logits_RV[:, control_ids] = logits_RV[:, control_ids].masked_fill(
            mask_R[:, None], -torch.inf
        )
    if rows:
        logits_RV.index_fill_(0, index_F, -torch.inf)
        logits_RV[index_F, chosen_F] = 0.0


def _chosen_ids(logits_FV: torch.Tensor, due: Due, control_ids: Sequence[int]) -> Ints:
    """The control id that each due row must emit, (F,): one call of decide_many per policy."""
    logp_FC = control_scores(logits_FV, control_ids)
    # id(policy) -> (policy, places in `due`); equal policies are one object: policies.decode_policy
    groups: dict[int, tuple[Policy, list[int]]] = {}
    for at, (_, policy) in enumerate(due):
        groups.setdefault(id(policy), (policy, []))[1].append(at)
    chosen_F = np.empty(len(due), dtype=np.int64)
    for policy, at_G in groups.values():
        chosen_F[at_G] = _fail_closed_ids(policy, control_ids, logp_FC[at_G])
    return chosen_F


def _fail_closed_ids(policy: Policy, control_ids: Sequence[int], logp_NC: Floats) -> Ints:
    """The control id of each row, (N,); a refusal for a row whose score is invalid, such as NaN.

    An error would stop the server for every request, and an unchanged row would be an answer that
    no policy decided on.
    """
    try:
        return forced_ids(policy, control_ids, logp_NC)
    except ScoreError as e:
        if len(logp_NC) > 1:  # row by row, so that the valid ones are decided as ever
            return np.concatenate(
                [_fail_closed_ids(policy, control_ids, row_C[None]) for row_C in logp_NC]
            )
        column = _refusing_column(policy)
        LOG.error(
            "policy %r: a prompt that cannot be scored gets column %d: %s",
            policy.name,
            column,
            e.message,
        )
        return np.array([control_ids[column]])


def _refusing_column(policy: Policy) -> int:
    """The score column of the refusal for a row with an invalid score.

    The first category that is forced, else that may be emitted, else that is not suppressed, else
    any.
    """
    columns = range(1, len(policy.categories) + 1)
    allowed = [k for k in columns if policy.categories[k - 1].may_emit]
    unsuppressed = [k for k in columns if policy.categories[k - 1].override != "suppress"]
    forced = [k for k in columns if policy.categories[k - 1].override == "force"]
    order: list[int] = [*forced, *allowed, *unsuppressed, *columns]
    return order[0]


class BatchRows:
    """Model runner V1: requests by row of the batch. vLLM's own function updates `entries`."""

    def __init__(self, device: torch.device) -> None:
        # row -> its policy and its output ids so far, a list that vLLM appends to
        self.entries: dict[int, tuple[Policy, Sequence[int]]] = {}
        self._device = device
        self._mask_R = torch.empty(0, dtype=torch.bool)  # empty: to be made again

    def changed(self) -> None:
        """Drop the mask; to be called after a change of `entries`."""
        self._mask_R = torch.empty(0, dtype=torch.bool)

    def due(self) -> Due:
        """The rows without output: their next token is the first."""
        return sorted(
            ((row, policy) for row, (policy, written) in self.entries.items() if not written),
            key=itemgetter(0),
        )

    def mask(self, rows: int) -> torch.Tensor | None:
        """Which rows have a policy, (R,); None: all. rows: R."""
        if len(self.entries) == rows:
            return None
        if len(self._mask_R) != rows:
            mask_R = torch.zeros(rows, dtype=torch.bool)
            mask_R[list(self.entries)] = True
            self._mask_R = mask_R.to(self._device)
        return self._mask_R


class RequestSlots:
    """Model runner V2: requests by slot, rows mapped to slots on the device.

    states: vLLM's per-slot state. exact: whether the host knows the length of each sequence, which
    it does without speculative decoding. The host's lengths only rule out steps in which no row can
    be due, so that those need not wait for the device; due rows are found on the device, where a
    step may order, shard or repeat rows in any way.
    """

    def __init__(self, states: Any, *, exact: bool) -> None:
        self._states, self._exact = states, exact
        self._policies: dict[int, Policy] = {}
        # slots with a policy, on the host and on the device
        self._taken_S = np.zeros(states.max_num_reqs, dtype=np.bool_)
        self._mask_S = torch.zeros(states.max_num_reqs, dtype=torch.bool, device=states.device)
        self._stale = False

    def take(self, slot: int, policy: Policy | None) -> bool:
        """Give a slot to a new request. Returns whether the request has a policy."""
        self._policies.pop(slot, None)
        if policy is not None:
            self._policies[slot] = policy
        self._taken_S[slot] = policy is not None
        self._stale = True
        return policy is not None

    def flush(self) -> None:
        """Copy the host's slots to the device, once a step however many requests came."""
        if self._stale:
            self._mask_S.copy_(torch.from_numpy(self._taken_S))
            self._stale = False

    def due(self, ctx: Any) -> Due:
        """The rows that read the last token of their prompt."""
        slots = ctx.idx_mapping_np
        # On the host, per request: upper bounds of the lengths, and prompt lengths.
        length, prompt = (
            ctx.seq_lens_upper_bound_np[: len(slots)],
            self._states.prompt_len.np[slots],
        )
        maybe = self._taken_S[slots] & (length >= prompt)
        if self._exact:
            maybe &= length == prompt
        if not maybe.any():
            return ()
        # On the device, per row: with speculative decoding a request has several rows, of which the
        # one at the last prompt token is due.
        slot_R = ctx.expanded_idx_mapping.long()
        due_R = self._mask_S[slot_R] & (ctx.pos + 1 == self._states.prompt_len.gpu[slot_R])
        row_F = due_R.nonzero()[:, 0]
        pairs = zip(row_F.tolist(), slot_R[row_F].tolist(), strict=True)
        return [(row, self._policies[slot]) for row, slot in pairs]

    def mask(self, ctx: Any) -> torch.Tensor | None:
        """Which rows have a policy, (R,); None: all."""
        if self._taken_S[ctx.idx_mapping_np].all():
            return None
        return self._mask_S[ctx.expanded_idx_mapping.long()]
