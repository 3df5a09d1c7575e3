"""A frozen trunk: the cut model computes what the whole one does, and what it learns is a plain
checkpoint.
"""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from demur.base.errors import ArtifactError, ConfigError, EngineError
from demur.engines.hf.engine import HfEngine
from demur.engines.training import frozen_layers, hidden_states
from demur.engines.training.batches import TrainingRow
from demur.engines.training.sft import SftTrainer
from tests.engines.training.test_sft import TAXONOMY, base, rows, settings


def frozen(folder, *, tied=True, **changes):
    made = base(folder / "base", tied=tied)
    chosen = {
        "base": made,
        "frozen_share": 0.5,
        "optimizer": "adamw",
        "learning_rate": 5e-3,
        "epochs": 20.0,
    }
    return replace(settings(), **{**chosen, **changes})


def probe(length, seed=0):
    ids = torch.randint(20, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return TrainingRow(input_ids=ids, labels=ids)


def test_states_and_the_cut_model_give_the_whole_models_logits(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base(tmp_path / "base", tied=True)).eval()
    some = [probe(n, seed=n) for n in (3, 17, 9, 30)]
    with torch.inference_mode():
        wanted = [model(input_ids=torch.tensor([r.input_ids])).logits[0, -1] for r in some]
    frozen_layers.untie(model)
    kept = frozen_layers.frozen_states(model, some, 1, tmp_path)
    cut = frozen_layers.cut(model, 1, (5, 6), some[0])
    with torch.inference_mode():
        found = [cut.model(inputs_embeds=s[None].float()).logits[0, -1] for s in kept]
    assert max(float((w - f).abs().max()) for w, f in zip(wanted, found, strict=True)) < 0.02


def model_of(folder):
    return AutoModelForCausalLM.from_pretrained(base(folder / "base", tied=True)).eval()


def read_states(model, some, folder, kill_at=None):
    """The states, and how many rows were read for them."""
    read = []

    def progress(done, total):
        read.append(done)
        if done == kill_at:
            raise KeyboardInterrupt

    kept = frozen_layers.frozen_states(model, some, 1, folder, progress)
    return [s.clone() for s in kept], read


def test_states_that_are_whole_are_not_read_again(tmp_path):
    model, some = model_of(tmp_path), [probe(5), probe(9)]
    first, read = read_states(model, some, tmp_path)
    again, nothing = read_states(model, some, tmp_path)
    assert (read[-1], nothing) == (2, [])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("torn", [0, 7])
def test_a_killed_reading_goes_on_where_it_stopped(tmp_path, torn, monkeypatch):
    monkeypatch.setattr(hidden_states, "TOKENS_PER_BATCH", 12)  # a batch a row
    model, some = model_of(tmp_path), [probe(n, seed=n) for n in (11, 3, 7, 9)]
    wanted, _ = read_states(model, some, tmp_path / "base")
    (tmp_path / "killed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        read_states(model, some, tmp_path / "killed", kill_at=2)
    (part,) = (tmp_path / "killed").glob("*.part")
    part.write_bytes(part.read_bytes() + b"x" * torn)  # as a kill in the middle of a row leaves it
    found, read = read_states(model, some, tmp_path / "killed")
    assert read == [3, 4]
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


@pytest.mark.parametrize("changed", ["rows", "weights", "layers"])
def test_states_of_other_rows_or_another_base_are_never_found(tmp_path, changed):
    model, some = model_of(tmp_path), [probe(5)]
    read_states(model, some, tmp_path)
    if changed == "rows":
        some = [probe(5, seed=1)]
    if changed == "weights":
        with torch.no_grad():
            model.get_decoder().layers[0].mlp.up_proj.weight[0, 0] += 1
    if changed == "layers":
        model.get_decoder().layers = model.get_decoder().layers[1:]
    _, read = read_states(model, some, tmp_path)
    assert read == [1]


def test_a_disk_without_room_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3))
    with pytest.raises(ArtifactError, match="states of the frozen layers take"):
        read_states(model_of(tmp_path), [probe(5)], tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_only_what_lies_above_the_trunk_learns(tmp_path, tied):
    chosen = frozen(tmp_path, tied=tied)
    result = SftTrainer(chosen).train(rows(), TAXONOMY, tmp_path / "run")
    assert min(result.row_change) > 0.01
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    before = AutoModelForCausalLM.from_pretrained(chosen.base)
    changed = [
        name for name, weight in after.named_parameters() if name in dict(before.named_parameters())
    ]
    kept = dict(before.named_parameters())
    moved = {
        n
        for n in changed
        if after.get_parameter(n).shape == kept[n].shape
        and not torch.equal(after.get_parameter(n), kept[n])
    }
    assert not {n for n in moved if ".layers.0." in n}
    assert {n for n in moved if ".layers.1." in n}
    vocabulary = kept["model.embed_tokens.weight"].shape[0]
    assert torch.equal(
        after.model.embed_tokens.weight[:vocabulary], kept["model.embed_tokens.weight"]
    )


def test_what_was_learnt_is_what_the_checkpoint_says(tmp_path):
    SftTrainer(frozen(tmp_path, epochs=60.0)).train(rows(), TAXONOMY, tmp_path / "run")
    engine = HfEngine(model=tmp_path / "run" / "model", tokens=TAXONOMY.tokens)
    prompts = [e.prompt for e in rows()]
    wanted = [TAXONOMY.column(e.label) for e in rows()]
    assert engine.logp(prompts).argmax(axis=1).tolist() == wanted


@pytest.mark.parametrize(("share", "tied"), [(0.5, True), (0.0, True), (0.0, False)])
def test_weights_may_be_saved_in_another_dtype_than_they_were_trained_in(tmp_path, share, tied):
    made = SftTrainer(
        frozen(tmp_path, tied=tied, frozen_share=share, saved_dtype="bfloat16", epochs=2.0)
    ).train(rows(), TAXONOMY, tmp_path / "run")
    assert made.fingerprint.dtype == "bfloat16"
    assert min(made.row_change) > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config.tie_word_embeddings == (tied and not share)
    engine = HfEngine(model=tmp_path / "run" / "model", tokens=TAXONOMY.tokens)
    assert engine.fingerprint == made.fingerprint
    assert engine.logp([e.prompt for e in rows()]).dtype == "float32"


def test_a_share_of_every_layer_is_an_error_with_the_number(tmp_path):
    with pytest.raises(EngineError, match="freezes 2 of 2 layers"):
        SftTrainer(frozen(tmp_path, frozen_share=0.9)).train(rows(), TAXONOMY, tmp_path / "run")


@pytest.mark.parametrize(
    "change", [{"batch_tokens": None}, {"lora_rank": 4}, {"prompt_noise": 0.1}]
)
def test_what_would_change_what_the_trunk_reads_is_refused(tmp_path, change):
    with pytest.raises(ConfigError, match="frozen_share"):
        frozen(tmp_path, **change)
