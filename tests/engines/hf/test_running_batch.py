"""Rows that join and leave a batch while it is written."""

from __future__ import annotations

import pytest
import torch
import transformers

from demur.base.errors import EngineError
from demur.core.taxonomy import coconot
from demur.engines.heads import control_scores
from demur.engines.hf.engine import HfEngine
from demur.engines.hf.running_batch import RunningBatch, batching_gap, prefill_unmasked
from tests.engines.checkpoints import user

PROMPTS = [
    user("What is the capital of France?"),
    user("bake bread " * 15),
    user("Hi"),
    user("Tell me how you feel."),
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2", "gemma2", "bert"])
def engine(request, checkpoints):
    return HfEngine(model=checkpoints[request.param], tokens=coconot().tokens)


def encoded(engine):
    return [engine.encoder.prompt(p) for p in PROMPTS]


@torch.inference_mode()
def test_prompts_are_scored_as_the_engine_scores_them(engine):
    prompts = prefill_unmasked(engine.network, encoded(engine), engine.filler)
    gap = abs(
        control_scores(prompts.logits_BV, engine.encoder.token_ids) - engine.logp(PROMPTS)
    ).max()
    assert gap <= 1e-5


@torch.inference_mode()
def test_whatever_joins_or_leaves_a_row_goes_on_as_by_the_book(engine):
    rows = encoded(engine)
    batch, written = RunningBatch(engine.network), []
    events = [
        ("join", [0, 2]),
        ("step", 11),
        ("join", [1]),
        ("step", 12),
        ("keep", [0, 2]),
        ("step", 13),
    ]
    events += [("join", [3, 0]), ("step", 14), ("keep", [0, 2]), ("step", 15), ("step", 16)]
    for event, value in events:
        if event == "join":
            batch.join(
                prefill_unmasked(engine.network, [rows[n] for n in value], engine.filler),
                range(len(value)),
            )
            written += [list(rows[n]) for n in value]
        elif event == "keep":
            batch.keep(value)
            written = [written[r] for r in value]
        else:
            said_RV = batch.step([value + r for r in range(len(written))])
            for r, ids in enumerate(written):
                ids.append(value + r)
                by_the_book_V = engine.network(torch.tensor([ids])).logits[0, -1]
                torch.testing.assert_close(said_RV[r], by_the_book_V, atol=1e-4, rtol=0)
        assert len(batch) == len(written)
        assert batch.width == max(map(len, written))


@torch.inference_mode()
def test_an_emptied_batch_starts_anew(engine):
    batch = RunningBatch(engine.network)
    batch.join(prefill_unmasked(engine.network, encoded(engine)[1:2], engine.filler), [0])
    batch.keep([])
    assert (len(batch), batch.width) == (0, 0)
    batch.join(prefill_unmasked(engine.network, encoded(engine)[2:3], engine.filler), [0])
    assert batch.width == len(encoded(engine)[2])


@torch.inference_mode()
def test_joining_makes_no_difference_beyond_rounding(engine):
    gap, allowed = batching_gap(engine.network, encoded(engine), engine.filler)
    assert gap < 1e-4 < allowed


@pytest.mark.parametrize("larger", [1, 4, 16])
def test_half_precision_may_round_large_logits_by_more(checkpoints, larger):
    """Trained models have logits beyond 30, where one step of bfloat16 is 1/4."""
    half = HfEngine(model=checkpoints["llama"], tokens=coconot().tokens, dtype="bfloat16")
    with torch.inference_mode():
        half.network.get_output_embeddings().weight.mul_(larger)
        gap, allowed = batching_gap(half.network, encoded(half), half.filler)
    assert gap <= allowed
    assert half.padding_is_harmless


@torch.inference_mode()
def test_a_batch_that_mixes_rows_up_is_not_taken_for_rounding(checkpoints, monkeypatch):
    half = HfEngine(model=checkpoints["llama"], tokens=coconot().tokens, dtype="bfloat16")
    step = RunningBatch.step
    monkeypatch.setattr(RunningBatch, "step", lambda batch, ids: step(batch, ids).flip(0))
    gap, allowed = batching_gap(half.network, encoded(half), half.filler)
    assert gap > allowed


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("OpenAIGPT", {"n_embd": 8, "n_layer": 1, "n_head": 2}, "keeps no key-value cache"),
        ("Mamba", {"hidden_size": 8, "num_hidden_layers": 1}, "keeps a recurrent state"),
    ],
)
def test_a_model_whose_rows_cannot_be_taken_out_of_a_cache_is_refused(kind, sizes, message):
    config = getattr(transformers, f"{kind}Config")(vocab_size=20, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(EngineError, match=message):
        prefill_unmasked(model, [[1, 2, 3]], 0)
