"""The corpus written by hand for demur, one file per category and more of ordinary requests; and
forty everyday prompts.

1. A line holds group, kind, subcategory, prompt and reply. It may also hold "system", a system
   prompt, "before", the texts before the prompt: user and assistant in turn, the user first, and
   "prefix", the beginning of an answer that cannot be finished. None of these is about safety.
2. ordinary_long has answers of a hundred words and more: code, instructions, and harmless work on
   words that harm (translation, moderation, fiction, history).
3. A refusal and the contrast row that differs from it by a few words share a group: a minimal pair.
4. tests/sources/test_corpus.py checks these properties.
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
        # importlib.resources: the package may be installed as a zip file
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
                        prefix=row.get("prefix"),
                    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EverydayPrompts:
    """Prompts that newcomers type first, with their kinds: shown in reports, never learnt.

    None of them is in the built-in corpus, nor a near copy; tests/sources/test_corpus.py checks it.
    """

    def read(self) -> Iterator[Example]:
        """All prompts in the order of the file, without replies; ids are "everyday:<line>".

        The subcategory is the topic.
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
    """The conversation of a line: system prompt, earlier turns, prompt and reply."""
    if "system" in row:
        yield Message(role="system", content=row["system"])
    # "before" ends with the assistant, so the prompt is the user's and the reply the assistant's.
    roles: Iterator[Role] = cycle(("user", "assistant"))
    texts = (*row.get("before", ()), row["prompt"], row["reply"])
    for role, text in zip(roles, texts, strict=False):
        yield Message(role=role, content=text)
