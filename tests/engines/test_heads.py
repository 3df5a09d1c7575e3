"""Logits only where they are asked for, equal to those computed everywhere."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaModel

from demur.base.errors import EngineError
from demur.engines.heads import head_on, last_rows, marked_rows

CAUSAL = ["llama", "gpt2", "qwen2", "gemma2", "bert"]


@pytest.fixture(params=CAUSAL)
def model(request, checkpoints):
    return AutoModelForCausalLM.from_pretrained(checkpoints[request.param]).eval()


@torch.no_grad()
def test_chosen_rows_get_the_logits_that_the_whole_head_gives_them(model):
    ids_BT = torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths_B = torch.tensor([9, 4, 1])
    everywhere_BTV = model(ids_BT, use_cache=False).logits
    with head_on(model, last_rows(lengths_B)):
        last_B1V = model(ids_BT, use_cache=False).logits
    mask_BT = torch.rand(3, 9, generator=torch.Generator().manual_seed(1)) > 0.5
    with head_on(model, marked_rows(mask_BT)):
        marked_1MV = model(ids_BT, use_cache=False).logits
    assert last_B1V.shape == (3, 1, everywhere_BTV.shape[2])
    torch.testing.assert_close(
        last_B1V[:, 0], everywhere_BTV[torch.arange(3), lengths_B - 1], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(marked_1MV[0], everywhere_BTV[mask_BT], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_head_is_whole_again_after_the_block_even_when_it_raised(model):
    with pytest.raises(KeyError), head_on(model, last_rows(torch.tensor([2]))):
        raise KeyError("from inside")
    assert model(torch.tensor([[5, 6, 7]]), use_cache=False).logits.shape[1] == 3


def test_a_model_without_a_head_is_refused():
    headless = LlamaModel(
        LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with (
        pytest.raises(EngineError, match="no output embeddings"),
        head_on(headless, last_rows(torch.tensor([1]))),
    ):
        pass
