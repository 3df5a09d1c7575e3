"""What a score costs on a real model and real prompts: demur beside transformers' own batched
forward.

    python bench/score_real.py MODEL ROWS.jsonl [--prompts 200] [--dtype bfloat16] [--system TEXT]

MODEL: a checkpoint with control tokens. transformers: batches of 16 in the order of the rows, left
padding and a mask, logits at the last position only (which saves it most of its output head) or at
every position. All ways take turns in one process at one thread; CPU seconds; the medians of
--rounds. "differ" counts natural decisions unlike those of each prompt alone in float32 arithmetic
of the same weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from demur.base.arrays import Floats
from demur.core.example import Message
from demur.core.ports import Prompt
from demur.core.taxonomy import coconot
from demur.engines.heads import control_scores
from demur.engines.hf.engine import HfEngine

BATCH = 16


def prompts_of(path: Path, count: int, system: str | None) -> list[Prompt]:
    """The first user turns of evenly spread rows, behind a system prompt if there is one."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [next(m["content"] for m in r["messages"] if m["role"] == "user") for r in rows]
    before = (Message(role="system", content=system),) if system else ()
    return [
        (*before, Message(role="user", content=text))
        for text in texts[:: max(1, len(texts) // count)][:count]
    ]


@torch.inference_mode()
def transformers_scores(engine: HfEngine, prompts: list[Prompt], keep: int) -> Floats:
    """Scores by transformers' batched forward. keep: positions with logits; 0: all."""
    scores = []
    for at in range(0, len(prompts), BATCH):
        rows = [engine.encoder.prompt(p) for p in prompts[at : at + BATCH]]
        width = max(map(len, rows))
        ids_BT = torch.tensor([[engine.filler] * (width - len(ids)) + ids for ids in rows])
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows])
        logits = engine.network(ids_BT, attention_mask=mask_BT, logits_to_keep=keep).logits
        scores.append(control_scores(logits[:, -1], engine.encoder.token_ids))
    return np.concatenate(scores)


def alone(engine: HfEngine, prompts: list[Prompt]) -> Floats:
    """Each prompt by itself."""
    return np.concatenate([engine.logp([p]) for p in prompts])


def main() -> None:
    """Parse the command line, take turns, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--system")
    given = parser.parse_args()
    prompts = prompts_of(given.rows, given.prompts, given.system)
    engine = HfEngine(model=given.model, tokens=coconot().tokens, dtype=given.dtype, threads=1)
    exact = alone(HfEngine(model=given.model, tokens=coconot().tokens, dtype="float32"), prompts)
    ways: dict[str, Callable[[], Floats]] = {
        "transformers, all logits": lambda: transformers_scores(engine, prompts, 0),
        "transformers, last logits": lambda: transformers_scores(engine, prompts, 1),
        "demur": lambda: engine.logp(prompts),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Floats] = {}
    engine.logp(prompts[:1])
    for _ in range(given.rounds):
        for way, run in ways.items():
            start = time.process_time()
            found[way] = run()
            spent[way].append(time.process_time() - start)
    median = {way: statistics.median(seconds) for way, seconds in spent.items()}
    tokens = sorted(len(engine.encoder.prompt(p)) for p in prompts)
    print(
        f"{len(prompts)} prompts of {tokens[0]} / {tokens[len(tokens) // 2]} / {tokens[-1]} "
        f"tokens, {given.dtype}\n"
    )
    print(
        "| way | CPU-s | prompts / CPU-s | beside demur | differ | largest difference of a "
        "probability |"
    )
    print("|---|---|---|---|---|---|")
    for way, seconds in median.items():
        differ = int((found[way].argmax(axis=1) != exact.argmax(axis=1)).sum())
        gap = float(np.abs(np.exp(found[way]) - np.exp(exact)).max())
        ratio = seconds / median["demur"]
        print(
            f"| {way} | {seconds:.1f} | {len(prompts) / seconds:.1f} | {ratio:.2f} | {differ} | "
            f"{gap:.2g} |"
        )


if __name__ == "__main__":
    main()
