"""What training is estimated to take: laws of the estimate, what is free, and the error that names
both.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from demur.base.errors import EngineError
from demur.core.training.settings import TrainSettings, cpu, tiny
from demur.engines.training.batches import IGNORE, TrainingRow
from demur.engines.training.resources import memory
from demur.engines.training.resources.available import free_memory
from demur.engines.training.sft import SftTrainer
from tests.engines.training.test_sft import TAXONOMY, rows, settings

SMOL = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
SIZES = memory.model_sizes(SMOL)
FULL = replace(cpu(), recipe="none", frozen_share=0.0, control_start="words", answer_tokens=16)


def row(length, supervised):
    return TrainingRow(
        input_ids=[1] * length, labels=[IGNORE] * (length - supervised) + [1] * supervised
    )


def case(settings=FULL, lengths=(40,) * 200, supervised=8):
    batches = memory.batch_sizes([row(n, min(supervised, n)) for n in lengths], settings)
    return memory.PlannedTraining(sizes=SIZES, settings=settings, batches=batches, half=True)


def test_parameters_are_counted_without_being_made():
    sizes = memory.model_sizes(SMOL)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SMOL)
    assert sizes.all == model.num_parameters() == 134_515_008
    assert sizes.layers * sizes.layer + sizes.table + sizes.width == sizes.all
    assert (sizes.tied, sizes.width, sizes.inner, sizes.heads) == (True, 576, 1536, 9)


def test_the_estimate_is_near_what_was_measured():
    """bench/training_memory.py: 3.71 GB in full (200 rows), 2.57 with the recipe for small machines
    (600).
    """
    lengths = [24 + n % 90 for n in range(200)]
    assert memory.memory_needed(case(FULL, lengths, 16)).total == pytest.approx(3.71e9, rel=0.3)
    assert memory.memory_needed(case(cpu(), lengths, 32)).total == pytest.approx(2.57e9, rel=0.3)


@given(
    lengths=st.lists(st.integers(4, 300), min_size=1, max_size=40),
    budget=st.sampled_from([64, 256, 1024, 4096]),
    share=st.sampled_from([0.0, 0.4, 0.734]),
)
def test_more_to_hold_is_never_estimated_as_less(lengths, budget, share):
    some = replace(FULL, batch_tokens=budget, frozen_share=share)
    need = memory.memory_needed(case(some, lengths)).total
    assert need <= memory.memory_needed(case(replace(some, batch_tokens=2 * budget), lengths)).total
    assert need <= memory.memory_needed(case(some, [*lengths, max(lengths)])).total * 1.001
    assert need <= memory.memory_needed(case(replace(some, frozen_share=0.0), lengths)).total
    disk = memory.disk_needed(case(some, lengths))
    assert disk["kept states"] == (2 * 576 * sum(lengths) if share else 0)


def test_rows_of_one_batch_are_those_the_trainer_puts_in_one():
    batches = memory.batch_sizes(
        [row(10, 2)] * 30 + [row(300, 200)], replace(FULL, batch_tokens=100)
    )
    assert (batches.longest, batches.positions, batches.supervised) == (300, 300, 200)
    fixed = replace(FULL, batch_tokens=None, rows_per_device=4, accumulate=2)
    batches = memory.batch_sizes([row(10, 2)] * 30, fixed)
    assert (batches.positions, batches.supervised, batches.steps) == (40, 8, 6)


def test_too_little_memory_is_said_before_anything_is_loaded_with_what_would_do(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "free_memory", lambda: 1e6)
    monkeypatch.setattr(
        "demur.engines.training.prepared.load_base", lambda *_: pytest.fail("it was loaded")
    )
    with pytest.raises(
        EngineError, match=r"training needs about .* GB \(.*\) of memory, and 0.001 GB are free"
    ) as e:
        SftTrainer(settings()).train(rows(), TAXONOMY, tmp_path)
    assert "nothing was loaded yet" in e.value.hint


def test_too_little_disk_is_said_with_the_kept_states(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_disk", lambda _: 1e6)
    SMOL.save_pretrained(tmp_path)
    with pytest.raises(
        EngineError, match=r"GB of disk below .*kept states 0.058.*and 0.001 GB are free"
    ):
        memory.require_room(str(tmp_path), [row(50, 2)] * 1000, cpu(), tmp_path / "work")


def test_the_mildest_change_that_fits_is_named():
    asked = replace(FULL, batch_tokens=1024)
    now = case(asked, lengths=(400,) * 50)
    mildest = [{"batch_tokens": 512}, {"gradient_checkpointing": True}, {"frozen_share": 0.75}]
    needs = [
        memory.memory_needed(case(replace(asked, **change), (400,) * 50)).total
        for change in mildest
    ]
    assert memory.memory_needed(now).total > needs[0] > needs[1] > needs[2]
    for change, need in zip(mildest, needs, strict=True):
        ((name, value),) = change.items()
        assert f"train.{name} = {str(value).lower()} would need about" in memory.cheaper_setting(
            now, need + 1
        )
    assert "a smaller base model" in memory.cheaper_setting(now, 1e8)


@pytest.mark.parametrize(("version", "path"), [(2, "a/b"), (1, "a/b")])
def test_the_least_of_the_limits_around_a_process_counts(tmp_path, version, path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    assert free_memory(proc, groups) == 8000000 * 1024
    (proc / "self" / "cgroup").write_text(
        f"0::/{path}\n" if version == 2 else f"9:memory:/{path}\n"
    )
    root = groups if version == 2 else groups / "memory"
    (root / path).mkdir(parents=True)
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    for folder, limit, used in (
        ("a", "5000", "3000"),
        ("a/b", "max" if version == 2 else str(2**63 - 1), "1000"),
    ):
        (root / folder / names[0]).write_text(limit)
        (root / folder / names[1]).write_text(used)
        (root / folder / "memory.stat").write_text("inactive_file 500\n")
    assert free_memory(proc, groups) == 5000 - 3000 + 500
    assert free_memory(tmp_path / "nowhere", groups) is None


def test_the_from_scratch_recipe_fits_anywhere():
    config = LlamaConfig(
        vocab_size=4096, hidden_size=192, intermediate_size=512, num_hidden_layers=3
    )
    batches = memory.batch_sizes([row(60, 9)] * 100, tiny())
    need = memory.memory_needed(
        memory.PlannedTraining(
            sizes=memory.model_sizes(config), settings=tiny(), batches=batches, half=False
        )
    )
    assert need.total < 0.5e9
    assert isinstance(tiny(), TrainSettings)
