"""What the plug-in does to a step's logits, without vLLM."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demur.core.policy import DoubtRule
from demur.engines.gate import forced_ids
from demur.engines.heads import control_scores
from demur.engines.vllm.batch_rows import BatchRows, RequestSlots, RowRequest, force_decisions
from tests.builders import policies, policy, with_category

IDS = [3, 9, 4, 17]  # respond first, then three categories
V = 20
CPU = torch.device("cpu")
RULES = ("natural", "heaviest", "released", "sum", "any", "bias")


def logits_of(seed, rows):
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(rows, V)).astype(np.float32) * 2
    )


@given(st.integers(0, 2**32 - 1), st.lists(policies(3, RULES), min_size=1, max_size=3), st.data())
def test_due_rows_keep_one_id_later_rows_lose_control_ids_others_are_untouched(
    seed, some, data
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["due", "later", "none"]), min_size=1, max_size=8))
    before = logits_of(seed, len(kinds))
    due = [(row, some[row % len(some)]) for row, kind in enumerate(kinds) if kind == "due"]
    after = before.clone()
    mask_R = torch.tensor([kind != "none" for kind in kinds])
    force_decisions(after, due, (), None if mask_R.all() else mask_R, torch.tensor(IDS))
    for row, kind in enumerate(kinds):
        if kind == "none":
            assert torch.equal(after[row], before[row])
        elif kind == "later":
            assert torch.isneginf(after[row, IDS]).all()
            others = [i for i in range(V) if i not in IDS]
            assert torch.equal(after[row, others], before[row, others])
    for row, its in due:
        expected = forced_ids(its, IDS, control_scores(before[row : row + 1], IDS))[0]
        assert after[row].isfinite().nonzero().flatten().tolist() == [expected]


def test_a_row_that_cannot_be_scored_is_refused_and_its_neighbours_are_decided(caplog) -> None:
    logits = logits_of(0, 3)
    logits[1, 0] = torch.nan
    never = replace(policy(3), doubt=DoubtRule(most_leftover=1.0))
    force_decisions(logits, [(row, never) for row in range(3)], (), None, torch.tensor(IDS))
    assert logits.argmax(dim=1).tolist() == [IDS[0], IDS[1], IDS[0]]
    assert "cannot be scored" in caplog.text


def test_a_category_that_may_be_emitted_stands_in_for_a_missing_score_and_never_an_answer() -> None:
    logits = torch.full((4, V), torch.nan)
    first = with_category(policy(3), 0, override="suppress")
    silent = policy(3, override="suppress")
    inactive = with_category(policy(3, active=False), 0, override="suppress")
    forced = with_category(policy(3), 2, override="force")
    force_decisions(
        logits, [(0, first), (1, silent), (2, inactive), (3, forced)], (), None, torch.tensor(IDS)
    )
    assert logits.argmax(dim=1).tolist() == [IDS[2], IDS[1], IDS[2], IDS[3]]


def test_a_row_with_too_much_probability_off_the_control_tokens_is_refused() -> None:
    # control tokens are few among V: most of the probability is elsewhere
    logits = torch.zeros((2, V))
    logits[0, IDS[0]] = 9.0
    force_decisions(logits, [(row, policy(3)) for row in range(2)], (), None, torch.tensor(IDS))
    assert logits.argmax(dim=1).tolist() == [IDS[0], IDS[1]]


def test_rows_are_due_until_they_have_output() -> None:
    rows, its, written = BatchRows(CPU), policy(3), []
    rows.entries |= {
        4: RowRequest(policy=its, written=written),
        1: RowRequest(policy=its, written=[7]),
    }
    assert rows.due() == [(4, its)]
    assert rows.mask(6).tolist() == [False, True, False, False, True, False]
    written.append(3)
    assert rows.due() == []
    del rows.entries[4]
    rows.changed()
    assert rows.mask(6).tolist() == [False, True, False, False, False, False]
    assert rows.mask(2).tolist() == [False, True]
    rows.entries[0] = RowRequest(policy=its, written=[7])
    assert rows.mask(2) is None


def states(prompt_len):
    lengths = np.array(prompt_len, dtype=np.int32)
    return SimpleNamespace(
        device=CPU,
        max_num_reqs=len(lengths),
        prompt_len=SimpleNamespace(np=lengths, gpu=torch.from_numpy(lengths)),
    )


def step(slots, lengths, *, rows=None, pos=None):
    """A step's layout: one row per batch position, or the given (slot, position) rows of
    speculative decoding.
    """
    return SimpleNamespace(
        idx_mapping_np=np.array(slots),
        seq_lens_upper_bound_np=np.array([*lengths, 0, 0]),  # padded, as vLLM pads it
        expanded_idx_mapping=torch.tensor(rows or slots, dtype=torch.int32),
        pos=torch.tensor(pos or [length - 1 for length in lengths]),
    )


@pytest.mark.parametrize("exact", [True, False])
def test_a_slot_is_due_where_the_last_prompt_token_is_read(exact) -> None:
    slots, its = RequestSlots(states([5, 8, 6, 9]), exact=exact), policy(3)
    assert [slots.take(0, its), slots.take(1, None), slots.take(2, its), slots.take(3, its)] == [
        True,
        False,
        True,
        True,
    ]
    slots.flush()
    ctx = step([3, 2, 0, 1], [4, 6, 7, 8])  # half read, due, later, due but without a policy
    assert list(slots.due(ctx)) == [(1, its)]
    assert slots.mask(ctx).tolist() == [True, True, True, False]
    assert list(slots.due(step([0, 3], [6, 8]))) == []


def test_a_recycled_slot_forgets_its_last_request() -> None:
    slots, its = RequestSlots(states([5]), exact=True), policy(3)
    slots.take(0, policy(3, "natural"))
    slots.flush()
    slots.take(0, None)
    slots.flush()
    assert list(slots.due(step([0], [5]))) == []
    assert slots.mask(step([0], [5])).tolist() == [False]
    slots.take(0, its)
    slots.flush()
    assert list(slots.due(step([0], [5]))) == [(0, its)]
    assert slots.mask(step([0], [5])) is None


def test_rows_of_draft_tokens_are_told_from_the_first_by_position() -> None:
    slots, its = RequestSlots(states([5, 5]), exact=False), policy(3)
    for slot in (0, 1):
        slots.take(slot, its)
    slots.flush()
    # Slot 0 verifies two drafts, so the host believes it longer than it may be; slot 1 reads the
    # end of its prompt.
    ctx = step([0, 1], [9, 5], rows=[0, 0, 0, 1], pos=[6, 7, 8, 4])
    assert list(slots.due(ctx)) == [(3, its)]
