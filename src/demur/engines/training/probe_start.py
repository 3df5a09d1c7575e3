"""Initial output-head rows for control tokens, from a linear probe on the base model's states.

A row that starts anywhere else first has to learn what a logistic regression finds in a minute, and
until then sends gradients through layers that need no change (linear probing before fine-tuning
distorts pretrained features least: Kumar et al. 2022, arXiv 2202.10054). Here

1. h, the last hidden state of each prompt, is read once;
2. a logistic regression on h, scaled to unit variance, gives a weight and an intercept for each
   control token;
3. an output head has no intercepts: u, the ridge solution of u . h = 1, carries them;
4. v, the ridge solution of v . h = logsumexp of all other tokens' logits + MARGIN, lifts all
   control tokens above the rest of the vocabulary, so that next to no mass is left over.

Shapes: N prompts, T tokens, d width, C control tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression

from demur.base.errors import EngineError
from demur.engines.training.batches import TOKENS_PER_BATCH, TrainingRow, by_length
from demur.engines.training.frozen_layers import stacked

MOST_ROWS = 4000  # a probe has a few hundred weights a token, and gains little from more rows
# C of the regression: of .003 and .03 the better one on rows of the calibrate split
STRENGTH = 0.003
MARGIN = 5.0  # nats between all control tokens together and the rest: e^-5 is left over
RIDGE = 1e-3  # penalty of the ridge regressions, relative to an input's sum of squares


def probe_rows(
    model: Any,
    states: Sequence[torch.Tensor],
    rows: Sequence[TrainingRow],
    control_ids: Sequence[int],
    *,
    seed: int,
) -> torch.Tensor:
    """Fit rows of the output head for the control tokens: (C, d) float32.

    model: a cut model (engines.training.frozen_layers) that reads states[n] (T, d) for rows[n]. At
    most MOST_ROWS rows are read, drawn by `seed`. Raises EngineError when a control token answers
    none of the rows.
    """
    column = {token: c for c, token in enumerate(control_ids)}
    at = []  # position of the last answer's control token in each row
    for row in rows:
        at.append(max(n for n, label in enumerate(row.labels) if label in column))
    tokens = [row.labels[end] for row, end in zip(rows, at, strict=True)]
    # MOST_ROWS rows at random, and the first row of every control token in any case (reversed: of
    # equal keys a dictionary keeps the last value).
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    first = {tokens[n]: n for n in reversed(range(len(rows)))}
    drawn = sorted({*order[:MOST_ROWS], *first.values()})
    if missing := set(control_ids) - set(first):
        raise EngineError(
            "no training row of at most train.max_length tokens for control token ids "
            f"{sorted(missing)}",
            "raise train.max_length, or set train.control_start = 'words'",
        )
    column_N = torch.tensor([column[tokens[n]] for n in drawn])
    hidden_Nd = _last_hidden(model, [states[n][: at[n]] for n in drawn])
    return fitted(hidden_Nd, column_N, _others(model, hidden_Nd, control_ids))


def fitted(hidden_Nd: torch.Tensor, column_N: torch.Tensor, others_N: torch.Tensor) -> torch.Tensor:
    """Rows (C, d) whose logits on hidden_Nd decide as a logistic regression on column_N does.

    others_N: logsumexp of all other tokens' logits, above which the control tokens are lifted.
    """
    mean_d, spread_d = hidden_Nd.mean(dim=0), hidden_Nd.std(dim=0).clamp_min(1e-6)
    scaled_Nd = ((hidden_Nd - mean_d) / spread_d).numpy()
    probe = LogisticRegression(C=STRENGTH, max_iter=300).fit(scaled_Nd, column_N.numpy())
    weight_Cd = torch.as_tensor(probe.coef_, dtype=torch.float32)
    bias_C = torch.as_tensor(probe.intercept_, dtype=torch.float32)
    if len(weight_Cd) == 1:  # of two classes a regression states the second's logit alone
        weight_Cd, bias_C = torch.cat([-weight_Cd, weight_Cd]) / 2, torch.cat([-bias_C, bias_C]) / 2
    # Undo the scaling: weights for the hidden states themselves.
    weight_Cd = weight_Cd / spread_d
    bias_C = bias_C - weight_Cd @ mean_d
    one_d = _ridge(hidden_Nd, torch.ones(len(hidden_Nd)))
    lift_d = _ridge(hidden_Nd, others_N + MARGIN)
    return weight_Cd + bias_C[:, None] * one_d + lift_d


@torch.inference_mode()
def _last_hidden(model: Any, prompts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hidden state of each prompt's last token, as the output head reads it: (N, d) float32."""
    body, device = model.get_decoder(), next(model.parameters()).device
    hidden_Nd = torch.zeros(len(prompts), prompts[0].shape[1])
    for batch in by_length([len(p) for p in prompts], TOKENS_PER_BATCH):
        states_BTd = stacked([prompts[n] for n in batch]).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found_BTd = body(inputs_embeds=states_BTd, use_cache=False).last_hidden_state
        for row, n in enumerate(batch):
            hidden_Nd[n] = found_BTd[row, len(prompts[n]) - 1].float().cpu()
    return hidden_Nd


@torch.inference_mode()
def _others(model: Any, hidden_Nd: torch.Tensor, control_ids: Sequence[int]) -> torch.Tensor:
    """Logsumexp of all other tokens' logits: (N,)."""
    head = model.get_output_embeddings()
    device = next(model.parameters()).device
    found = []
    for part_Nd in hidden_Nd.split(256):  # N x V logits at once would not fit
        logits_NV = head(part_Nd.to(device)).float()
        logits_NV[:, list(control_ids)] = -torch.inf
        found.append(torch.logsumexp(logits_NV, dim=1).cpu())
    return torch.cat(found)


def _ridge(hidden_Nd: torch.Tensor, wanted_N: torch.Tensor) -> torch.Tensor:
    """Ridge regression: w (d,) with hidden_Nd @ w near wanted_N.

    The penalty on each weight is relative to its input's sum of squares.
    """
    h = hidden_Nd.double()
    gram_dd = h.T @ h
    penalty_dd = torch.diag(RIDGE * gram_dd.diagonal() + 1e-12)
    weight_d: torch.Tensor = torch.linalg.solve(gram_dd + penalty_dd, h.T @ wanted_N.double())
    return weight_d.float()
