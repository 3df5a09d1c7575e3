"""A finished run around a tiny random checkpoint, scored by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demur.base.files import write_json
from demur.core.example import Example
from demur.core.taxonomy import coconot
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf.engine import HfEngine
from demur.store.run import RunFolder
from tests.engines.checkpoints import TEXT, make_checkpoint, user
from tests.fake_run import prepare

WORDS = TEXT.split()
LENGTH = 15.0  # of that turn: logits near 85, where those of random rows lie within 40


def rows(count: int = 480) -> tuple[Example, ...]:
    """Short requests, each of its own words, half of them to be refused."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        text = " ".join(rng.choice(WORDS, rng.integers(3, 9)))
        kind = (
            {"kind": "refusal", "category": coconot().names[n % 5]} if n % 2 else {"kind": "benign"}
        )
        made.append(Example(id=f"r{n}", source="rows", messages=user(f"{text} {n}"), **kind))
    return tuple(made)


def give_control_tokens_the_first_position(checkpoint: Path) -> None:
    """Turn the control tokens' rows to where answers begin, so that they hold the mass as after
    training.

    What remains of the random rows tells prompts apart.
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    encoder = ChatEncoder(tokenizer, coconot().tokens)
    ids = list(encoder.token_ids)
    with torch.no_grad():
        prompts = [torch.tensor([encoder.prompt(user(f"{word} please"))]) for word in WORDS[:8]]
        last = [model(p, output_hidden_states=True).hidden_states[-1][0, -1] for p in prompts]
        towards = torch.stack(last).mean(dim=0)
        rows = model.get_output_embeddings().weight
        rows[ids] += LENGTH * towards / towards.norm()
    model.save_pretrained(checkpoint)


def tiny_run(
    root: Path, architecture: str = "llama", engine: str = "hf"
) -> tuple[HfEngine, RunFolder]:
    """A scored and calibrated run around a random checkpoint: (its engine, its folder).

    engine: the one that its config names; the scores are those of transformers all the same.
    """
    checkpoint = make_checkpoint(RunFolder(root).model, architecture)
    give_control_tokens_the_first_position(checkpoint)
    scorer = HfEngine(model=checkpoint, tokens=coconot().tokens, max_new_tokens=8)
    folder = prepare(root, rows(), scorer)
    config = {
        "run": {"name": "tiny", "engine": engine},
        "taxonomy": {"preset": "coconot"},
        "data": {"sources": [{"kind": "builtin"}]},
        "evaluate": {"max_new_tokens": 8},
    }
    write_json(root / "config.json", config)
    return scorer, folder
