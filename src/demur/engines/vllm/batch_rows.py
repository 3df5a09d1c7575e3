"""Find the rows of a vLLM batch whose first token is due or whose answer is open, and force tokens.

1. `BatchRows` (model runner V1) and `RequestSlots` (V2) know which rows have a policy, which of
   them are due: about to emit the first token of their answer, and which answers are open: a
   monitor may still stop them.
2. `force_decisions` leaves a due row one control token, the policy's decision; an answer that is
   stopped its refusal token; and removes all control tokens from every other row with a policy.
Shapes: R rows of a step's logits, F of them due, W open, G due under one policy, V vocabulary, C
control tokens (column 0 = respond), S request slots.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from demur.base.arrays import Floats, Ints
from demur.base.errors import ScoreError
from demur.core.policy import Policy
from demur.engines.gate import forced_ids
from demur.engines.heads import control_scores
from demur.engines.vllm.open_answers import OpenAnswer, ending_id, stop_columns

LOG = logging.getLogger(__name__)

# rows whose first token is chosen in this step, each with the policy that decides it
Due = Sequence[tuple[int, Policy]]
# rows whose answer is open, each with that answer
Watched = Sequence[tuple[int, OpenAnswer]]


@dataclass(kw_only=True, slots=True, eq=False)
class RowRequest:
    """Model runner V1: a request with a policy, in a row of the batch."""

    policy: Policy
    written: Sequence[int]  # its output ids so far, a list that vLLM appends to
    answer: OpenAnswer | None = None  # None: the policy has no monitor
    _read: int = 0  # ids of `written` that were looked at
    _refused: bool = False  # one of them is a refusal token

    def is_open(self, refusal_ids: frozenset[int]) -> bool:
        """Whether the monitor may stop the answer at its next token."""
        if self.answer is None or not self.written:
            return False
        if len(self.written) < self._read:  # vLLM took tokens back: it lost their cache
            self._read, self._refused = 0, False
        if not refusal_ids.isdisjoint(self.written[self._read :]):
            self._refused = True
        self._read = len(self.written)
        return not self._refused


def force_decisions(
    logits_RV: torch.Tensor,
    due: Due,
    watched: Watched,
    mask_R: torch.Tensor | None,
    control_ids: torch.Tensor,
) -> None:
    """Force each due row's control token and each stop's, and ban control tokens from the mask's
    other rows.

    logits_RV: changed in place. mask_R: the rows with a policy, due and watched ones among them;
    None: all rows. Runs at every decoding step.
    """
    rows = [row for row, _ in (*due, *watched)]
    forced: dict[int, int] = {}  # row -> id
    # Scores are read before any logit is changed.
    if rows:
        ids_C = control_ids.tolist()
        logp_NC = _scores(logits_RV, rows, ids_C)
        chosen_F = _chosen_ids(logp_NC[: len(due)], due, ids_C)
        forced = dict(zip(rows[: len(due)], chosen_F.tolist(), strict=True))
        if watched:
            forced |= _stop_ids(logits_RV, watched, logp_NC[len(due) :], ids_C)
    if mask_R is None:
        logits_RV.index_fill_(1, control_ids, -torch.inf)
    else:
        logits_RV[:, control_ids] = logits_RV[:, control_ids].masked_fill(
            mask_R[:, None], -torch.inf
        )
    if forced:
        index_F = torch.tensor(list(forced), device=logits_RV.device)
        logits_RV.index_fill_(0, index_F, -torch.inf)
        logits_RV[index_F, torch.tensor(list(forced.values()), device=logits_RV.device)] = 0.0


def _scores(logits_RV: torch.Tensor, rows: Sequence[int], control_ids: Sequence[int]) -> Floats:
    """Scores of some rows, in their order. Rows are copied only if not all are wanted."""
    if len(rows) == len(logits_RV):
        return control_scores(logits_RV, control_ids)[rows]
    return control_scores(logits_RV[torch.tensor(rows, device=logits_RV.device)], control_ids)


def _stop_ids(
    logits_RV: torch.Tensor, watched: Watched, logp_WC: Floats, control_ids: Sequence[int]
) -> dict[int, int]:
    """Row -> id of each answer that ends or is stopped here: its end token or a refusal token."""
    ids: dict[int, int] = {}
    for at, column in stop_columns([answer for _, answer in watched], logp_WC).items():
        row, answer = watched[at]
        writable_V = logits_RV[row].float().clone()
        writable_V[list(control_ids)] = -torch.inf
        end = ending_id(writable_V, answer)
        ids[row] = control_ids[column] if end is None else end
    return ids


def _chosen_ids(logp_FC: Floats, due: Due, control_ids: Sequence[int]) -> Ints:
    """The control id that each due row must emit, (F,): one call of decide_many per policy."""
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

    def __init__(self, device: torch.device, refusal_ids: Sequence[int] = ()) -> None:
        self.entries: dict[int, RowRequest] = {}
        self._device = device
        self._refusal_ids = frozenset(refusal_ids)
        self._mask_R = torch.empty(0, dtype=torch.bool)  # empty: to be made again

    def changed(self) -> None:
        """Drop the mask; to be called after a change of `entries`."""
        self._mask_R = torch.empty(0, dtype=torch.bool)

    def due(self) -> Due:
        """The rows without output: their next token is the first."""
        return sorted(
            ((row, one.policy) for row, one in self.entries.items() if not one.written),
            key=itemgetter(0),
        )

    def watched(self) -> Watched:
        """The rows whose answer is open."""
        return sorted(
            (
                (row, one.answer)
                for row, one in self.entries.items()
                if one.answer is not None and one.is_open(self._refusal_ids)
            ),
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

    def __init__(self, states: Any, *, exact: bool, refusal_ids: Sequence[int] = ()) -> None:
        self._states, self._exact = states, exact
        self._refusals = torch.as_tensor(list(refusal_ids), device=states.device)
        self._policies: dict[int, Policy] = {}
        self._answers: dict[int, OpenAnswer] = {}
        # slots with a policy, and those with an open answer, on the host and on the device
        self._taken_S = np.zeros(states.max_num_reqs, dtype=np.bool_)
        self._mask_S = torch.zeros(states.max_num_reqs, dtype=torch.bool, device=states.device)
        self._open_S = torch.zeros_like(self._mask_S)
        self._new: list[int] = []  # slots taken since the last flush

    def take(self, slot: int, policy: Policy | None, answer: OpenAnswer | None = None) -> bool:
        """Give a slot to a new request, or to one that goes on after it was preempted.

        Returns whether the request has a policy.
        """
        self._policies.pop(slot, None)
        self._answers.pop(slot, None)
        if policy is not None:
            self._policies[slot] = policy
        if answer is not None:
            self._answers[slot] = answer
        self._taken_S[slot] = policy is not None
        self._new.append(slot)
        return policy is not None

    def flush(self) -> None:
        """Copy the host's slots to the device, once a step however many requests came."""
        if not self._new:
            return
        self._mask_S.copy_(torch.from_numpy(self._taken_S))
        for slot in self._new:
            self._open_S[slot] = slot in self._answers and not self._has_refusal(slot)
        self._new.clear()

    def _has_refusal(self, slot: int) -> bool:
        """Whether a refusal token stands in what a preempted request had written."""
        start, end = int(self._states.prompt_len.np[slot]), int(self._states.prefill_len.np[slot])
        written = self._states.all_token_ids.gpu[slot, start:end]
        return end > start and bool(torch.isin(written, self._refusals).any())

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

    def watched(self, ctx: Any) -> Watched:
        """The rows whose answer is open."""
        if not any(slot in self._answers for slot in ctx.idx_mapping_np.tolist()):
            return ()
        slot_R = ctx.expanded_idx_mapping.long()
        # The row reads a token of the answer, and writes the next one.
        open_R = self._open_S[slot_R] & (ctx.pos >= self._states.prompt_len.gpu[slot_R])
        refused_R = open_R & torch.isin(ctx.input_ids, self._refusals)
        self._open_S[slot_R[refused_R]] = False
        row_W = (open_R & ~refused_R).nonzero()[:, 0]
        pairs = zip(row_W.tolist(), slot_R[row_W].tolist(), strict=True)
        return [(row, self._answers[slot]) for row, slot in pairs]

    def mask(self, ctx: Any) -> torch.Tensor | None:
        """Which rows have a policy, (R,); None: all."""
        if self._taken_S[ctx.idx_mapping_np].all():
            return None
        return self._mask_S[ctx.expanded_idx_mapping.long()]
