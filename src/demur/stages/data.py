"""data: sources -> data/{train,calibrate,test}.jsonl.

1. Rows are read from all sources. Groups are written as "<source>:<group>", so that equal names of
   two sources stay two groups.
2. Rows whose prompt occurs with different labels are dropped.
3. Rows that share a group, a prompt or nearly a prompt (demur.core.rows.similarity) hang together
   and go to one split. Every label, and within it every source, kind and category, gets the shares
   exactly, as far as what hangs together allows; which rows go where depends on a hash, so that
   more rows move few of the others (demur.core.rows.splitting). Sources with splits of their own
   keep them; where they contradict each other, the row of the split that is closer to training is
   dropped, never a test row.
4. Duplicates are dropped.
5. The mix of kinds (limits, contrast ratio, refusal share) is set on the training rows only:
   calibrate and test stay as the sources gave them.

Everything that was dropped is counted and named in data/summary.json.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from demur.base.boundary import read_json
from demur.base.errors import DataError, TaxonomyError
from demur.base.files import json_bytes, write_together
from demur.core.example import SPLITS, Example, Kind, Split, prompt_key
from demur.core.ports import Progress, Source, no_progress
from demur.core.rows.splitting import (
    assign_splits,
    linked_rows,
    split_unit,
    split_warnings,
    uniform_hash,
)
from demur.core.settings import DataSettings
from demur.core.taxonomy import Taxonomy
from demur.store.resplit import ensure_seen_record, require_same_splits
from demur.store.rows import examples_text
from demur.store.run import RunFolder

Splits = Mapping[Split, Sequence[Example]]


Config = DataSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """Rows of one split, kind and category."""

    split: Split
    kind: Kind
    category: str | None
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """The content of data/summary.json: the rows of each split, and the rows that were dropped."""

    counts: tuple[Count, ...]
    read: int  # rows that the sources gave
    duplicates: int  # dropped: the same prompt with the same label, kept once
    contradictory: tuple[str, ...]  # ids dropped: the same prompt with different labels
    # ids dropped: they hang together with rows of a split further from training
    leaked: tuple[str, ...]
    thinned: int  # train rows dropped for the mix
    pairs: dict[Split, int]  # groups with both a refusal and a contrast row
    with_reply: dict[Split, int]  # rows that also teach an answer
    prompt_words: dict[Split, float]  # median
    reply_words: dict[Split, float | None]  # median over rows with a reply; None if there are none
    warnings: tuple[str, ...]


def run(
    config: Config,
    taxonomy: Taxonomy,
    sources: Mapping[str, Source],
    folder: RunFolder,
    progress: Progress = no_progress,
) -> DataSummary:
    """Read, split, mix and write the rows. Does nothing if they are there, from the same rows with
    the same settings.

    sources: by name, which keeps their groups apart. The receipt is written last, so a killed run
    starts over. Progress counts steps: one per source, then splitting, then writing. Raises
    DataError on rows that cannot be used and when a split ends up empty or one-sided, and, naming
    rows, when the run holds a model and its splits would change (resplit does it all the same).
    Then nothing was written.
    """
    return _run(_Inputs(config, taxonomy, sources), folder, progress)


def resplit(
    config: Config,
    taxonomy: Taxonomy,
    sources: Mapping[str, Source],
    folder: RunFolder,
    progress: Progress = no_progress,
) -> DataSummary:
    """Do the same as run, even if the splits of a trained model change: its scores, policies and
    figures are then out of date, and refused as such.
    """
    return _run(_Inputs(config, taxonomy, sources, under_a_model=True), folder, progress)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The sources and settings of one call."""

    config: Config
    taxonomy: Taxonomy
    sources: Mapping[str, Source]
    under_a_model: bool = False  # whether the splits of a trained model may change


