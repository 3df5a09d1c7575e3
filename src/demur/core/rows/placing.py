"""Placing rows: which split each row goes to, and which rows are left out. Pure.

1. Linked rows go to one split, which is that of their units by the shares
   (demur.core.rows.splitting).
2. Splits that a source brings along are kept. Where those of linked rows differ, the split furthest
   from training wins, so that test rows are never dropped; rows of another are leaks, which are
   dropped, not moved.
3. Requests of one prompt may be in both held-out splits, because such are the requests to come:
   where a source put them into both, and where a prompt is frequent (demur.core.rows.repeats).
4. Train has no prompt with several labels: it can teach nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from demur.core.example import SPLITS, Example, Split
from demur.core.rows.repeats import divide_requests, frequent_prompts
from demur.core.rows.splitting import assign_splits, split_unit, uniform_hash
from demur.core.settings import DataSettings

KeyedRows = Sequence[tuple[Example, str]]  # rows, each with the key of its prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Rows with their splits, and the ids of rows that have none."""

    rows: tuple[Example, ...]
    leaked: tuple[str, ...]  # linked with rows of a split further from training
    unlearnt: tuple[str, ...]  # of train, and their prompt has several labels
    # the first row of each frequent prompt whose requests were divided, with what is linked with it
    frequent: tuple[str, ...]
    divided: int  # these requests


def place_rows(
    settings: DataSettings, rows: KeyedRows, roots: Sequence[int], disputed: frozenset[str]
) -> Placed:
    """Place rows that are linked as `roots` says. disputed: prompts with several labels."""
    together: dict[int, list[tuple[Example, str]]] = defaultdict(list)
    for row, root in zip(rows, roots, strict=True):
        together[root].append(row)
    frequent = frequent_prompts(rows, settings)
    often = {root for root, some in together.items() if any(key in frequent for _, key in some)}
    divided = {root for root in often if not any(e.split for e, _ in together[root])}
    held_out = {root for root in together if root in often or len(_prompts(together[root])) == 1}
    split = _splits(settings, together, disputed)
    kept = [
        e for root in together if root in divided for e in divide_requests(together[root], settings)
    ]
    leaked, unlearnt = [], []
    for (e, key), root in zip(rows, roots, strict=True):
        if root in divided:
            continue
        stays = {None, split[root]}
        if split[root] == "test" and root in held_out:
            stays.add("calibrate")
        if e.split not in stays:
            leaked.append(e.id)
        elif split[root] == "train" and key in disputed:
            unlearnt.append(e.id)
        else:
            kept.append(replace(e, split=e.split or split[root]))
    return Placed(
        rows=tuple(kept),
        leaked=tuple(leaked),
        unlearnt=tuple(unlearnt),
        frequent=tuple(together[root][0][0].id for root in together if root in divided),
        divided=sum(e.count for root in divided for e, _ in together[root]),
    )


def _splits(
    settings: DataSettings, together: Mapping[int, KeyedRows], disputed: frozenset[str]
) -> dict[int, Split]:
    """The split of each root: the one furthest from training that its rows bring along, else by the
    shares.
    """
    own = {root: {e.split for e, _ in some if e.split} for root, some in together.items()}
    free = [root for root in together if not own[root]]
    # A unit's place is a hash of its smallest prompt, which does not depend on the order of rows.
    units = [
        split_unit(
            together[root], uniform_hash(settings.seed, min(_prompts(together[root]))), disputed
        )
        for root in free
    ]
    by_share = assign_splits(units, settings.test_share, settings.calibrate_share)
    brought: dict[int, Split] = {
        root: max(found, key=SPLITS.index) for root, found in own.items() if found
    }
    return brought | dict(zip(free, by_share, strict=True))


def _prompts(rows: KeyedRows) -> set[str]:
    return {key for _, key in rows}
