"""What `doctor` says of a base that nobody has trained yet."""

import pytest
import torch
import transformers
from tokenizers import AddedToken

from demur.base.errors import EngineError
from demur.core.taxonomy import coconot
from demur.core.training.settings import TrainSettings, cpu
from demur.engines.hf.token_rows import add_token_rows
from demur.engines.training.base_model import doctor as base_doctor
from demur.engines.training.base_model.doctor import BaseCase, examine_base, is_base
from tests.engines.checkpoints import TEMPLATES, make_checkpoint, make_tokenizer
from tests.engines.test_bare_template import DEFAULT

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def base(folder, *, tokenizer=None, rows=0, tied=True):
    """An untrained model without control tokens. rows: of its vocabulary beyond its tokenizer's."""
    tokenizer = tokenizer or make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + rows, tie_word_embeddings=tied, **SIZES
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def found(name, settings=None, rows=1000):
    settings = settings or TrainSettings(base=name)
    readiness = examine_base(BaseCase(base=name, taxonomy=coconot(), settings=settings, rows=rows))
    return readiness, {f.check: f for f in readiness.findings}


def test_a_base_is_told_from_a_trained_model_by_its_tokenizer(tmp_path):
    trained = make_checkpoint(tmp_path / "trained", "llama")
    assert not is_base(str(trained), coconot().tokens)
    assert is_base(base(tmp_path / "base"), coconot().tokens)
    assert is_base("smollm2-135m", coconot().tokens)
    assert is_base(str(tmp_path / "any.gguf"), coconot().tokens)


def test_a_sound_base_is_ready_and_every_finding_says_something(tmp_path):
    readiness, by = found(base(tmp_path))
    assert readiness.ready
    assert all(f.detail for f in readiness.findings)
    assert "6 of 6 are added: the model grows from" in by["rows of the control tokens"].detail
    assert by["head"].detail == "tied to the embedding, and stays so"
    assert "behind '<|im_start|>assistant\\n'" in by["where the answer starts"].detail
    assert "4 layers of width 32" in by["shape"].detail
    assert by["layers"].detail.startswith("all 4 learn")
    assert "GB" in by["memory"].detail
    assert "1,000 rows" in by["time"].detail


def test_rows_that_are_spare_or_reserved_are_named(tmp_path):
    assert (
        "6 of 6 use spare rows"
        in found(base(tmp_path / "a", rows=64))[1]["rows of the control tokens"].detail
    )
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(
        [AddedToken(f"<|reserved_special_token_{n}|>", special=True) for n in range(8)]
    )
    detail = found(base(tmp_path / "b", tokenizer=tokenizer))[1][
        "rows of the control tokens"
    ].detail
    assert (
        "6 of 6 take over reserved rows: [respond] that of <|reserved_special_token_0|>" in detail
    )


def test_a_head_of_its_own_and_frozen_layers_are_said(tmp_path):
    frozen = TrainSettings(base="x", batch_tokens=512, frozen_share=0.5)
    by = found(base(tmp_path / "a"), frozen)[1]
    assert "the head becomes one of its own" in by["head"].detail
    assert "layers 1 to 2 read every row once, 3 to 4 learn" in by["layers"].detail
    assert "not tied" in found(base(tmp_path / "b", tied=False))[1]["head"].detail
    readiness, by = found(
        base(tmp_path / "a"), TrainSettings(base="x", batch_tokens=512, frozen_share=0.05)
    )
    assert not readiness.ready
    assert not by["layers"].ok


def test_a_default_system_prompt_is_counted_and_said_to_go_or_stay(tmp_path):
    tokenizer = make_tokenizer("chatml-like")
    tokenizer.chat_template = DEFAULT["chatml-like"] + TEMPLATES["chatml-like"]
    name = base(tmp_path, tokenizer=tokenizer)
    cost = len(
        tokenizer("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")["input_ids"]
    )
    detail = found(name)[1]["default system prompt"].detail
    assert detail.startswith(f"{cost} of the ")
    assert 'chat_template = "bare" takes it away' in detail
    assert (
        "is taken away"
        in found(name, TrainSettings(base=name, chat_template="bare"))[1][
            "default system prompt"
        ].detail
    )


def test_a_template_with_two_places_for_the_answer_is_not_ready(tmp_path):
    tokenizer = make_tokenizer("qwen3-like")
    tokenizer.chat_template = TEMPLATES["qwen3-like"].replace(
        "and loop.last ", "and not loop.last "
    )
    readiness, by = found(base(tmp_path, tokenizer=tokenizer))
    assert not by["where the answer starts"].ok
    assert "train.thought" in by["where the answer starts"].hint
    assert not readiness.ready


def test_what_cannot_be_read_is_one_finding_and_no_exception(tmp_path):
    for name in (str(tmp_path / "nowhere"), str(tmp_path / "no.gguf")):
        readiness, by = found(name)
        assert not readiness.ready
        assert list(by) == ["base"]
        assert by["base"].hint


def test_too_little_memory_is_not_ready_and_says_what_would_do(tmp_path, monkeypatch):
    monkeypatch.setattr(base_doctor, "free_memory", lambda: 1e3)
    readiness, by = found(base(tmp_path), cpu())
    assert not readiness.ready
    assert not by["memory"].ok
    assert by["memory"].hint


@pytest.mark.parametrize("how", ["another kind of embedding", "it stays as it is"])
def test_a_base_whose_rows_cannot_grow_is_named_with_how_many_are_missing(how, monkeypatch):
    tokenizer = make_tokenizer()
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=len(tokenizer), **SIZES)
    )
    if how == "it stays as it is":
        monkeypatch.setattr(model, "resize_token_embeddings", lambda *_, **__: None)
    else:
        held = torch.nn.Module()
        held.weight = model.get_input_embeddings().weight
        model.set_input_embeddings(held)
    missing = [f"[t{n}]" for n in range(6)]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": missing}, replace_extra_special_tokens=False
    )
    ids = tokenizer.convert_tokens_to_ids(missing)
    with pytest.raises(
        EngineError,
        match=r"LlamaForCausalLM has no room for 6 more tokens: \d+ rows that cannot grow",
    ):
        add_token_rows(model, tokenizer, coconot(), ids)