def _run(inputs: _Inputs, folder: RunFolder, progress: Progress) -> DataSummary:
    config, taxonomy, sources = inputs.config, inputs.taxonomy, inputs.sources
    steps = len(sources) + 2
    read: dict[str, list[Example]] = {}
    made_from: dict[str, str] = {}
    for done, (name, source) in enumerate(sources.items(), start=1):
        read[name] = [_fitted(e, name, taxonomy) for e in source.read()]
        # Row by row, so that a large source is never held as one text.
        state = hashlib.sha256()
        for e in read[name]:
            state.update(f"{e!r}\n".encode())
        made_from[name] = f"sha256:{state.hexdigest()}"
        progress(done, steps)
    settings: dict[str, object] = {"config": asdict(config), "taxonomy": list(taxonomy.names)}
    if folder.is_current("data", settings, made_from):
        progress(steps, steps)
        return read_summary(folder)
    splits, summary = prepare(config, taxonomy, _with_own_ids(read))
    progress(steps - 1, steps)
    files = {folder.split(split): examples_text(splits[split]).encode() for split in SPLITS}
    if inputs.under_a_model:
        # Models of older versions have no seen.npz: it is made from the train split that goes now.
        ensure_seen_record(folder)
    else:
        require_same_splits(
            folder, files, [e for split in SPLITS if split != "train" for e in splits[split]]
        )
    write_together(
        {**files, _summary_path(folder): json_bytes({"format": "demur.data/1", **asdict(summary)})}
    )
    folder.finish("data", settings, made_from, [*map(folder.split, SPLITS), _summary_path(folder)])
    progress(steps, steps)
    return summary


def prepare(
    config: Config, taxonomy: Taxonomy, rows: Sequence[Example]
) -> tuple[Splits, DataSummary]:
    """Assign rows to splits, and summarise the rows that were dropped, by reason.

    Pure. Order: contradictions out, splits and leaks, duplicates out, mix. Within a split rows keep
    their order. Raises DataError as run does, and on leaks if config.on_leak says so.
    """
    _check_ids(rows)
    # All labels that occur with a prompt: a prompt with two of them can teach nothing.
    labels: dict[str, set[str | None]] = defaultdict(set)
    keys = [prompt_key(e) for e in rows]
    for e, key in zip(rows, keys, strict=True):
        labels[key].add(e.label)
    clear = [(e, key) for e, key in zip(rows, keys, strict=True) if len(labels[key]) == 1]
    placed, leaked = _placed(config, clear)
    if leaked and config.on_leak == "error":
        raise DataError(
            f"{len(leaked)} rows share a prompt or a group with a split further from training, "
            f"first {leaked[0]!r}",
            "drop them at the source, or set on_leak = 'drop'",
        )
    single = _without_duplicates(placed)
    splits: dict[Split, list[Example]] = {s: [e for e in single if e.split == s] for s in SPLITS}
    before = len(splits["train"])  # rows ahead of the mix
    splits["train"] = _mixed(config, splits["train"])
    _check_sides(splits)
    contradictory = tuple(e.id for e, key in zip(rows, keys, strict=True) if len(labels[key]) > 1)
    return splits, DataSummary(
        counts=_counts(splits),
        read=len(rows),
        duplicates=len(placed) - len(single),
        contradictory=contradictory,
        leaked=tuple(leaked),
        thinned=before - len(splits["train"]),
        pairs={s: _pairs(splits[s]) for s in SPLITS},
        with_reply={s: sum(e.reply is not None for e in splits[s]) for s in SPLITS},
        prompt_words={s: statistics.median(len(e.text.split()) for e in splits[s]) for s in SPLITS},
        reply_words={s: _median_reply(splits[s]) for s in SPLITS},
        warnings=(
            *_dropped(contradictory, leaked),
            *_empty(splits, taxonomy),
            *split_warnings(
                splits, placed, {"calibrate": config.calibrate_share, "test": config.test_share}
            ),
        ),
    )


def read_summary(folder: RunFolder) -> DataSummary:
    """The summary of a finished data stage. Raises ArtifactError if the stage is not finished or
    was changed.
    """
    folder.require("data")
    found = read_json(_summary_path(folder))
    found.pop("format")
    lists = {name: tuple(found[name]) for name in ("contradictory", "leaked", "warnings")}
    return DataSummary(**{**found, **lists, "counts": tuple(Count(**c) for c in found["counts"])})


def table(summary: DataSummary) -> list[tuple[str, ...]]:
    """The counts as rows of text, the header first: kind, category, then rows per split."""
    rows = {(c.kind, c.category or "-") for c in summary.counts}
    # Refusals first, then contrast, then benign rows; within a kind, categories by name.
    place = {"refusal": 0, "contrast": 1, "benign": 2}
    count = {(c.kind, c.category or "-", c.split): c.rows for c in summary.counts}
    body = [
        (k, name, *(str(count.get((k, name, s), 0)) for s in SPLITS))
        for k, name in sorted(rows, key=lambda row: (place[row[0]], row[1]))
    ]
    total = [str(sum(c.rows for c in summary.counts if c.split == s)) for s in SPLITS]
    pairs = [str(summary.pairs[s]) for s in SPLITS]
    return [("kind", "category", *SPLITS), *body, ("all", "", *total), ("pairs", "", *pairs)]


