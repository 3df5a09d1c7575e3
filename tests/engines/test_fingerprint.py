"""Everything that moves a score is in the fingerprint, and a folder that is not one model is not
loaded.
"""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from demur.base.errors import EngineError, PolicyError
from demur.core.policy import natural
from demur.core.taxonomy import coconot
from demur.engines import fingerprint as digests
from demur.engines.hf.encoder import HfEncoder
from demur.engines.hf.engine import HfEngine
from demur.store.policies.policy_file import policy_digest, policy_from_json, policy_to_json
from tests.engines.checkpoints import make_checkpoint, user

TOKENS = coconot().tokens
SOURCES = sorted((Path(__file__).parents[2] / "src" / "demur").rglob("*.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture
def copy(model, tmp_path):
    return Path(shutil.copytree(model, tmp_path / "copy"))


def edit(path: Path, **changes) -> None:
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**value, **changes}), encoding="utf-8")


def engine(folder):
    return HfEngine(model=folder, tokens=TOKENS)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"rms_norm_eps": 0.5}),
        ("config.json", {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}}),
        ("config.json", {"hidden_act": "relu"}),
        ("config.json", {"quantization_config": {"quant_method": "none"}}),
        ("generation_config.json", {"suppress_tokens": [7]}),
        ("tokenizer_config.json", {"eos_token": "bread"}),
        ("special_tokens_map.json", {"bos_token": "bread"}),
    ],
)
def test_a_setting_that_moves_a_score_or_an_answer_is_another_model(model, copy, name, changes):
    edit(copy / name, **changes)
    assert digests.settings_digest(copy) != digests.settings_digest(model)
    assert digests.model_digest(copy) == digests.model_digest(model)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "config.json",
            {"transformers_version": "9.9", "_name_or_path": "/somewhere", "use_cache": True},
        ),
        ("config.json", {"torch_dtype": "float32", "dtype": "float32"}),
        ("generation_config.json", {"transformers_version": "9.9"}),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "name_or_path": "x"},
        ),
        ("README.json", {"anything": 1}),
    ],
)
def test_who_wrote_the_files_is_none_of_its_business(model, copy, name, changes):
    edit(copy / name, **changes)
    assert digests.settings_digest(copy) == digests.settings_digest(model)


def test_a_policy_refuses_the_same_weights_under_another_configuration(model, copy):
    before = engine(model)
    edit(copy / "config.json", rms_norm_eps=0.5)
    after = engine(copy)
    prompts = [user("How do I bake bread at home?")]
    # it does move the scores
    assert np.abs(before.logp(prompts) - after.logp(prompts)).max() > 0.001
    policy = natural(coconot(), before.fingerprint)
    with pytest.raises(PolicyError, match="config_digest differ"):
        policy.require_model(after.fingerprint)
    with pytest.raises(PolicyError, match="config_digest differ"):
        after.answer(prompts, policy)


def test_a_policy_of_before_is_read_keeps_its_digest_and_says_what_to_do(model):
    value = policy_to_json(natural(coconot(), engine(model).fingerprint))
    del value["fingerprint"]["config_digest"]
    old = policy_from_json(value, "old.json")
    assert policy_to_json(old) == value
    assert policy_digest(old) != policy_digest(natural(coconot(), engine(model).fingerprint))
    with pytest.raises(
        PolicyError, match="before policies named the model's configuration"
    ) as error:
        old.require_model(engine(model).fingerprint)
    assert "calibrate again" in error.value.hint


def test_fewer_layers_than_weights_are_an_error(copy):
    edit(copy / "config.json", num_hidden_layers=1)
    with pytest.raises(
        EngineError, match=r"weights that its config.json has no place for, first 'model.layers.1"
    ):
        engine(copy)


def test_more_layers_than_weights_are_an_error(copy):
    edit(copy / "config.json", num_hidden_layers=3)
    with pytest.raises(EngineError, match=r"lacks .* weights, first 'model.layers.2"):
        engine(copy)


def test_another_width_is_an_error(copy):
    edit(copy / "config.json", hidden_size=64, head_dim=16)
    with pytest.raises(EngineError, match="cannot load"):
        engine(copy)


def test_a_stray_shard_is_an_error(copy):
    shutil.copy(copy / "model.safetensors", copy / "model-00002-of-00002.safetensors")
    with pytest.raises(EngineError, match=r"nothing would load: model-00002-of-00002.safetensors"):
        engine(copy)


def test_shards_are_those_of_the_index(copy):
    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, some in parts.items():
        save_file({n: weights[n] for n in some}, copy / file, metadata={"format": "pt"})
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {n: file for file, some in parts.items() for n in some}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert engine(copy).fingerprint.config_digest is not None
    (copy / "model-00003-of-00003.safetensors").write_bytes(
        (copy / "model-00001-of-00002.safetensors").read_bytes()
    )
    with pytest.raises(EngineError, match="nothing would load"):
        engine(copy)
    (copy / "model-00003-of-00003.safetensors").unlink()
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(EngineError, match="lacks weights: model-00002"):
        engine(copy)


def test_an_adapter_is_not_put_on_without_a_word(copy):
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(EngineError, match="holds an adapter") as error:
        engine(copy)
    assert "merge" in error.value.hint


def test_an_encoder_is_named_by_its_settings_and_is_whole(copy):
    before = HfEncoder(model=copy).name
    edit(copy / "config.json", rms_norm_eps=0.5)
    assert HfEncoder(model=copy).name != before
    edit(copy / "config.json", num_hidden_layers=1)
    with pytest.raises(EngineError, match="no place for"):
        HfEncoder(model=copy)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_code_of_a_checkpoint_is_run_in_so_many_words(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "from_pretrained"
        ):
            (trust,) = [k.value for k in node.keywords if k.arg == "trust_remote_code"]
            assert isinstance(trust, ast.Constant)
            assert trust.value is False
