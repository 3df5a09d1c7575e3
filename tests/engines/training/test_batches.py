"""What a training batch holds, and what its tokens count."""

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from demur.engines.training.batches import IGNORE, TokenBudgetBatches, TrainingRow
from demur.engines.training.trainer import LossWeights

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)  # tokens of rows


def made(lengths: Sequence[int]) -> list[TrainingRow]:
    return [TrainingRow(input_ids=[0] * n, labels=[0] * n) for n in lengths]


def batches(lengths: Sequence[int], epoch: int = 0, world: int = 1) -> list[list[list[int]]]:
    """By process, the batches of an epoch as rows."""
    found = []
    for rank in range(world):
        sampler = TokenBudgetBatches(made(lengths), budget=120, seed=1, rank=rank, world=world)
        sampler.set_epoch(epoch)
        found.append([[index - epoch * len(lengths) for index in batch] for batch in sampler])
    return found


@given(lengths=LENGTHS, epoch=st.integers(0, 2))
def test_every_row_is_in_one_batch_of_each_epoch(lengths: list[int], epoch: int) -> None:
    rows = [row for batch in batches(lengths, epoch)[0] for row in batch]
    assert sorted(rows) == list(range(len(lengths)))


@given(lengths=LENGTHS.filter(lambda s: len(s) > 1), epoch=st.integers(0, 2))
def test_two_processes_see_the_halves_of_what_one_with_as_large_batches_sees(
    lengths: list[int], epoch: int
) -> None:
    left, right = batches(lengths, epoch, world=2)
    assert len(left) == len(right)
    assert all(left)
    assert all(right)
    rows = [row for batch in (*left, *right) for row in batch]
    assert sorted(rows) == list(range(len(lengths)))


CONTROL, REFUSAL, WORD = 5, 6, 9
TARGETS_BT = torch.tensor([[IGNORE, CONTROL, WORD], [IGNORE, REFUSAL, IGNORE]])


def test_the_weight_of_rows_is_that_of_all_their_targets() -> None:
    weights = LossWeights(control_ids=(CONTROL, REFUSAL), control=6.0, refusal=12.0, answer=0.5)
    rows = [
        TrainingRow(input_ids=labels, labels=labels, weight=w)
        for labels, w in (([8, CONTROL, WORD], 2.0), ([8, REFUSAL], 0.5))
    ]
    assert weights.total(rows) == 2.0 * 6.0 + 0.5 + 0.5 * 12.0


def test_a_rows_weight_counts_for_its_control_token_only() -> None:
    weights = LossWeights(control_ids=(CONTROL, REFUSAL), control=6.0, refusal=12.0, answer=0.5)
    assert weights.of(TARGETS_BT).tolist() == [[0, 6, 0.5], [0, 12, 0]]
    assert weights.of(TARGETS_BT, torch.tensor([2.0, 0.5])).tolist() == [[0, 12, 0.5], [0, 6, 0]]


@given(smoothing=st.floats(0.0, 0.9), seed=st.integers(0, 99))
def test_a_smoothed_target_is_a_mixture_over_control_tokens_and_words_stay_as_they_are(
    smoothing: float, seed: int
) -> None:
    logits_MV = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed))
    targets_M = torch.tensor([CONTROL, REFUSAL, WORD])
    weights = LossWeights(
        control_ids=(CONTROL, REFUSAL), control=1.0, refusal=1.0, answer=1.0, smoothing=smoothing
    )
    wanted_MV = functional.one_hot(targets_M, 12).float()
    for m in (0, 1):
        wanted_MV[m] *= 1 - smoothing
        wanted_MV[m, [CONTROL, REFUSAL]] += smoothing / 2
    expected_M = -(wanted_MV * torch.log_softmax(logits_MV, dim=1)).sum(dim=1)
    assert torch.allclose(weights.losses(logits_MV, targets_M), expected_M, atol=1e-5)