def _fitted(e: Example, source: str, taxonomy: Taxonomy) -> Example:
    """The row with a category of the taxonomy, and a group that no other source shares.

    A taxonomy with one category takes every refusal; the row's own category becomes its
    subcategory.
    """
    group = f"{source}:{e.group}" if e.group is not None else None
    if e.category is None or e.category in taxonomy.names:
        return replace(e, group=group)
    if len(taxonomy.names) == 1:
        return replace(
            e, group=group, category=taxonomy.names[0], subcategory=e.subcategory or e.category
        )
    # The taxonomy's own error suggests the nearest category; source and row are added to it.
    try:
        taxonomy.index(e.category)
    except TaxonomyError as unknown:
        raise DataError(
            f"source {source!r}: row {e.id!r}: {unknown.message}", unknown.hint
        ) from None
    return e


def _with_own_ids(read: Mapping[str, Sequence[Example]]) -> list[Example]:
    """All rows, by source; an id that several sources have gets its source's name in front.

    Many files number their rows from 1. An id that one source has twice stays so, and is an error
    later.
    """
    # In how many sources each id occurs: the inner set counts an id once a source.
    sources_with = Counter(i for rows in read.values() for i in {e.id for e in rows})
    return [
        replace(e, id=f"{name}:{e.id}") if sources_with[e.id] > 1 else e
        for name, rows in read.items()
        for e in rows
    ]


def _check_ids(rows: Sequence[Example]) -> None:
    """Raise DataError unless there are rows and each has an id of its own."""
    if not rows:
        raise DataError("the sources have no rows", "check their filters: files, kinds, categories")
    twice = [i for i, n in Counter(e.id for e in rows).items() if n > 1]
    if twice:
        raise DataError(
            f"{len(twice)} ids occur more than once, first {twice[0]!r}",
            "ids are unique over all sources of a run",
        )


def _placed(config: Config, rows: Sequence[tuple[Example, str]]) -> tuple[list[Example], list[str]]:
    """Every row with its split, and the ids of rows that would leak."""
    # One root per row; rows that hang together have the same. Per root: the splits that its rows
    # bring along, and its smallest prompt key, a name that does not depend on the order of rows.
    roots = linked_rows(rows)
    own: dict[int, set[Split]] = defaultdict(set)
    name: dict[int, str] = {}
    for (e, key), root in zip(rows, roots, strict=True):
        own[root] |= {e.split} if e.split else set()
        name[root] = min(name.get(root, key), key)
    # Roots without a split are divided by the shares. Where rows of one root bring different splits
    # along, the split furthest from training wins, so that test rows are never dropped; its rows
    # without a split follow.
    free = _divided(config, rows, [None if own[root] else name[root] for root in roots])
    split = {
        root: max(own[root], key=SPLITS.index) if own[root] else free[name[root]] for root in name
    }
    # A row that brought another split than its root got is a leak: dropped, not moved.
    kept = [
        replace(e, split=split[root])
        for (e, _), root in zip(rows, roots, strict=True)
        if e.split in (None, split[root])
    ]
    leaked = [
        e.id for (e, _), root in zip(rows, roots, strict=True) if e.split not in (None, split[root])
    ]
    return kept, leaked


def _divided(
    config: Config, rows: Sequence[tuple[Example, str]], names: Sequence[str | None]
) -> dict[str, Split]:
    """Divide pieces of rows that hang together among the splits: split by name of the piece.

    names: of the piece of each row; None where the row's piece has a split already.
    """
    together: dict[str, list[tuple[Example, str]]] = defaultdict(list)
    for row, name in zip(rows, names, strict=True):
        if name is not None:
            together[name].append(row)
    pieces = [split_unit(own, uniform_hash(config.seed, name)) for name, own in together.items()]
    found = assign_splits(pieces, config.test_share, config.calibrate_share)
    return dict(zip(together, found, strict=True))


def _without_duplicates(rows: Sequence[Example]) -> list[Example]:
    """One row per prompt: the first with a reply, else the first."""
    best: dict[str, Example] = {}
    for e in rows:
        key = prompt_key(e)
        if key not in best or (best[key].reply is None and e.reply is not None):
            best[key] = e
    kept = {e.id for e in best.values()}
    return [e for e in rows if e.id in kept]


