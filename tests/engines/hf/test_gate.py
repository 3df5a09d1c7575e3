"""The gate inside transformers' generate: the same decisions as decide_many, or a loud refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from demur.base.errors import EngineError
from demur.core.decision import decide_many
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.core.policy import RULES, CategoryPolicy, DoubtRule, Policy, natural
from demur.core.taxonomy import coconot, single
from demur.core.threshold import NEVER
from demur.engines.heads import control_scores
from demur.engines.hf.engine import HfEngine
from demur.engines.hf.gate import RefusalGate
from tests.engines.checkpoints import user

TOKENS = coconot().tokens
IDS = (5, 3, 40, 41, 0, 17)
PROMPTS = [
    user("What is the capital of France?"),
    user("bake bread " * 20),
    user("Hi"),
    user("Tell me how you feel."),
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def engine(request, checkpoints):
    return HfEngine(model=checkpoints[request.param], tokens=TOKENS)


@pytest.fixture(scope="module")
def llama(checkpoints):
    return HfEngine(model=checkpoints["llama"], tokens=TOKENS)


class Said(torch.nn.Module):
    """A model that says what it is given."""

    def forward(self, logits_RV, attention_mask=None):
        return type("Output", (), {"logits": logits_RV[:, None]})()


def random_policy(seed):
    """A policy of some rule with thresholds in the range of the scores, some categories inactive or
    suppressed.
    """
    rng = np.random.default_rng(seed)
    rule = RULES[seed % len(RULES)]
    shared = rng.random() * 0.3
    categories = [
        CategoryPolicy(
            threshold=shared if rule == "sum" else rng.random() * 0.3,
            active=bool(rng.random() < 0.8),
            bias=rng.normal() if rule == "bias" else 0.0,
            override="suppress" if rng.random() < 0.1 else None,
        )
        for _ in coconot().names
    ]
    return Policy(
        name=f"random {seed}", taxonomy=coconot(), rule=rule, categories=tuple(categories)
    )


def padded(engine, prompts):
    rows = [engine.encoder.prompt(p) for p in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([[engine.filler] * (longest - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    return {"input_ids": ids, "attention_mask": mask}


def first_tokens(engine, prompts, policies, **options):
    """Columns of the control tokens that `generate` writes first, and everything that it writes
    after them.
    """
    batch = padded(engine, prompts)
    width = batch["input_ids"].shape[1]
    gate = RefusalGate(engine.network, policies, engine.encoder.token_ids, prompt_length=width)
    with gate, torch.no_grad():
        ids = engine.network.generate(
            **batch,
            **{"max_new_tokens": 6, "do_sample": False} | options,
            logits_processor=LogitsProcessorList([gate]),
        )
    return [engine.encoder.token_ids.index(i) for i in ids[:, width].tolist()], ids[:, width + 1 :]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(1, 3))
def test_it_forces_what_decide_many_decides_on_random_rows_and_policies(seed, copies):
    torch.manual_seed(seed)
    policies = [random_policy((seed + n) % 2**31) for n in range(40)]
    logits_RV = torch.randn(len(policies) * copies, 50) * 2
    model = Said()
    gate = RefusalGate(model, policies, IDS, prompt_length=7)
    with gate:
        model(logits_RV)
        forced_RV = gate(torch.zeros(len(logits_RV), 7, dtype=torch.long), logits_RV)
    logp_RC = control_scores(logits_RV, IDS)
    expected = [
        IDS[decide_many(policies[n // copies], logp_RC[n : n + 1]).choice_N[0]]
        for n in range(len(logits_RV))
    ]
    assert forced_RV.argmax(dim=1).tolist() == expected
    assert (torch.isfinite(forced_RV).sum(dim=1) == 1).all()


def test_a_padded_batch_is_decided_as_the_engine_scores_it_with_a_policy_per_row(engine):
    logp_NC = engine.logp(PROMPTS)
    for seed in range(0, 60, len(PROMPTS)):
        policies = [random_policy(seed + n) for n in range(len(PROMPTS))]
        columns, _ = first_tokens(engine, PROMPTS, policies, max_new_tokens=1)
        assert columns == [
            decide_many(p, logp_NC[n : n + 1]).choice_N[0] for n, p in enumerate(policies)
        ]


def test_greedy_text_after_the_decision_is_the_engines_own(engine):
    policy = random_policy(1)
    stops = {"eos_token_id": list(engine.rules.stops), "suppress_tokens": None}
    columns, rest = first_tokens(
        engine, PROMPTS[:1], policy, max_new_tokens=engine.max_new_tokens + 1, **stops
    )
    (branch,) = engine.branches(PROMPTS[:1], [columns])
    written = [i for i in rest[0].tolist() if i not in engine.rules.stops]
    assert (
        engine.tokenizer.decode(written, skip_special_tokens=True).strip()
        == branch[columns[0]].text
    )


def test_rows_returned_several_times_keep_their_policy_and_never_write_another_control_token(llama):
    policies = [random_policy(seed) for seed in (2, 9, 15, 28)]
    columns, rest = first_tokens(
        llama,
        PROMPTS,
        policies,
        do_sample=True,
        num_return_sequences=3,
        max_new_tokens=40,
        temperature=3.0,
    )
    assert columns == [c for c in first_tokens(llama, PROMPTS, policies)[0] for _ in range(3)]
    assert not set(rest.flatten().tolist()) & set(llama.encoder.token_ids)
    assert len({tuple(row) for row in rest.tolist()}) > 4


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 2, "num_return_sequences": 2},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 3},
        {"prompt_lookup_num_tokens": 2, "input_ids": None},
    ],
)
def test_what_would_decide_on_other_numbers_is_refused(llama, options):
    prompts = PROMPTS[:1] if "input_ids" in options else PROMPTS
    options = {k: v for k, v in options.items() if v is not None}
    with pytest.raises(EngineError, match=r"no beam search|unassisted"):
        first_tokens(llama, prompts, natural(coconot()), **options)


def test_wrong_use_is_named(llama):
    policy, ids = natural(coconot()), llama.encoder.token_ids
    batch = padded(llama, PROMPTS)
    width = batch["input_ids"].shape[1]
    scores = torch.randn(4, 400)
    with pytest.raises(EngineError, match="has seen no logits"):
        RefusalGate(llama.network, policy, ids, prompt_length=width)(batch["input_ids"], scores)
    with pytest.raises(EngineError, match=r"4 rows .* not decided"):
        RefusalGate(llama.network, policy, ids, prompt_length=width - 1)(batch["input_ids"], scores)
    with pytest.raises(EngineError, match="3 policies for 4 rows"):
        first_tokens(llama, PROMPTS, [policy] * 3)
    with pytest.raises(EngineError, match=r"6 control ids .* 2 control tokens"):
        first_tokens(llama, PROMPTS, natural(single()))
    with pytest.raises(EngineError, match=r"control ids .* repeat"):
        RefusalGate(llama.network, policy, (1, 1, 2, 3, 4, 5), prompt_length=width)


def test_a_second_batch_of_another_width_is_not_taken_for_the_rest_of_the_first(llama):
    batch, policy = padded(llama, PROMPTS[:1]), natural(coconot())
    gate = RefusalGate(
        llama.network, policy, llama.encoder.token_ids, prompt_length=batch["input_ids"].shape[1]
    )
    longer = padded(llama, PROMPTS[1:2])
    options = {"max_new_tokens": 2, "logits_processor": LogitsProcessorList([gate])}
    with gate:
        assert llama.network.generate(**batch, **options).shape == (
            1,
            batch["input_ids"].shape[1] + 2,
        )
        with pytest.raises(EngineError, match="not decided"):
            llama.network.generate(**longer, **options)


def test_padding_on_the_right_is_refused(llama):
    batch = {k: v.flip(1) for k, v in padded(llama, PROMPTS).items()}
    gate = RefusalGate(llama.network, natural(coconot()), llama.encoder.token_ids, prompt_length=9)
    with gate, pytest.raises(EngineError, match="ends in padding"):
        llama.network.generate(
            **batch, max_new_tokens=2, logits_processor=LogitsProcessorList([gate])
        )


def test_the_model_is_left_as_it_was(llama):
    before = len(llama.network._forward_hooks)
    first_tokens(llama, PROMPTS, replace(random_policy(4), name="again"))
    assert len(llama.network._forward_hooks) == before


@pytest.mark.parametrize("sample", [False, True])
def test_a_monitor_forces_its_refusal_token_and_an_end_of_the_answer_is_no_stop(llama, sample):
    torch.manual_seed(0)
    answers = AnswerSampling(most_tokens=16, temperature=1.0 if sample else 0.0)
    policy = replace(
        natural(coconot()),
        categories=(CategoryPolicy(override="suppress"),) * 5,
        doubt=DoubtRule(most_leftover=1.0),
    )
    trace = llama.watched(PROMPTS[:1], answers)[0].logp_TC
    level = float(np.exp(np.sort(trace[:, 2])[-2]))
    thresholds = (NEVER, level, NEVER, NEVER, NEVER)
    policy = replace(policy, monitor=Monitor(thresholds=thresholds, answers=answers, held_back=4))
    batch = padded(llama, PROMPTS)
    width, ends = batch["input_ids"].shape[1], sorted(llama.rules.stops)
    ids = llama.encoder.token_ids
    gate = RefusalGate(llama.network, policy, ids, prompt_length=width, stop_ids=ends)
    with gate, torch.no_grad():
        written = llama.network.generate(
            **batch,
            max_new_tokens=17,
            do_sample=sample,
            top_k=0,
            eos_token_id=ends,
            logits_processor=LogitsProcessorList([gate]),
        )
    assert any(gate.stops)
    for row, stop in zip(written[:, width + 1 :].tolist(), gate.stops, strict=True):
        controls = [n for n, token in enumerate(row) if token in ids]
        # one control token where it stopped, none anywhere else
        assert controls == ([] if stop is None else [stop.position])
        assert stop is None or row[stop.position] == ids[2]
