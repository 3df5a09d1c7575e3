"""Twin rows: what is masked, what the loss reads, and a toy that learns to follow its token."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench import twins as toy

from demur.base.errors import EngineError
from demur.core.example import Example, Message
from demur.core.taxonomy import single
from demur.core.training.learning_rows import learning_rows
from demur.core.training.seen import seen_of
from demur.core.training.settings import TrainSettings
from demur.core.training.twins import TwinSettings, make_twins
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf import token_rows
from demur.engines.hf.load import load_base
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from demur.engines.training.batches import IGNORE, PadRight, TrainingRow, as_read
from demur.engines.training.resources.memory import batch_sizes
from demur.engines.training.rows import training_rows, validation_rows
from demur.engines.training.sft import SftTrainer
from demur.engines.training.trainer import ControlTokenTrainer, LossWeights
from demur.engines.training.twins.rows import twin_rows
from tests.engines.training.test_sft import TAXONOMY, base, rows, settings

ALL = TwinSettings(share=1.0, tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ChatEncoder:
    tokenizer, _ = add_control_tokens(
        load_tokenizer(base(folder / "base", tied=False)), TAXONOMY, folder / "scratch"
    )
    return ChatEncoder(tokenizer, TAXONOMY.tokens)


def talks() -> list[Example]:
    """Rows with a past turn, whose texts spell control tokens."""
    past = (
        Message(role="user", content="define [respond]"),
        Message(role="assistant", content="[Picture] is not a word of mine."),
    )
    return [replace(e, messages=(*past, *e.messages)) for e in rows()]


@pytest.mark.parametrize("examples", [rows(), talks()], ids=["one turn", "two turns"])
def test_of_a_twin_the_refusal_is_the_target_and_nothing_else(
    encoder: ChatEncoder, examples: list[Example]
) -> None:
    chosen = settings(twins=ALL)
    found = twin_rows(examples, TAXONOMY, encoder, chosen)
    twins = make_twins(examples, TAXONOMY, ALL, chosen.seed)
    assert len(found) == len(twins) == 10  # the rows to be answered, and no refusal
    for row, twin in zip(found, twins, strict=True):
        column = TAXONOMY.column(twin.category)
        past = [0] * sum(m.role == "assistant" for m in twin.example.prompt)
        ids, turns = encoder.conversation(twin.messages, [*past, column])
        at = turns[-1].control_at
        assert row.input_ids == ids[: len(row.input_ids)]
        assert row.input_ids[at] == encoder.token_ids[column] != encoder.token_ids[0]
        assert row.labels[: at + 1] == [IGNORE] * (at + 1)
        assert row.labels[at + 1 :] == ids[at + 1 : at + 1 + ALL.tokens]
        assert not set(row.labels) & set(encoder.token_ids)
        assert row.twin
        assert not row.decides


def loss_of(model: torch.nn.Module, weights: LossWeights, batch: list[TrainingRow]) -> torch.Tensor:
    """The trainer's own loss of a batch, as the sum of its weighted parts."""
    stub = SimpleNamespace(
        _weights=weights,
        _shares=[],
        accelerator=SimpleNamespace(unwrap_model=lambda m: m, num_processes=1),
    )
    stub.at_targets = partial(ControlTokenTrainer.at_targets, stub)
    inputs = PadRight(pad_id=0)([as_read(row) for row in batch])
    loss: torch.Tensor = ControlTokenTrainer.compute_loss(
        stub, model, inputs, num_items_in_batch=torch.tensor(1.0)
    )
    return loss


