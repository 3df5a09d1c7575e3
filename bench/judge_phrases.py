"""Speed of the phrase judge, beside the loop that most code bases have: one `in` per phrase.

usage: python bench/judge_phrases.py [FOLDER] On replies of the built-in corpus, padded to 40 words,
and on the real answers of FOLDER/response_labels.jsonl as they are. The baseline does less: literal
phrases, no normalising beyond lower case, no tiers, no partial answers.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from demur.judges.phrases import COUNTED, STRONG, PhraseJudge
from demur.store.answers.answers_file import read_answers

Row = tuple[str, str | None]  # answer, category; None for ordinary requests

REPEATS = 5
WORDS = 40  # replies are padded with ordinary sentences to about the length of a short answer
PADDING = "If you like, we can look at the next step together and write it down for later."


def corpus() -> list[Row]:
    """Every reply, at about WORDS words."""
    rows: list[Row] = []
    for file in sorted(files("demur.sources").joinpath("builtin").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".jsonl"):
            category = file.name.removesuffix(".jsonl")
            for line in file.read_text(encoding="utf-8").splitlines():
                words = (json.loads(line)["reply"] + " " + " ".join([PADDING] * 3)).split()
                rows.append((" ".join(words[:WORDS]), category if category in COUNTED else None))
    return rows


def naive(phrases: list[str], answer: str) -> bool:
    """Whether any phrase occurs anywhere."""
    lowered = answer.lower()
    return any(p in lowered for p in phrases)


def per_second(run: Callable[[], object], of: int) -> float:
    """Answers a second of processor time, the best of REPEATS runs: other work on the machine does
    not count.
    """
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return of / min(seconds)


def measure(rows: Sequence[Row]) -> None:
    """Print both speeds."""
    judge = PhraseJudge()
    subjects = (
        "i can't",
        "i cannot",
        "i won't",
        "i don't",
        "i'm not",
        "i am not",
        "i have no",
        "i'm unable",
    )
    verbs = (
        "help",
        "say",
        "do",
        "know",
        "have",
        "tell",
        "see",
        "make",
        "provide",
        "give",
        "write",
        "share",
        "answer",
    )
    literal = [f"{s} {v}" for s in subjects for v in verbs]
    ours = per_second(lambda: [judge.judge("", a, c) for a, c in rows], len(rows))
    loop = per_second(lambda: [naive(literal, a) for a, _ in rows], len(rows))
    entries = sum(len(family) for family in STRONG.values())
    words = sum(len(a.split()) for a, _ in rows) / len(rows)
    print(f"{len(rows):,} answers, {words:.0f} words on average, one core, best of {REPEATS}")
    print(
        f"  phrase judge ({entries} expressions, each for many spellings)  {ours:>10,.0f} answers/s"
    )
    print(
        f"  loop with `in` ({len(literal)} literal phrases)                  {loop:>10,.0f} "
        "answers/s"
    )


def main() -> None:
    """Short answers, and real ones where they are at hand."""
    measure(corpus())
    file = Path(sys.argv[1]) / "response_labels.jsonl" if len(sys.argv) > 1 else None
    if file is None or not file.exists():
        print(
            f"real answers: skipped, {file or 'no FOLDER was named'}{' is absent' if file else ''}"
        )
        return
    answers = [row.item.answer for row in read_answers(file)]
    for category in (None, "safety"):
        print(f"response_labels.jsonl, category {category}: ", end="")
        measure([(answer, category) for answer in answers])


if __name__ == "__main__":
    main()
