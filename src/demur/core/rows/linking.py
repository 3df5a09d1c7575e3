"""Links between rows that err together: which rows are linked, and the one name of their group.
Pure.

1. Rows are linked by the same prompt, by nearly the same prompt (demur.core.rows.similarity), by a
   group, and by a session.
2. A prompt that came in several sessions links none of them: a greeting would make one group of all
   traffic. It is linked with the prompts that came in exactly the same sessions as it did.
3. What links connect, however far, is one group. It is named after the first of the groups that its
   rows bring along, else after its prompts: the same rows give the same name in another run.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from demur.core.example import Example, prompt_key
from demur.core.rows.similarity import components, near_copies

_NAME_DIGITS = 16  # of the digest that names a group: 64 bits


def linked_rows(rows: Sequence[tuple[Example, str]]) -> list[int]:
    """For each row, with the key of its prompt, the first row that it is linked with."""
    sessions: dict[str, set[str]] = defaultdict(set)  # of each prompt
    for e, key in rows:
        if e.session is not None:
            sessions[key].add(e.session)
    first: dict[Hashable, int] = {}
    links: list[tuple[int, int]] = []
    for n, (e, key) in enumerate(rows):
        links.append((first.setdefault(("prompt", key), n), n))
        if e.group is not None:
            links.append((first.setdefault(("group", e.group), n), n))
        if key in sessions:
            links.append((first.setdefault(frozenset(sessions[key]), n), n))
    return components(len(rows), chain(links, near_copies([key for _, key in rows])))


def link_rows(rows: Sequence[Example]) -> list[Example]:
    """The rows with the names of their groups, by the links among them."""
    keyed = [(e, prompt_key(e)) for e in rows]
    roots = linked_rows(keyed)
    return name_groups(rows, {key: root for (_, key), root in zip(keyed, roots, strict=True)})


def name_groups(rows: Sequence[Example], roots: Mapping[str, int]) -> list[Example]:
    """The rows with the name of the group that each is in; a row linked with no other of these
    keeps its own, or none.

    roots: of the prompts, by key, as linked_rows gives them. What the source named otherwise stays
    as source_group.
    """
    keys = [prompt_key(e) for e in rows]
    of = [roots[key] for key in keys]
    sizes = Counter(of)
    groups: dict[int, str] = {}  # the first of the names that sources gave to rows of a group
    prompts: dict[int, str] = {}  # the first of their prompts
    for e, key, root in zip(rows, keys, of, strict=True):
        if e.group is not None:
            groups[root] = min(groups.get(root, e.group), e.group)
        prompts[root] = min(prompts.get(root, key), key)
    found = []
    for e, root in zip(rows, of, strict=True):
        name = groups.get(root)
        if name is None and sizes[root] > 1:
            name = _name_after(prompts[root])
        same = e.group == name
        found.append(e if same else replace(e, group=name, source_group=e.group))
    return found


def _name_after(prompt: str) -> str:
    """The name of a group that no source has named."""
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
    return f"linked {digest[:_NAME_DIGITS]}"