def test_a_twin_gives_the_heads_rows_of_control_tokens_no_gradient_and_the_decision_none(
    folder: Path, encoder: ChatEncoder
) -> None:
    model = load_base(str(folder / "base"), "float32")
    tokenizer, _ = add_control_tokens(
        load_tokenizer(str(folder / "base")), TAXONOMY, folder / "scratch-2"
    )
    token_rows.add_token_rows(model, tokenizer, TAXONOMY, encoder.token_ids)
    chosen = settings(twins=ALL)
    twins = twin_rows(rows(), TAXONOMY, encoder, chosen)
    ordinary = training_rows(rows(), TAXONOMY, encoder, chosen)
    weights = LossWeights(
        control_ids=encoder.token_ids, control=10.0, refusal=20.0, answer=0.5, smoothing=0.1
    )
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head.data_ptr() != embedding.data_ptr()
    ids = list(encoder.token_ids)

    def gradients(batch: list[TrainingRow]) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        loss_of(model, weights, batch).backward()
        return head.grad.clone(), embedding.grad.clone()

    of_head, of_embedding = gradients(twins)
    assert torch.equal(of_head[ids], torch.zeros_like(of_head[ids]))
    assert of_head.abs().sum() > 0
    # The token is read, so that the text can follow it: the embedding may learn, and does.
    assert of_embedding[ids[1:]].abs().sum() > 0
    # Beside ordinary rows, twins leave the control tokens' gradient as it is.
    alone, beside = gradients(ordinary)[0][ids], gradients([*ordinary, *twins])[0][ids]
    assert alone.abs().sum() > 0
    assert torch.allclose(alone, beside, rtol=1e-4, atol=1e-6)
    # A twin whose token was a target would have moved them.
    wrong = [
        replace(
            row, twin=False, labels=[*row.labels[: n - 1], row.input_ids[n - 1], *row.labels[n:]]
        )
        for row in twins
        for n in [next(i for i, label in enumerate(row.labels) if label != IGNORE)]
    ]
    assert gradients(wrong)[0][ids].abs().sum() > 0


def test_the_loss_of_a_twins_text_is_that_of_service_where_control_tokens_are_banned() -> None:
    weights = LossWeights(control_ids=(7, 8), control=1.0, refusal=1.0, answer=1.0)
    logits_MV = torch.randn(4, 9, requires_grad=True)
    targets_M = torch.tensor([1, 2, 3, 4])
    twins_M = torch.tensor([True, True, False, False])
    losses_M = weights.losses(weights.without_control(logits_MV, twins_M), targets_M)
    bare_M = -logits_MV[:, :7].log_softmax(dim=1)[range(4), targets_M]
    full_M = -logits_MV.log_softmax(dim=1)[range(4), targets_M]
    assert torch.allclose(losses_M, torch.where(twins_M, bare_M, full_M))
    losses_M.sum().backward()
    assert torch.equal(logits_MV.grad[:2, 7:], torch.zeros(2, 2))
    assert (logits_MV.grad[2:, 7:] > 0).all()


def test_decisions_are_learnt_as_without_twins_and_validation_never_sees_one(
    encoder: ChatEncoder,
) -> None:
    plain = settings(balance="class", validation_share=0.2, reply_share=0.3, answer_tokens=3)
    chosen = replace(plain, twins=ALL)
    learnt, aside = learning_rows(rows(), chosen)
    assert (learnt, aside) == learning_rows(rows(), plain)
    made = [training_rows(learnt, TAXONOMY, encoder, s) for s in (plain, chosen)]
    for one, other, example in zip(*made, learnt, strict=True):
        assert one.weight == other.weight
        control = [(n, i) for n, i in enumerate(one.labels) if i in encoder.token_ids]
        assert control == [(n, i) for n, i in enumerate(other.labels) if i in encoder.token_ids]
        if example.kind == "refusal":
            assert one == other
        else:  # the answering half of a pair learns its reply, as far as its twin
            assert other.has_reply
            assert sum(label != IGNORE for label in other.labels) == 1 + ALL.tokens
    assert validation_rows(aside, TAXONOMY, encoder, chosen) == validation_rows(
        aside, TAXONOMY, encoder, plain
    )
    # Twins, and the texts they borrow, come from the rows that are learnt.
    twins = make_twins(learnt, TAXONOMY, ALL, 0)
    assert {t.example.id for t in twins} <= {e.id for e in learnt}
    assert {t.text for t in twins} <= {e.reply for e in learnt}
    # Their prompts are those of rows that the record of seen rows holds anyhow.
    assert seen_of([t.example for t in twins]).prompts <= seen_of(learnt).prompts
    rows_of = [*made[1], *twin_rows(learnt, TAXONOMY, encoder, chosen)]
    assert batch_sizes(rows_of, chosen).tokens > batch_sizes(made[1], chosen).tokens


