"""The doctor finds what is wrong with a checkpoint, one cause at a time, and never stumbles over
it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from demur.core.taxonomy import coconot, single
from demur.engines.hf.doctor import PROMPTS, Examination, examine
from demur.engines.hf.engine import HfEngine
from demur.engines.tokenizer import load_tokenizer
from tests.engines.checkpoints import make_tokenizer

TOKENS = coconot().tokens


@pytest.fixture(scope="module")
def trained(checkpoints, tmp_path_factory) -> Path:
    """The random Llama, trained to answer each of the doctor's prompts with some control token."""
    folder = tmp_path_factory.mktemp("trained")
    engine = HfEngine(model=checkpoints["llama"], tokens=TOKENS)
    optimizer = torch.optim.Adam(engine.network.parameters(), lr=2e-2)
    encoded = [torch.tensor([engine.encoder.prompt(p)]) for p in PROMPTS]
    targets_N = torch.tensor(
        [engine.encoder.token_ids[n % len(TOKENS)] for n in range(len(PROMPTS))]
    )
    for _ in range(40):
        optimizer.zero_grad()
        logits_NV = torch.cat(
            [engine.network(ids, use_cache=False).logits[:, -1] for ids in encoded]
        )
        torch.nn.functional.cross_entropy(logits_NV, targets_N).backward()
        optimizer.step()
    engine.network.save_pretrained(folder)
    engine.tokenizer.save_pretrained(folder)
    return folder


def failing(**case) -> dict[str, str]:
    """Check -> detail of what does not hold; every failure must say what to do."""
    readiness = examine(Examination(**case))
    failed = [f for f in readiness.findings if not f.ok]
    assert readiness.ready == (not failed)
    assert all(f.hint for f in failed)
    return {f.check: f.detail for f in failed}


def copied(folder: Path, to: Path, change=None) -> Path:
    """A copy of a checkpoint whose network went through `change`."""
    network = AutoModelForCausalLM.from_pretrained(folder)
    if change:
        with torch.no_grad():
            change(network.get_output_embeddings().weight)
    network.save_pretrained(to)
    load_tokenizer(folder).save_pretrained(to)
    return to


def test_a_model_whose_mass_lies_on_its_control_tokens_is_ready(trained):
    fingerprint = HfEngine(model=trained, tokens=TOKENS).fingerprint
    readiness = examine(Examination(model=trained, tokens=TOKENS, fingerprint=fingerprint))
    assert [(f.check, f.detail) for f in readiness.findings if not f.ok] == []
    assert readiness.ready
    checks = [f.check for f in readiness.findings]
    assert [c for c in checks if c.startswith("control token [")] == [
        f"control token {t}" for t in TOKENS
    ]
    assert {
        "chat template",
        "rows trained",
        "mass at the first position",
        "fingerprint",
        "dtype effect",
    } < set(checks)


def test_an_untouched_base_model_lacks_every_control_token_and_nothing_else_is_claimed(
    tmp_path, checkpoints
):
    AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    failed = failing(model=tmp_path, tokens=TOKENS)
    assert {f"control token {t}" for t in TOKENS} < set(failed)
    assert "expected exactly one" in failed["control token [respond]"]
    assert failed["rows trained"] == failed["mass at the first position"] == "not checked"


def test_installed_but_untrained_tokens_leave_the_mass_elsewhere(checkpoints):
    failed = failing(model=checkpoints["gpt2"], tokens=TOKENS, dtypes=False)
    assert list(failed) == ["mass at the first position"]


def test_rows_of_zeros_and_rows_that_are_copies_are_named(trained, tmp_path):
    last, before = HfEngine(model=trained, tokens=TOKENS).encoder.token_ids[-2:]
    zero = copied(trained, tmp_path / "zero", lambda weight: weight[before].zero_())
    assert (
        "shortest: [Unsupported requests], 0 of"
        in failing(model=zero, tokens=TOKENS, dtypes=False)["rows trained"]
    )
    same = copied(trained, tmp_path / "same", lambda weight: weight[before].copy_(weight[last]))
    found = failing(model=same, tokens=TOKENS, dtypes=False)["rows trained"]
    assert "[Requests with safety concerns] and [Unsupported requests], cosine 1.0000" in found


def test_a_template_whose_prompt_ends_elsewhere_than_its_answers_begin_is_named(trained, tmp_path):
    folder = copied(trained, tmp_path)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant: ")
    tokenizer.save_pretrained(folder)
    assert (
        "after other tokens" in failing(model=folder, tokens=TOKENS, dtypes=False)["chat template"]
    )


def test_a_template_that_drops_content_is_named(trained, tmp_path):
    folder = copied(trained, tmp_path)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    assert "dropped or moved" in failing(model=folder, tokens=TOKENS, dtypes=False)["chat template"]


def test_another_model_than_the_record_speaks_of_is_named_by_what_differs(trained, tmp_path):
    fingerprint = HfEngine(model=trained, tokens=TOKENS).fingerprint
    changed = copied(trained, tmp_path, lambda weight: weight[5].add_(1e-3))
    found = failing(model=changed, tokens=TOKENS, fingerprint=fingerprint, dtypes=False)
    assert found == {"fingerprint": "differs in model_digest"}
    elsewhere = replace(fingerprint, template_digest="sha256:0", dtype="bfloat16")
    found = failing(model=trained, tokens=TOKENS, fingerprint=elsewhere, dtypes=False)
    assert found == {"fingerprint": "differs in template_digest, dtype"}


def test_the_single_token_taxonomy_is_examined_alike(trained):
    assert set(failing(model=trained, tokens=single().tokens)) == {
        "control token [refuse]",
        "rows trained",
        "mass at the first position",
    }


def test_a_missing_folder_and_missing_weights_are_findings_not_tracebacks(tmp_path, trained):
    assert set(failing(model=tmp_path / "nowhere", tokens=TOKENS)) == {"tokenizer"}
    load_tokenizer(trained).save_pretrained(tmp_path)
    assert set(failing(model=tmp_path, tokens=TOKENS)) == {"weights"}
