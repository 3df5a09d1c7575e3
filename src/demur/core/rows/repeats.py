"""Repeated prompts: one row a prompt, a label and a split, with the number of requests that it
stands for. Pure.

1. Promises are about requests, so the rows of a held-out split stand for requests in the shares in
   which they came. A prompt that came twice counts twice; one that was labelled in two ways has a
   row for each label, so that it counts as the share of its labels.
2. A prompt that comes often would be missing from a split, or be far too much of it, if all its
   requests went to one. Those of a *frequent* prompt, and of what is linked with it, are divided
   between calibrate and test by the same shares as prompts are, and nothing is trained on them.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from demur.core.example import Example, Split, prompt_key
from demur.core.rows.requests import joint_session
from demur.core.rows.splitting import uniform_hash
from demur.core.settings import DataSettings

# A prompt below this share of all requests moves a rate by less, whichever split it is in.
FREQUENT_SHARE = 0.002
FREQUENT_TIMES = 2  # as often as the median prompt: where all come alike, none stands out


def disputed_prompts(rows: Iterable[tuple[Example, str]]) -> frozenset[str]:
    """The prompts, by key, that have different labels."""
    labels: dict[str, set[str | None]] = defaultdict(set)
    for e, key in rows:
        labels[key].add(e.label)
    return frozenset(key for key, found in labels.items() if len(found) > 1)


def frequent_prompts(rows: Sequence[tuple[Example, str]], settings: DataSettings) -> frozenset[str]:
    """The prompts, by key, that came so often that each held-out split is to have its share of
    them.

    Often enough for a request in each; FREQUENT_SHARE of all requests; FREQUENT_TIMES the median.
    """
    count: Counter[str] = Counter()
    for e, key in rows:
        count[key] += e.count
    least = max(
        1 / min(settings.calibrate_share, settings.test_share),
        FREQUENT_SHARE * count.total(),
        FREQUENT_TIMES * statistics.median(count.values()) if count else 0,
    )
    return frozenset(key for key, requests in count.items() if requests >= least)


def divide_requests(rows: Sequence[tuple[Example, str]], settings: DataSettings) -> list[Example]:
    """Divide the requests of each prompt between test and calibrate: a row for each label and split
    that gets any, with its count.

    Shares are rounded to whole requests by one hash, so that they are right on average, however few
    there are. Requests beyond both shares are left out: they would be training rows.
    """
    alike: dict[tuple[str, Hashable], list[Example]] = defaultdict(list)
    for e, key in rows:
        alike[key, _counted_apart(e)].append(e)
    found = []
    for (key, apart), own in alike.items():
        requests = sum(e.count for e in own)
        at = uniform_hash(settings.seed, f"requests:{apart!r}:{key}")
        # Systematic sampling: a point lies in every unit step of the line of requests, at the same
        # place in each; a split gets the points on its stretch.
        test = int(requests * settings.test_share + at)
        both = int(requests * (settings.test_share + settings.calibrate_share) + at)
        parts: dict[Split, int] = {"test": test, "calibrate": both - test}
        (whole,) = merge_repeats(own)
        # the next row's id is free, as the rows are merged; a row by itself lends its own
        ids = [whole.id, next((e.id for e in own if e.id != whole.id), f"{whole.id}:calibrate")]
        for name, split in zip(ids, [s for s, count in parts.items() if count], strict=False):
            found.append(replace(whole, id=name, split=split, count=parts[split]))
    return found


def merge_repeats(rows: Sequence[Example]) -> list[Example]:
    """One row a prompt, label and split, with the sum of the counts: the first with a reply, else
    the first. Held-out rows of several slices stay one row a slice.

    Its session is the joint one of all merged rows.
    """
    alike: dict[tuple[Split | None, str, Hashable], list[Example]] = defaultdict(list)
    for e in rows:
        apart = e.label if e.split == "train" else _counted_apart(e)
        alike[e.split, prompt_key(e), apart].append(e)
    merged: dict[str, Example] = {}
    for own in alike.values():
        if len(own) == 1:
            merged[own[0].id] = own[0]
            continue
        first = next((e for e in own if e.reply is not None), own[0])
        session = joint_session([e.session for e in own])
        merged[first.id] = replace(first, count=sum(e.count for e in own), session=session)
    return [merged[e.id] for e in rows if e.id in merged]


def _counted_apart(e: Example) -> Hashable:
    """What rows of one prompt must have in common to be counted as one: their label, and the fields
    by which promises are about some of the rows only.
    """
    return e.label, e.kind, e.category, e.source, e.traits