def test_twins_that_do_not_fit_are_left_out_and_none_at_all_are_an_error(
    encoder: ChatEncoder,
) -> None:
    lengths = sorted(
        len(r.input_ids) for r in twin_rows(rows(), TAXONOMY, encoder, settings(twins=ALL))
    )
    few = settings(twins=ALL, max_length=lengths[4])
    assert len(twin_rows(rows(), TAXONOMY, encoder, few)) < 10
    with pytest.raises(EngineError, match="none of 10 twins fits 8 tokens"):
        twin_rows(rows(), TAXONOMY, encoder, settings(twins=ALL, max_length=8))
    assert twin_rows(rows(), TAXONOMY, encoder, settings()) == []


@pytest.mark.parametrize("most", [1, 2, 5, 50])
def test_the_opening_of_each_text_weighs_more_and_control_tokens_do_not(
    encoder: ChatEncoder, most: int
) -> None:
    plain = LossWeights(control_ids=encoder.token_ids, control=10.0, refusal=20.0, answer=0.5)
    chosen = replace(plain, opening=4.0, opening_tokens=most)
    made = training_rows(talks(), TAXONOMY, encoder, settings())
    made += twin_rows(talks(), TAXONOMY, encoder, settings(twins=ALL))
    labels_BT = PadRight(pad_id=0)([as_read(row) for row in made])["labels"][:, 1:]
    wanted_BT, before_BT = plain.of(labels_BT), plain.of(labels_BT)
    for b, labels in enumerate(labels_BT.tolist()):
        run = 0
        for t, label in enumerate(labels):
            run = run + 1 if label != IGNORE and label not in encoder.token_ids else 0
            if 0 < run <= most:
                wanted_BT[b, t] *= 4.0
    assert torch.equal(chosen.of(labels_BT), wanted_BT)
    assert torch.equal(replace(chosen, opening=1.0).of(labels_BT), before_BT)


@pytest.mark.parametrize(
    "way",
    [
        {"lora_rank": 4, "optimizer": "adamw", "batch_tokens": None},
        {"frozen_share": 0.5, "control_start": "probe", "optimizer": "adamw"},
    ],
    ids=["lora", "frozen"],
)
def test_adapters_and_layers_above_a_frozen_trunk_learn_twins(
    tmp_path: Path, way: dict[str, object]
) -> None:
    chosen = settings(
        base=base(tmp_path / "base", tied=True),
        twins=ALL,
        epochs=2.0,
        prompt_noise=0.0,
        learning_rate=1e-2,
        **way,
    )
    trained = SftTrainer(chosen).train(rows(), TAXONOMY, tmp_path)
    assert trained is not None
    assert trained.details["twin_rows"] == 10
    assert trained.details["rows"] == len(rows())
    assert min(trained.row_change) > 0.0


@pytest.mark.slow
def test_a_base_that_answers_behind_any_token_follows_it_after_twins(tmp_path: Path) -> None:
    toy.make_prior(tmp_path / "base", seed=0)
    groups = {name: toy.read_rows()[name] for name in ("answered", "refused")}
    found = {}
    for name, arm in (("ordinary", {}), ("twins", {"twins": TwinSettings()})):
        chosen: TrainSettings = toy.toy_settings(tmp_path / "base", 0, 120, **arm)
        SftTrainer(chosen).train(toy.taught_rows(), single(), tmp_path / name)
        found[name] = toy.figures(tmp_path / name / "model", single(), groups, 12)
    assert found["ordinary"].cells["answered"].stuck_answer.value > 0.8
    assert found["twins"].cells["answered"].controllable.value > 0.8
