"""Stops of a monitor inside vLLM, without vLLM."""

import math
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demur.core.midway.monitor import AnswerSampling, Monitor, first_stop
from demur.core.threshold import NEVER
from demur.engines.heads import control_scores
from demur.engines.vllm.batch_rows import BatchRows, RequestSlots, RowRequest, force_decisions
from demur.engines.vllm.open_answers import ending_id, open_answer, stop_columns
from tests.builders import policy

IDS = [3, 9, 4, 17]  # respond first, then three categories
V = 20
CPU = torch.device("cpu")
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None}


def params(**fields):
    ends = {"stop_token_ids": [], "ignore_eos": False, "eos_token_id": 0}
    return SimpleNamespace(**{**GREEDY, **ends, **fields})


def watching(*thresholds, **fields):
    monitor = Monitor(thresholds=thresholds, answers=AnswerSampling(most_tokens=64))
    return open_answer(replace(policy(3), monitor=monitor), params(**fields), Random(0))


def logits_of(seed, rows):
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(rows, V)).astype(np.float32) * 2
    )


some_thresholds = st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5, 1.0, NEVER])
monitors = st.tuples(some_thresholds, some_thresholds, some_thresholds).filter(
    lambda t: not all(map(math.isinf, t))
)


@given(st.integers(0, 2**32 - 1), st.lists(monitors, min_size=1, max_size=6))
def test_stops_are_those_of_the_monitor_on_each_row_alone(seed, some) -> None:
    answers = [watching(*thresholds) for thresholds in some]
    logp_WC = control_scores(logits_of(seed, len(some)), IDS)
    # ties stop: a threshold that is a score
    tied = watching(float(np.exp(np.float64(logp_WC[0, 1]))), NEVER, NEVER)
    answers, logp_WC = [*answers, tied], np.vstack([logp_WC, logp_WC[:1]])
    expected = {
        at: stop.column
        for at, answer in enumerate(answers)
        if (stop := first_stop(answer.monitor, logp_WC[at : at + 1])) is not None
    }
    assert stop_columns(answers, logp_WC) == expected


def test_an_answer_that_cannot_be_watched_is_stopped(caplog) -> None:
    logp_WC = control_scores(logits_of(0, 2), IDS)
    logp_WC[1, 0] = math.nan
    answers = [watching(NEVER, 1.0, 1.0)] * 2
    assert stop_columns(answers, logp_WC) == {1: 2}
    assert "cannot be watched" in caplog.text


def test_a_stop_forces_the_refusal_token_and_leaves_other_rows() -> None:
    before = logits_of(1, 3)
    due, watched = [(1, policy(3))], [(0, watching(NEVER, 0.0, NEVER)), (2, watching(1.0, 1, 1))]
    after = before.clone()
    force_decisions(after, due, watched, None, torch.tensor(IDS))
    assert after[0].isfinite().nonzero().flatten().tolist() == [IDS[2]]
    assert after[1].isfinite().sum() == 1
    others = [i for i in range(V) if i not in IDS]
    assert torch.equal(after[2, others], before[2, others])
    assert torch.isneginf(after[2, IDS]).all()


def test_where_the_model_ends_its_answer_the_end_stays() -> None:
    logits = logits_of(2, 2)
    logits[0, 7] = logits[1, 8] = 30.0
    watched = [(row, watching(0.0, 0.0, 0.0, stop_token_ids=[7, *IDS[1:]])) for row in (0, 1)]
    force_decisions(logits, (), watched, None, torch.tensor(IDS))
    assert logits[0].argmax() == 7
    assert int(logits[1].argmax()) in IDS[1:]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"temperature": 1.0}, 0.3),
        ({"temperature": 0.5}, 0.09 / (0.09 + 0.16 + 0.09)),
        ({"temperature": 1.0, "top_p": 0.6}, 0.3 / 0.7),
        ({"temperature": 1.0, "ignore_eos": True}, 0.0),
        ({"temperature": 0.0}, 0.0),
    ],
)
def test_a_sampled_answer_ends_as_often_as_the_model_would_end_it(how, expected) -> None:
    answer = watching(0.0, 0.0, 0.0, **how)
    p = torch.tensor([0.3, 0.4, 0.3 - 1e-6, 1e-6])
    draws = 2000
    ended = sum(ending_id(p.log(), answer) is not None for _ in range(draws))
    assert abs(ended / draws - expected) < 4 * math.sqrt(0.25 / draws)


