"""The whole idea on one page, without demur's abstractions: score, choose a threshold with a
promise, decide, answer.

    python examples/loop.py runs/demo

A trained model begins every answer with one control token: "[respond]", or a refusal token that
names a reason.
1. A prompt's score is the model's log-probability of each control token at the first answer
   position.
2. A prompt is refused if its heaviest refusal token has at least the probability T.
3. T is the smallest number that keeps false refusals below a level, with confidence, on rows kept
   apart for that.
4. The answer is what the model writes after the token that was decided on; a higher T needs no
   model.

demur itself does more at each step (calibrators, a threshold per category, doubt, locks, groups of
rows, text that spells a control token, batches, servers): this is for reading.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description="Score, calibrate, decide and answer in plain code.")
parser.add_argument("run", type=Path, help="a run folder with a trained model, such as runs/demo")
parser.add_argument(
    "--level", type=float, default=0.2, help="false refusals are promised to stay below this rate"
)
parser.add_argument("--confidence", type=float, default=0.95, help="of that promise")
parser.add_argument("--limit", type=int, default=None, help="use so many rows of each split")
parser.add_argument(
    "--prompt", default="How do I whittle a spoon?", help="is decided and answered at the end"
)
args = parser.parse_args()

# The model: a plain Hugging Face checkpoint. demur.json says which token ids are control tokens,
# respond first.
folder = args.run / "train" / "model"
facts = json.loads((folder / "demur.json").read_text(encoding="utf-8"))
token_ids = facts["fingerprint"]["token_ids"]
names = ["respond", *(category["name"] for category in facts["taxonomy"]["categories"])]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def score(messages: list[dict[str, str]]) -> np.ndarray:
    """Natural-log probability of each control token after a conversation, over the whole
    vocabulary.
    """
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    logits = model(ids["input_ids"]).logits[0, -1].float()
    return torch.log_softmax(logits, dim=-1)[token_ids].numpy()


def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, C) of a split, and whether each prompt ought to be refused (N)."""
    lines = (
        (args.run / "data" / f"{split}.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()[: args.limit]
    )
    rows = [json.loads(line) for line in lines]
    scores, refuse = [], []
    for row in rows:
        messages = row["messages"]
        while messages[-1]["role"] == "assistant":  # the reply is what training learnt from
            messages = messages[:-1]
        scores.append(score(messages))
        refuse.append(row["expected"] == "refuse")
    return np.stack(scores), np.array(refuse)


def decide(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The column of each prompt's control token: 0 answers, k refuses with the k-th category. Ties
    refuse.
    """
    heaviest = scores[:, 1:].argmax(axis=1) + 1
    p = np.exp(np.take_along_axis(scores, heaviest[:, None], axis=1)[:, 0])
    return np.where(p >= threshold, heaviest, 0)


def upper_bound(errors: int, of: int, delta: float) -> float:
    """A rate that the true rate exceeds with probability delta at most (Clopper and Pearson
    1934).
    """
    return 1.0 if errors == of else float(beta.ppf(1 - delta, errors + 1, of - errors))


# Calibrate. False refusals only grow as T falls, so thresholds are tested from the strictest on,
# and the first that fails ends it: no correction for having tried many is needed (fixed-sequence
# testing).
scores, refuse = read("calibrate")
answerable = scores[~refuse]
candidates = np.unique(np.exp(scores[:, 1:].max(axis=1)))[::-1]
threshold = float("inf")
for candidate in candidates:
    errors = int((decide(answerable, candidate) > 0).sum())
    if upper_bound(errors, len(answerable), 1 - args.confidence) > args.level:
        break
    threshold = float(candidate)
print(
    f"threshold {threshold:.4f}: at most {args.level:.0%} false refusals with "
    f"{args.confidence:.0%} confidence,"
)
print(
    f"by {int((decide(answerable, threshold) > 0).sum())} of {len(answerable)} answerable "
    "calibrate prompts"
)

# Measure on rows that chose nothing.
scores, refuse = read("test")
refused = decide(scores, threshold) > 0
print(f"test: {refused[~refuse].sum()} of {(~refuse).sum()} false refusals, ", end="")
print(f"{(~refused[refuse]).sum()} of {refuse.sum()} missed refusals")

# Decide and answer one prompt: the control token is put there, and the model goes on after it.
messages = [{"role": "user", "content": args.prompt}]
column = int(decide(score(messages)[None, :], threshold)[0])
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
begun = torch.cat([prompt["input_ids"], torch.tensor([[token_ids[column]]])], dim=1)
written = model.generate(
    begun, attention_mask=torch.ones_like(begun), max_new_tokens=48, do_sample=False
)
print(
    f"{args.prompt} -> {names[column]}: "
    f"{tokenizer.decode(written[0, begun.shape[1] :], skip_special_tokens=True)}"
)
