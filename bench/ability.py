"""What a small model can do before and after it learns refusal tokens, item by item.

    python bench/ability.py FOLDER OUT [--steps 600]
    demur bench ability OUT/before.jsonl OUT/after.jsonl --margin 0.05

FOLDER holds the rows of docs/data.md: benign_instructions.jsonl, general_capability.jsonl, and what
examples/real.toml names. A model from nothing learns to answer the benign training rows: that is
"before". `demur train` then teaches it its control tokens on the rows of examples/real.toml:
"after". An item is a request of rows that neither has seen with its own reply and three of others
(MMLU: the four letters); it is right if its own is the likeliest per token. After the training, the
respond token stands before the reply.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demur.core.example import Example
from demur.engines.hf.engine import HfEngine
from demur.engines.training.base_model.tiny import TinyConfig, make_tiny
from demur.sources.files import FileSource
from demur.store.models.model_file import read_model_file

LONGEST = 256  # tokens of request and reply
STEP_TOKENS = 2048
CHOICES = 4
RECIPE = (
    "run.threads=1",
    "train.epochs=1",
    "train.answer_tokens=64",
    "train.batch_tokens=2048",
    "data.limits.refusal=1500",
    "data.limits.contrast=600",
    "data.limits.benign=1500",
    "train.learning_rate=5e-4",
    "train.control_weight=10",
)

Encode = Callable[[Example, str], tuple[list[int], list[int]]]  # ids of the request, and of a reply


def rows(folder: Path, name: str, split: str) -> list[Example]:
    """The rows of a file that have a reply."""
    return [
        e for e in FileSource(folder=folder, files=(name,)).read() if e.split == split and e.reply
    ]


def train(examples: Sequence[Example], folder: Path, steps: int) -> None:
    """A causal language model on requests and replies, without any control token."""
    make_tiny(examples, TinyConfig(width=128, layers=2, vocabulary=2048), folder, seed=0)
    model, encode = AutoModelForCausalLM.from_pretrained(folder), plain(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1.0, n / 50) * (1 - n / steps)
    )
    stream = batches([encode(e, e.reply or "") for e in examples])
    for step in range(steps):
        loss = model(**next(stream)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    model.save_pretrained(folder)


def batches(pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[dict[str, Any]]:
    """Padded batches of about STEP_TOKENS, epoch after epoch; the loss counts on everything."""
    rng, ids = random.Random(0), [(a + b)[:LONGEST] for a, b in pairs]
    while True:
        order = sorted(range(len(ids)), key=lambda n: (len(ids[n]) // 32, rng.random()))
        groups: list[list[int]] = [[]]
        for n in order:
            if (len(groups[-1]) + 1) * len(ids[n]) > STEP_TOKENS:
                groups.append([])
            groups[-1].append(n)
        rng.shuffle(groups)
        for group in filter(None, groups):
            yield padded([ids[n] for n in group])


def padded(ids: Sequence[list[int]]) -> dict[str, Any]:
    """Inputs of a batch; what is padded has no label."""
    longest = max(map(len, ids))
    fill = [longest - len(row) for row in ids]
    return {
        "input_ids": torch.tensor([row + [0] * n for row, n in zip(ids, fill, strict=True)]),
        "attention_mask": torch.tensor(
            [[1] * len(row) + [0] * n for row, n in zip(ids, fill, strict=True)]
        ),
        "labels": torch.tensor([row + [-100] * n for row, n in zip(ids, fill, strict=True)]),
    }


def plain(folder: Path) -> Encode:
    """Ids without control tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(example: Example, reply: str) -> tuple[list[int], list[int]]:
        turns = [{"role": m.role, "content": m.content} for m in example.prompt]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        end = [tokenizer.eos_token_id]
        return tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer(reply)[
            "input_ids"
        ] + end

    return encode


def controlled(engine: HfEngine) -> Encode:
    """Ids with the respond token before the reply."""
    respond, tokenizer = engine.encoder.token_ids[0], engine.tokenizer

    def encode(example: Example, reply: str) -> tuple[list[int], list[int]]:
        said = tokenizer(reply, add_special_tokens=False)["input_ids"]
        return [*engine.encoder.prompt(example.prompt), respond], [*said, tokenizer.eos_token_id]

    return encode


def items(examples: Sequence[Example]) -> list[tuple[Example, list[str]]]:
    """Each request with its own reply first, then three others, the same ones for every model."""
    rng, replies = random.Random(1), [e.reply or "" for e in examples]
    if set(replies) <= set("ABCD"):
        return [(e, [e.reply or "", *sorted(set("ABCD") - {e.reply})]) for e in examples]
    found = []
    for n, e in enumerate(examples):
        others = rng.sample(
            [r for m, r in enumerate(replies) if m != n and r != e.reply], CHOICES - 1
        )
        found.append((e, [e.reply or "", *others]))
    return found


@torch.inference_mode()
def answers(model: Any, encode: Encode, asked: Sequence[tuple[Example, list[str]]]) -> list[bool]:
    """Whether each request's own reply is the likeliest of its four, by mean log-probability per
    token.
    """
    model.eval()
    right = []
    for example, replies in asked:
        pairs = [encode(example, reply) for reply in replies]
        batch = padded([(a[-LONGEST // 2 :] + b)[:LONGEST] for a, b in pairs])
        labels = batch.pop("labels")
        logp = torch.log_softmax(model(**batch).logits[:, :-1].float(), dim=-1)
        each = logp.gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        for n, (request, _) in enumerate(pairs):
            labels[n, : min(len(request), LONGEST // 2)] = -100
        said = labels[:, 1:] != -100
        mean = (each * said).sum(1) / said.sum(1)
        right.append(bool(mean[0] > mean[1:].max()))
    return right


def main() -> None:
    """Train twice, answer twice, write both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    base, run = args.out / "base", args.out / "run"
    if not (base / "model.safetensors").exists() or not (base / "done").exists():
        train(rows(args.folder, "benign_instructions.jsonl", "train"), base, args.steps)
        (base / "done").touch()
    demur, config = (
        [sys.executable, "-m", "demur"],
        str(Path(__file__).parents[1] / "examples" / "real.toml"),
    )
    own = [f"train.base={base.resolve()}", *RECIPE]
    data = [*demur, "data", config, "--data", str(args.folder), "--out", str(run)]
    subprocess.run([*data, *(word for setting in own for word in ("--set", setting))], check=True)
    subprocess.run([*demur, "train", str(run)], check=True)
    file = read_model_file(run / "train" / "model")
    engine = HfEngine(model=run / "train" / "model", tokens=file.fingerprint.tokens)
    capability = rows(args.folder, "general_capability.jsonl", "test")
    tasks = {
        "gsm8k": items([e for e in capability if e.id.startswith("gsm8k")]),
        "mmlu": items([e for e in capability if e.id.startswith("mmlu")]),
        "benign": items(rows(args.folder, "benign_instructions.jsonl", "test")),
    }
    before = (AutoModelForCausalLM.from_pretrained(base), plain(base))
    for side, (model, encode) in {
        "before": before,
        "after": (engine.network, controlled(engine)),
    }.items():
        with (args.out / f"{side}.jsonl").open("w", encoding="utf-8") as file_out:
            for task, asked in tasks.items():
                for (example, _), correct in zip(asked, answers(model, encode, asked), strict=True):
                    line = {
                        "task": task,
                        "id": example.id,
                        "correct": correct,
                        "group": example.group or example.id,
                    }
                    file_out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
