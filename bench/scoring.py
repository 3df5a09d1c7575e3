"""What one score costs: demur against the naive way of reading it, and against the bare backbone.

    python bench/scoring.py [--prompts 500] [--rounds 3]

The naive reference reads scores as the code published with refusal tokens does: batches of 8 in
dataset order, left padding, logits and softmax at every position; and to answer, it reads each
prompt a second time. The model is a random 8-layer Llama of width 512 with 128,256 tokens, float32,
one thread. Every figure comes from a process of its own: CPU-seconds from time.process_time, memory
as the growth of the peak resident size after loading and one warm-up (Linux only: the kernel is
asked to forget the peak of loading). Probabilities are compared with those of the naive batches'
last rows after a softmax in float64, because float32's own sum of 128,256 terms is the less exact
one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demur.base.arrays import Floats
from demur.core.example import Message
from demur.core.policy import natural
from demur.core.ports import Prompt
from demur.core.taxonomy import single
from demur.engines.hf.engine import HfEngine

WORDS = 2000
SHORTEST, LONGEST = 12, 409  # tokens of a prompt; the median is 24
ANSWERED, NEW_TOKENS = 96, 16
TEMPLATE = (
    "{% for m in messages %}<u> {{ m['content'] }} {% endfor %}{% if add_generation_prompt "
    "%}<a>{% endif %}"
)


def make_checkpoint(folder: Path) -> None:
    """The random model and a tokenizer of one token a word."""
    words = ["<end>", "<u>", "<a>", *single().tokens, *(f"w{n}" for n in range(WORDS))]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<end>",
        extra_special_tokens=["<u>", "<a>", *single().tokens],
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=128_256,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(sizes)
    # far from uniform, so that probabilities and decisions differ between prompts
    with torch.no_grad():
        model.get_output_embeddings().weight[3:5] *= 30
    model.save_pretrained(folder)


def make_prompts(count: int) -> list[Prompt]:
    """Seeded word salad: lengths from 12 to 409 tokens around a median of 24, skewed as real
    prompts are.
    """
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(24), 0.9, count).astype(int), SHORTEST, LONGEST)
    lengths[count // 2], lengths[count // 3] = LONGEST, SHORTEST
    texts = [" ".join(f"w{n}" for n in rng.integers(0, WORDS, length - 2)) for length in lengths]
    return [(Message(role="user", content=text),) for text in texts]


def naive_scores(engine: HfEngine, prompts: list[Prompt]) -> Floats:
    """P(control token), (N, C): batch 8 in dataset order, logits and softmax at all positions."""
    return np.concatenate(
        [_naive_batch(engine, prompts[at : at + 8])[0] for at in range(0, len(prompts), 8)]
    )


def naive_answers(engine: HfEngine, prompts: list[Prompt]) -> list[str]:
    """Score, then read every prompt again to continue after the more probable control token."""
    texts = []
    for at in range(0, len(prompts), 8):
        p_BC, ids_BT, mask_BT = _naive_batch(engine, prompts[at : at + 8])
        forced_B1 = torch.tensor([[engine.encoder.token_ids[int(p[1] >= p[0])]] for p in p_BC])
        generated = engine.network.generate(
            torch.cat([ids_BT, forced_B1], dim=1),
            attention_mask=torch.cat([mask_BT, torch.ones_like(forced_B1)], dim=1),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
            suppress_tokens=list(engine.encoder.token_ids),
        )
        texts += engine.tokenizer.batch_decode(
            generated[:, ids_BT.shape[1] + 1 :], skip_special_tokens=True
        )
    return [text.strip() for text in texts]


@torch.inference_mode()
def exact_scores(engine: HfEngine, prompts: list[Prompt]) -> Floats:
    """The naive batches, their last row only, softmax in float64."""
    scores = []
    for at in range(0, len(prompts), 8):
        ids_BT, mask_BT = _left_padded(engine, prompts[at : at + 8])
        last_BV = engine.network(ids_BT, attention_mask=mask_BT, logits_to_keep=1).logits[:, -1]
        scores.append(
            torch.softmax(last_BV.double(), dim=-1)[:, list(engine.encoder.token_ids)].numpy()
        )
    return np.concatenate(scores)


@torch.inference_mode()
def _naive_batch(
    engine: HfEngine, prompts: list[Prompt]
) -> tuple[Floats, torch.Tensor, torch.Tensor]:
    ids_BT, mask_BT = _left_padded(engine, prompts)
    p_BTV = torch.softmax(engine.network(ids_BT, attention_mask=mask_BT).logits, dim=-1)
    return p_BTV[:, -1, list(engine.encoder.token_ids)].numpy(), ids_BT, mask_BT


def _left_padded(engine: HfEngine, prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = [engine.encoder.prompt(p) for p in prompts]
    width = max(map(len, encoded))
    ids_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids in encoded])
    return ids_BT, torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded])


def our_scores(engine: HfEngine, prompts: list[Prompt]) -> Floats:
    """The same by demur."""
    return np.exp(engine.logp(prompts))


def our_answers(engine: HfEngine, prompts: list[Prompt]) -> list[str]:
    """The same by demur: decision and continuation from one prefill."""
    return [
        answer.text
        for _, _, answer in engine.answer(prompts, natural(single(), engine.fingerprint))
    ]


@torch.inference_mode()
def backbone(engine: HfEngine, prompts: list[Prompt]) -> None:
    """No scores at all: the layers below the output head on the batches that demur forms."""
    encoded = engine._encode(prompts, room=0)
    for batch in engine._score_batches([len(ids) for ids in encoded]):
        width = max(len(encoded[n]) for n in batch)
        engine.network.model(
            torch.tensor([[*encoded[n], *[0] * (width - len(encoded[n]))] for n in batch]),
            use_cache=False,
        )


WAYS: dict[str, Callable[[HfEngine, list[Prompt]], Any]] = {
    "naive": naive_scores,
    "exact": exact_scores,
    "demur": our_scores,
    "backbone": backbone,
    "naive answers": naive_answers,
    "demur answers": our_answers,
}


def measure(way: str, folder: Path, count: int) -> None:
    """Run one way in this process and print its figures and results as one line of JSON."""
    engine = HfEngine(model=folder, tokens=single().tokens, max_new_tokens=NEW_TOKENS, threads=1)
    prompts = make_prompts(500)[:count]
    WAYS[way](engine, [prompts[0][:1]])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before_mb, started = peak_mb(), time.process_time()
    result = WAYS[way](engine, prompts)
    cpu_s = time.process_time() - started
    extra_mb = peak_mb() - before_mb
    values = result.tolist() if isinstance(result, np.ndarray) else result
    print(json.dumps({"cpu_s": cpu_s, "extra_mb": extra_mb, "values": values}))


def peak_mb() -> float:
    """This process's peak resident size. Not ru_maxrss: that also remembers the parent that forked
    it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def in_own_process(way: str, folder: Path, count: int) -> dict[str, Any]:
    """Figures of one way, measured in a fresh single-threaded process."""
    command = [
        sys.executable,
        __file__,
        "--way",
        way,
        "--folder",
        str(folder),
        "--prompts",
        str(count),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run(folder: Path, count: int, rounds: int) -> None:
    """All ways, the cheap ones `rounds` times in turn, and a table of medians with the targets
    beside.
    """
    make_checkpoint(folder)
    answered = min(ANSWERED, count)
    figures = {
        way: [in_own_process(way, folder, count)] for way in ("naive", "exact", "demur", "backbone")
    }
    figures |= {
        way: [in_own_process(way, folder, answered)] for way in ("naive answers", "demur answers")
    }
    for _ in range(rounds - 1):
        for way in ("demur", "backbone"):
            figures[way].append(in_own_process(way, folder, count))
    cpu_s = {way: statistics.median(f["cpu_s"] for f in every) for way, every in figures.items()}
    extra_mb = {
        way: statistics.median(f["extra_mb"] for f in every) for way, every in figures.items()
    }
    first = {way: every[0]["values"] for way, every in figures.items()}
    gap, naive_gap = (
        np.abs(np.array(first[way]) - np.array(first["exact"])).max() for way in ("demur", "naive")
    )
    same = sum(a == b for a, b in zip(first["naive answers"], first["demur answers"], strict=True))
    print(f"{count} prompts scored; {answered} scored and continued by {NEW_TOKENS} tokens")
    for way in figures:
        print(f"  {way:14} {cpu_s[way]:8.2f} CPU-s {extra_mb[way]:8.0f} MB extra")
    for what, value, target in (
        ("naive / demur, CPU", f"{cpu_s['naive'] / cpu_s['demur']:.1f}", ">= 8"),
        ("demur / backbone, CPU", f"{cpu_s['demur'] / cpu_s['backbone']:.3f}", "<= 1.2"),
        ("demur / naive, extra memory", f"{extra_mb['demur'] / extra_mb['naive']:.4f}", "<= 0.05"),
        ("largest |delta p|, demur", f"{gap:.1e}", "<= 1e-4"),
        ("largest |delta p|, naive", f"{naive_gap:.1e}", ""),
        (
            "naive / demur with answers, CPU",
            f"{cpu_s['naive answers'] / cpu_s['demur answers']:.1f}",
            "",
        ),
        ("equal answers", f"{same} of {answered}", f"{answered}"),
    ):
        print(f"  {what:34} {value:>9}   target {target}" if target else f"  {what:34} {value:>9}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=500, help="how many, at most 500")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="repetitions of demur and backbone; medians are printed",
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        measure(given.way, given.folder, given.prompts)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), given.prompts, given.rounds)


if __name__ == "__main__":
    main()
