"""The corpus written by hand for demur: one file per category, and ordinary requests.

A line holds group, kind, subcategory, prompt and reply. A refusal and the contrast row that differs from it by a few
words share a group: a minimal pair. What the corpus promises is checked in tests/sources/test_corpus.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from demur.core.example import Example, Message

_ORDINARY = "ordinary_"  # prefix of the files that hold benign rows; the others are named for their category


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltinSource:
    """Short prompts with short replies over CoCoNot's five categories, most in minimal pairs. It has no splits."""

    def read(self) -> Iterator[Example]:
        """All rows, by file name and line; ids are "builtin:<file>:<line>"."""
        folder = resources.files("demur.sources") / "builtin"
        for file in sorted((f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name):
            stem = file.name.removesuffix(".jsonl")
            category = None if stem.startswith(_ORDINARY) else stem
            for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
                if line:
                    row = json.loads(line)
                    yield Example(
                        id=f"builtin:{stem}:{number}",
                        source="builtin",
                        messages=(
                            Message(role="user", content=row["prompt"]),
                            Message(role="assistant", content=row["reply"]),
                        ),
                        kind=row["kind"],
                        category=category,
                        subcategory=row["subcategory"],
                        group=row["group"],
                    )
