"""Whether the language survives: replies that nobody learns, read by the model and by its base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from demur.core.rows.splitting import hold_out
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf.token_rows import add_token_rows, start_respond_row
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from demur.engines.training.language import TOKENS, held_out_replies, measured_base, reply_loss
from demur.engines.training.sft import SftTrainer
from tests.engines.training.test_sft import TAXONOMY, base, rows, settings
from tests.engines.training.test_validation import chosen


def prepared(folder: Path, *, tied: bool = True):
    """An encoder with control tokens in place, and a model with rows for them."""
    name = base(folder / "base", tied=tied)
    tokenizer, _ = add_control_tokens(load_tokenizer(name), TAXONOMY, folder / "scratch")
    encoder = ChatEncoder(tokenizer, TAXONOMY.tokens)
    model = AutoModelForCausalLM.from_pretrained(name)
    add_token_rows(model, tokenizer, TAXONOMY, encoder.token_ids)
    return encoder, model


def by_hand(model, ids: list[int], reply: list[int], control_ids: tuple[int, ...]) -> torch.Tensor:
    """Log loss of a reply behind some ids, control tokens left out of the vocabulary."""
    logits = (
        model(input_ids=torch.tensor([ids + reply])).logits[0, len(ids) - 1 : -1].detach().clone()
    )
    logits[:, list(control_ids)] = float("-inf")
    return functional.cross_entropy(logits, torch.tensor(reply), reduction="sum")


def test_the_base_reads_replies_without_and_the_model_behind_a_control_token(
    tmp_path: Path,
) -> None:
    encoder, model = prepared(tmp_path)
    held = held_out_replies(rows(), encoder, settings())
    assert len(held) == 10  # the benign rows
    with_token = without = 0.0
    count = 0
    for e in (e for e in rows() if e.kind == "benign"):
        ids, turns = encoder.conversation(e.messages, [0])
        at, end = turns[-1].control_at, turns[-1].text_end + 1
        reply = ids[at + 1 : end][:TOKENS]
        with_token += by_hand(model, ids[: at + 1], reply, encoder.token_ids)
        without += by_hand(model, ids[:at], reply, encoder.token_ids)
        count += len(reply)
    found = measured_base(model, held, encoder.token_ids, autocast=False)
    assert found.tokens == count
    assert found.base_loss == pytest.approx(float(without) / count, abs=1e-4)
    assert reply_loss(model, held, encoder.token_ids, autocast=False) == pytest.approx(
        float(with_token) / count, abs=1e-4
    )


@pytest.mark.parametrize("way", ["full", "lora", "frozen"])
def test_what_became_of_the_language_is_what_the_checkpoint_says(tmp_path: Path, way: str) -> None:
    asked = chosen(tmp_path, way, patience=100)
    result = SftTrainer(asked).train(rows(), TAXONOMY, tmp_path)
    assert result is not None
    encoder = ChatEncoder(load_tokenizer(tmp_path / "model"), TAXONOMY.tokens)
    held = held_out_replies(hold_out(rows(), asked.validation_share, asked.seed)[1], encoder, asked)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loss = reply_loss(model, held, encoder.token_ids, autocast=False)
    assert result.details["language_loss"] == pytest.approx(loss, abs=1e-3)
    assert result.details["language_rows"] == len(held) == 3
    assert result.details["language_change"] < 0  # an untrained base has no language to lose


def test_a_model_from_nothing_has_no_language_to_lose(tmp_path: Path) -> None:
    result = SftTrainer(chosen(tmp_path, "from scratch", epochs=2.0)).train(
        rows(), TAXONOMY, tmp_path
    )
    assert result is not None
    assert "language_change" not in result.details


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_an_embedding_of_its_own_reads_respond_as_the_header_before_it(
    tmp_path: Path, tied: bool
) -> None:
    encoder, model = prepared(tmp_path, tied=tied)
    header = encoder.prompt(rows()[0].prompt)[-1]
    before = model.get_output_embeddings().weight[encoder.token_ids[0]].clone()
    start_respond_row(model, encoder.token_ids[0], header)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding[encoder.token_ids[0]], embedding[header]) == (not tied)
    # what decides stays
    assert torch.equal(model.get_output_embeddings().weight[encoder.token_ids[0]], before)


def test_frozen_layers_keep_reading_respond_as_the_header(tmp_path: Path) -> None:
    SftTrainer(chosen(tmp_path, "frozen")).train(rows(), TAXONOMY, tmp_path)
    encoder = ChatEncoder(load_tokenizer(tmp_path / "model"), TAXONOMY.tokens)
    embedding = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "model").get_input_embeddings().weight
    )
    read = embedding[list(encoder.token_ids)]
    assert torch.equal(read[0], embedding[encoder.prompt(rows()[0].prompt)[-1]])
    # texts behind refusal tokens can differ
    assert len({tuple(row.tolist()) for row in read}) == len(read)