def test_a_seeded_request_ends_alike_each_time() -> None:
    logits = torch.zeros(V)
    drawn = {ending_id(logits, watching(0.0, 0.0, 0.0, temperature=1.0, seed=5)) for _ in range(9)}
    assert len(drawn) == 1


def test_a_row_is_open_from_its_second_token_until_a_refusal() -> None:
    rows, written = BatchRows(CPU, IDS[1:]), []
    answer = watching(0.5, 0.5, 0.5)
    rows.entries[2] = RowRequest(policy=answer.policy, written=written, answer=answer)
    rows.entries[1] = RowRequest(policy=policy(3), written=[IDS[0]])
    assert rows.watched() == []
    written.append(IDS[0])
    for token in (5, 6):
        assert rows.watched() == [(2, answer)]
        written.append(token)
    written.append(IDS[3])
    assert rows.watched() == []
    written.append(5)
    assert rows.watched() == []
    del written[2:]  # vLLM took them back
    assert rows.watched() == [(2, answer)]
    # a preempted request comes back with what it had written
    for ids, found in (([IDS[0], 5], True), ([IDS[0], 5, IDS[1], 6], False), ([IDS[2]], False)):
        rows.entries[2] = RowRequest(policy=answer.policy, written=ids, answer=answer)
        assert bool(rows.watched()) == found


def states(prompt_len, ids):
    lengths = np.array(prompt_len, dtype=np.int32)
    filled = np.array([len(row) for row in ids], dtype=np.int32)
    ids_ST = torch.zeros(len(ids), 16, dtype=torch.int64)
    for slot, row in enumerate(ids):
        ids_ST[slot, : len(row)] = torch.tensor(row)
    return SimpleNamespace(
        device=CPU,
        max_num_reqs=len(lengths),
        prompt_len=SimpleNamespace(np=lengths, gpu=torch.from_numpy(lengths)),
        prefill_len=SimpleNamespace(np=filled),
        all_token_ids=SimpleNamespace(gpu=ids_ST),
    )


def step(slots, pos, ids):
    return SimpleNamespace(
        idx_mapping_np=np.array(slots),
        expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
        pos=torch.tensor(pos),
        input_ids=torch.tensor(ids),
    )


def test_a_slot_is_open_from_its_second_token_until_a_refusal() -> None:
    answer, prompt = watching(0.5, 0.5, 0.5), [1, 2, IDS[1]]  # a past turn's token is no stop
    fresh, refused = prompt, [*prompt, IDS[0], 5, IDS[2]]  # the other comes back after preemption
    slots = RequestSlots(
        states([3, 3, 3], [fresh, refused, fresh]), exact=True, refusal_ids=IDS[1:]
    )
    for slot in (0, 1):
        slots.take(slot, answer.policy, answer)
    slots.take(2, policy(3))
    slots.flush()
    assert slots.watched(step([2, 0], [2, 2], [IDS[1]] * 2)) == []  # still the prompt
    assert slots.watched(step([2, 1, 0], [3, 6, 3], [IDS[0], 7, IDS[0]])) == [(2, answer)]
    assert slots.watched(step([0], [4], [5])) == [(0, answer)]
    assert slots.watched(step([0], [5], [IDS[1]])) == []
    assert slots.watched(step([0], [6], [5])) == []
    slots.take(0, answer.policy, answer)  # recycled
    slots.flush()
    assert slots.watched(step([0], [3], [IDS[0]])) == [(0, answer)]
