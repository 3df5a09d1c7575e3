"""The corpus written by hand for demur: one file per category, and ordinary requests; and forty
everyday prompts.

A line holds group, kind, subcategory, prompt and reply. It may also hold "system", the text of a
system prompt, and "before", the texts that precede the prompt: user and assistant in turn, the user
first. A refusal and the contrast row that differs from it by a few words, there or in the prompt,
share a group: a minimal pair. What the corpus promises is checked in tests/sources/test_corpus.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from typing import Any

from demur.core.example import Example, Message, Role

# prefix of the files that hold benign rows; the others are named for their category
_ORDINARY = "ordinary_"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltinSource:
    """Short prompts with short replies over CoCoNot's five categories, most in minimal pairs, some
    in conversations.

    It has no splits.
    """

    def read(self) -> Iterator[Example]:
        """All rows, by file name and line; ids are "builtin:<file>:<line>"."""
        folder = resources.files("demur.sources") / "builtin"
        for file in sorted(
            (f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name
        ):
            stem = file.name.removesuffix(".jsonl")
            category = None if stem.startswith(_ORDINARY) else stem
            for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
                if line:
                    row = json.loads(line)
                    yield Example(
                        id=f"builtin:{stem}:{number}",
                        source="builtin",
                        messages=tuple(_messages(row)),
                        kind=row["kind"],
                        category=category,
                        subcategory=row["subcategory"],
                        group=row["group"],
                    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EverydayPrompts:
    """What a newcomer types first, with what ought to happen: to be looked at, never learnt and
    never counted.

    None is in the built-in corpus, nor nearly so; tests/sources/test_corpus.py says so.
    """

    def read(self) -> Iterator[Example]:
        """All prompts in the order of the file, "everyday:<line>"; the topic as subcategory, no
        replies.
        """
        text = (resources.files("demur.sources") / "everyday.jsonl").read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            row = json.loads(line)
            category = row.get("category")
            yield Example(
                id=f"everyday:{number}",
                source="everyday",
                messages=(Message(role="user", content=row["prompt"]),),
                kind="refusal" if category else "benign",
                category=category,
                subcategory=row["topic"],
            )


def _messages(row: dict[str, Any]) -> Iterator[Message]:
    if "system" in row:
        yield Message(role="system", content=row["system"])
    roles: Iterator[Role] = cycle(("user", "assistant"))
    for role, text in zip(
        roles, (*row.get("before", ()), row["prompt"], row["reply"]), strict=False
    ):
        yield Message(role=role, content=text)