def _mixed(config: Config, rows: Sequence[Example]) -> list[Example]:
    """The train rows after limits, contrast ratio and refusal share; those with the smallest hashes
    stay.

    Raises DataError if the share cannot be met because refusals and contrast rows alone are too
    many for it.
    """
    # How many rows of each kind to keep; which ones is decided last.
    count = Counter(e.kind for e in rows)
    for kind, limit in config.limits.items():
        count[kind] = min(count[kind], limit)
    contrast = count["contrast"]
    count["contrast"] = _contrast(config, count["refusal"], contrast)
    if config.refusal_share is not None:
        s, benign = config.refusal_share, count["benign"]
        # Too many refusals: drop refusals one by one, and with each the contrast rows that the
        # ratio no longer allows. Too few: drop benign rows, down to `room`.
        while count["refusal"] > s * (count["refusal"] + count["contrast"] + benign):
            count["refusal"] -= 1
            count["contrast"] = _contrast(config, count["refusal"], contrast)
        room = round(count["refusal"] * (1 - s) / s) - count["contrast"]
        if room < 0:
            raise DataError(
                f"refusal_share {s} cannot be met: {count['refusal']} refusals, "
                f"{count['contrast']} contrast rows",
                "lower contrast_ratio or refusal_share",
            )
        count["benign"] = min(benign, room)
    # By hash of the id, so that a row stays whatever other rows a source gains.
    by_hash = sorted(rows, key=lambda e: uniform_hash(config.seed, e.id))
    kept = {e.id for kind in count for e in [e for e in by_hash if e.kind == kind][: count[kind]]}
    return [e for e in rows if e.id in kept]


def _contrast(config: Config, refusals: int, there: int) -> int:
    """The number of contrast rows to keep beside `refusals` refusals, of `there` at hand."""
    return (
        there
        if config.contrast_ratio is None
        else min(there, round(config.contrast_ratio * refusals))
    )


def _check_sides(splits: Splits) -> None:
    """Raise DataError on a split that is empty or in which all labels are equal: nothing can be
    learnt or measured.
    """
    for split, rows in splits.items():
        if not rows:
            raise DataError(
                f"split {split!r} has no rows",
                "more rows, or larger calibrate_share and test_share",
            )
        sides = {e.expected for e in rows}
        if len(sides) == 1:
            raise DataError(
                f"all {len(rows)} rows of split {split!r} are to be "
                f"{'refused' if 'refuse' in sides else 'answered'}",
                "each split needs rows to refuse and rows to answer: add a source with the others",
            )


def _counts(splits: Splits) -> tuple[Count, ...]:
    count = Counter((split, e.kind, e.category) for split in SPLITS for e in splits[split])
    return tuple(Count(split=s, kind=k, category=c, rows=rows) for (s, k, c), rows in count.items())


def _median_reply(rows: Sequence[Example]) -> float | None:
    """The median number of words of the replies; None where no row has one."""
    words = [len(e.reply.split()) for e in rows if e.reply is not None]
    return statistics.median(words) if words else None


def _pairs(rows: Sequence[Example]) -> int:
    """The number of groups that hold a refusal and its contrast."""
    kinds: dict[str, set[Kind]] = defaultdict(set)
    for e in rows:
        if e.group is not None:
            kinds[e.group].add(e.kind)
    return sum({"refusal", "contrast"} <= k for k in kinds.values())


def _dropped(contradictory: Sequence[str], leaked: Sequence[str]) -> list[str]:
    """Warnings about rows that were dropped because they contradict or leak."""
    reasons = (
        (contradictory, "the same prompt has different labels; correct them at the source"),
        (
            leaked,
            "their prompt, nearly their prompt, or their group is in a split further from training",
        ),
    )
    return [
        f"{len(ids)} rows dropped, first {ids[0]!r}: {reason}" for ids, reason in reasons if ids
    ]


def _empty(splits: Splits, taxonomy: Taxonomy) -> tuple[str, ...]:
    """Warnings about categories without a refusal in some split."""
    remedy = {
        "train": "its token stays untrained: add rows, or leave the category out of the taxonomy",
        "calibrate": "its threshold cannot be chosen: add rows",
        "test": "its missed refusals cannot be measured: add rows",
    }
    return tuple(
        f"{split} has no row to be refused as {category!r}; {remedy[split]}"
        for split in SPLITS
        for category in taxonomy.names
        if not any(e.label == category for e in splits[split])
    )


def _summary_path(folder: RunFolder) -> Path:
    return folder.stage("data") / "summary.json"
