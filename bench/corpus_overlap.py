"""Prompts of the built-in corpus that also stand, in whole or in part, in a folder of rows.

usage: python bench/corpus_overlap.py FOLDER
Two prompts overlap if they share eight words in a row or are near copies
(demur.core.rows.similarity), as folded text. Every .jsonl file in FOLDER is read: its prompts are
"prompt", or the turns in "messages" that are not the assistant's. Of those only ids are printed.
Exits 1 if any prompt overlaps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from demur.core.example import fold
from demur.core.rows.similarity import similar_to_any, word_set
from demur.sources.corpus import BuiltinSource

WORDS = 8


def own() -> Iterator[tuple[str, str]]:
    """Id and folded text of every turn of a prompt in the corpus."""
    for row in BuiltinSource().read():
        yield from ((row.id, fold(m.content)) for m in row.prompt)


def theirs(folder: Path) -> Iterator[tuple[str, str]]:
    """The same of every prompt in the folder."""
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                turns = [m["content"] for m in row.get("messages", ()) if m["role"] != "assistant"]
                for text in turns or [row["prompt"]]:
                    yield str(row.get("id") or f"{file.name}:{number}"), fold(text)


def runs(folded: str) -> set[tuple[str, ...]]:
    """All runs of WORDS words."""
    words = folded.split()
    return {tuple(words[n : n + WORDS]) for n in range(len(words) - WORDS + 1)}


def main(folder: Path) -> int:
    """Print what overlaps; 1 if anything does."""
    ours, known = list(own()), list(theirs(folder))
    if not known:
        raise SystemExit(f"no rows in {folder}")
    holders: dict[tuple[str, ...], set[str]] = {}
    for name, text in ours:
        for run in runs(text):
            holders.setdefault(run, set()).add(name)
    sharing: dict[str, str] = {}
    for other, text in known:
        for run in runs(text) & holders.keys():
            sharing.update(dict.fromkeys(holders[run], other))

    alike = similar_to_any(
        {words for _, text in known if (words := word_set(text))},
        {words for _, text in ours if (words := word_set(text))},
    )
    whole = {text for _, text in known}
    copies = {name for name, text in ours if text in whole or word_set(text) in alike}
    for name in sorted(sharing.keys() | copies):
        reasons = [f"{WORDS} words in a row, as in {sharing[name]}"] if name in sharing else []
        print(f"{name}: {', '.join(reasons + ['near copy'] * (name in copies))}")
    print(
        f"{len(sharing.keys() | copies)} of {len({name for name, _ in ours})} rows overlap with "
        f"{len(known)} prompts: {len(sharing)} share {WORDS} words in a row, {len(copies)} are "
        "near copies"
    )
    return 1 if sharing or copies else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
