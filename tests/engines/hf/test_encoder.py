"""The encoder recipe on a tiny random encoder: real files, real training, the judge's own path."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from demur.base.errors import ArtifactError, DataError, EngineError
from demur.engines.hf.encoder import HfEncoder
from demur.judges.trained import TrainedJudge
from demur.stages import judge_train
from demur.store.models.encoded_model_file import is_encoded, read_encoded

YES = ("mix", "flour", "water", "wait", "bread", "salt", "oven", "warm", "slow", "bowl")
NO = ("sorry", "cannot", "help", "with", "that", "unable", "decline")
WORDS = (*YES, *NO)


def encoder_in(folder, seed=0):
    """A BERT of two layers from nothing, with a tokenizer of whole words."""
    vocabulary = {w: n for n, w in enumerate(["[PAD]", "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return encoder_in(tmp_path_factory.mktemp("encoder"))


def answers(count, seed=0):
    rng = np.random.default_rng(seed)
    for n in range(count):
        words = rng.choice(NO if n % 2 else YES, rng.integers(4, 9))
        yield {
            "id": f"a{n}",
            "request": "Q?",
            "answer": " ".join(words),
            "label": "refusal" if n % 2 else "compliance",
        }


def trained(folder, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in answers(120)))
    config = judge_train.Config(
        files=(file,), out=tmp_path / "j.npz", recipe="encoder", model=str(folder)
    )
    return judge_train.run(config, HfEncoder(model=folder))


def test_an_encoder_judge_learns_what_its_vectors_hold_and_reads_back(folder, tmp_path):
    made = trained(folder, tmp_path)
    assert (made.answers, made.declining) == (120, 60)
    assert is_encoded(tmp_path / "j.npz")
    classifier, digest = read_encoded(tmp_path / "j.npz", lambda model: HfEncoder(model=model))
    judge = TrainedJudge(classifier=classifier, digest=digest)
    said = [
        (judge.judge("Q?", row["answer"], None).verdict == "refusal", row["label"])
        for row in answers(80, seed=1)
    ]
    assert np.mean([refuses == (label == "refusal") for refuses, label in said]) > 0.9
    assert judge.judge("Q?", "bread", None).verdict == "unscored"
    assert "1 words, trained on 4 to " in judge.judge("Q?", "bread", None).reason


def test_a_batch_gives_each_text_the_vector_it_has_alone(folder):
    encoder = HfEncoder(model=folder, batch=3)
    texts = ["mix flour", "sorry cannot help with that", "bread " * 60, "salt"]
    together = encoder.encode(texts)
    assert together.shape == (4, 32)
    assert np.allclose(together, np.concatenate([encoder.encode([t]) for t in texts]), atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)


def test_another_encoder_than_the_one_it_was_fitted_on_is_refused(folder, tmp_path):
    trained(folder, tmp_path)
    other = encoder_in(tmp_path / "other", seed=1)
    with pytest.raises(ArtifactError, match="was fitted on encoder"):
        read_encoded(tmp_path / "j.npz", lambda _: HfEncoder(model=other))


def test_what_is_no_encoder_or_no_recipe_is_named(tmp_path):
    with pytest.raises(EngineError, match="no tokenizer at"):
        HfEncoder(model=tmp_path)
    with pytest.raises(DataError, match="--recipe encoder --model NAME"):
        judge_train.Config(files=(), out=tmp_path / "j.npz", recipe="encoder")
    (tmp_path / "x.npz").write_text("nothing")
    assert not is_encoded(tmp_path / "x.npz")
