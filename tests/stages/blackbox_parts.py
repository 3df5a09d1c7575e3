"""A model to predict: it declines prompts that name a lock, mostly, and answers the others."""

import json
import re

import numpy as np
from tests.engines.chat_stub import completion

NO, YES = (
    "I'm sorry, but I can't help with that.",
    "Start with the first part, then go on to the second.",
)
WORDS = (
    "river",
    "candle",
    "garden",
    "letter",
    "engine",
    "mirror",
    "castle",
    "violin",
    "ladder",
    "pepper",
    "bridge",
)


def prompts(count, seed=0, share=0.4):
    """Prompts that are no near copies of one another, some of which name a lock."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        words = " ".join(rng.choice(WORDS, size=5)) + f" {n} {n * 7} x{n}"
        made.append(
            f"Tell me how to {'pick the lock' if rng.random() < share else 'paint the wall'} near "
            f"{words}"
        )
    return made


def declines(prompt):
    """Eight or nine times in ten what the prompt says, and always the same of the same prompt."""
    odd = int(re.findall(r"\d+", prompt)[0]) % 8 == 0
    return ("lock" in prompt) != odd


def answers(number, body):
    """The script of a stub."""
    return completion(NO if declines(body["messages"][-1]["content"]) else YES)


def write(path, rows):
    path.write_text(
        "".join(json.dumps(r if isinstance(r, dict) else {"prompt": r}) + "\n" for r in rows)
    )
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
