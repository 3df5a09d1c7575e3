"""data: sources -> data/{train,calibrate,test}.jsonl.

1. Rows are read from all sources. Groups and sessions are written as "<source>:<name>", so that
   equal names of two sources stay two.
2. Rows that share a group, a session, a prompt or nearly a prompt are linked
   (demur.core.rows.linking) and go to one split. Every label, and within it every source, kind and
   category, gets the shares exactly, as far as links allow; which rows go where depends on a hash,
   so that more rows move few of the others (demur.core.rows.splitting). Sources with splits of
   their own keep them; where they contradict each other, the row of the split that is closer to
   training is dropped, never a test row. Requests of a prompt that came very often are divided
   between calibrate and test.
3. Rows of one prompt with one label become one row that counts their requests. A prompt with
   several labels keeps a row for each in calibrate and test, and none in train
   (demur.core.rows.repeats).
4. The mix of kinds (limits, contrast ratio, refusal share) is set on the training rows only:
   calibrate and test stay as the sources gave them (demur.core.rows.mixing).
5. Rows that are linked carry one group's name.

Everything that was dropped is counted and named in data/summary.json.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from demur.base.boundary import read_json
from demur.base.errors import DataError, TaxonomyError
from demur.base.files import json_bytes, write_together
from demur.core.example import SPLITS, Example, Kind, Split, prompt_key
from demur.core.ports import Progress, Source, no_progress
from demur.core.rows.linking import linked_rows, name_groups
from demur.core.rows.mixing import mixed_rows
from demur.core.rows.placing import Placed, place_rows
from demur.core.rows.repeats import disputed_prompts, merge_repeats
from demur.core.rows.requests import require_sessions
from demur.core.rows.splitting import count_units, split_warnings
from demur.core.settings import DataSettings
from demur.core.taxonomy import Taxonomy
from demur.store.resplit import ensure_seen_record, require_same_splits
from demur.store.rows import examples_text
from demur.store.run import RunFolder

Splits = Mapping[Split, Sequence[Example]]


Config = DataSettings

# of Example, when receipts of this stage were first written
_FIRST_FIELDS = frozenset(
    {"id", "source", "messages", "kind", "category", "subcategory", "group", "split"}
)


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
    duplicates: int  # rows of a prompt and label that another row of the split counts
    # ids of rows whose prompt has several labels: in train dropped, else a row for each label
    contradictory: tuple[str, ...]
    leaked: tuple[str, ...]  # ids dropped: linked with rows of a split further from training
    thinned: int  # train rows dropped for the mix
    pairs: dict[Split, int]  # groups with both a refusal and a contrast row
    with_reply: dict[Split, int]  # rows that also teach an answer
    prompt_words: dict[Split, float]  # median
    reply_words: dict[Split, float | None]  # median over rows with a reply; None if there are none
    warnings: tuple[str, ...]
    # Summaries of older versions lack what follows.
    requests: dict[Split, int] = field(default_factory=dict)  # that the rows stand for
    # pieces of evidence: groups, sessions, and rows that stand alone
    units: dict[Split, int] = field(default_factory=dict)
    disputed: dict[Split, int] = field(default_factory=dict)  # prompts with several labels
    # the first row of each prompt so frequent that its requests were divided; not trained on
    frequent: tuple[str, ...] = ()


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
        require_sessions([(e.id, e.session) for e in read[name]], f"source {name!r}")
        # Row by row, so that a large source is never held as one text.
        state = hashlib.sha256()
        for e in read[name]:
            state.update(f"{_digested(e)}\n".encode())
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

    Pure. Order: links, splits and leaks, repeats merged, mix, names of groups. Within a split rows
    keep their order. Raises DataError as run does, and on leaks if config.on_leak says so.
    """
    _check_ids(rows)
    keyed = [(e, prompt_key(e)) for e in rows]
    roots = linked_rows(keyed)
    disputed = disputed_prompts(keyed)
    placed = place_rows(config, keyed, roots, disputed)
    if placed.leaked and config.on_leak == "error":
        raise DataError(
            f"{len(placed.leaked)} rows share a prompt, a session or a group with a split further "
            f"from training, first {placed.leaked[0]!r}",
            "drop them at the source, or set on_leak = 'drop'",
        )
    single = merge_repeats(placed.rows)
    splits: dict[Split, list[Example]] = {s: [e for e in single if e.split == s] for s in SPLITS}
    before = len(splits["train"])  # rows ahead of the mix
    splits["train"] = mixed_rows(config, splits["train"])
    _check_sides(splits)
    pairs = {s: _pairs(splits[s]) for s in SPLITS}  # while groups have the sources' names
    of_prompt = {key: root for (_, key), root in zip(keyed, roots, strict=True)}
    named = name_groups([e for s in SPLITS for e in splits[s]], of_prompt)
    splits = {s: [e for e in named if e.split == s] for s in SPLITS}
    kept = {e.id for e in single}
    gone = {*placed.leaked, *placed.unlearnt}
    contradictory = tuple(e.id for e, key in keyed if key in disputed)
    return splits, DataSummary(
        counts=_counts(splits),
        read=len(rows),
        duplicates=sum(e.id not in kept and e.id not in gone for e in rows),
        contradictory=contradictory,
        leaked=placed.leaked,
        thinned=before - len(splits["train"]),
        pairs=pairs,
        with_reply={s: sum(e.reply is not None for e in splits[s]) for s in SPLITS},
        prompt_words={s: statistics.median(len(e.text.split()) for e in splits[s]) for s in SPLITS},
        reply_words={s: _median_reply(splits[s]) for s in SPLITS},
        requests={s: sum(e.count for e in splits[s]) for s in SPLITS},
        units={s: count_units(splits[s]) for s in SPLITS},
        disputed={s: _disputed(splits[s], contradictory) for s in SPLITS},
        frequent=placed.frequent,
        warnings=(
            *_dropped(contradictory, placed, sum(e.count for e in rows)),
            *_empty(splits, taxonomy),
            *split_warnings(
                splits, single, {"calibrate": config.calibrate_share, "test": config.test_share}
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
    names = ("contradictory", "leaked", "warnings", "frequent")
    lists = {name: tuple(found[name]) for name in names if name in found}
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
    total = {s: sum(c.rows for c in summary.counts if c.split == s) for s in SPLITS}
    found = [("kind", "category", *SPLITS), *body]
    # summaries of older versions lack some
    sums = {
        "all": total,
        "requests": summary.requests,
        "independent": summary.units,
        "disputed": summary.disputed if any(summary.disputed.values()) else {},
        "pairs": summary.pairs,
    }
    for name, of in sums.items():
        if of:
            found.append((name, "", *(str(of[s]) for s in SPLITS)))
    return found


def _fitted(e: Example, source: str, taxonomy: Taxonomy) -> Example:
    """The row with a category of the taxonomy, and a group and session that no other source shares.

    A taxonomy with one category takes every refusal; the row's own category becomes its
    subcategory.
    """
    own = replace(
        e,
        group=f"{source}:{e.group}" if e.group is not None else None,
        session=f"{source}:{e.session}" if e.session is not None else None,
    )
    if e.category is None or e.category in taxonomy.names:
        return own
    if len(taxonomy.names) == 1:
        return replace(own, category=taxonomy.names[0], subcategory=e.subcategory or e.category)
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


def _digested(e: Example) -> str:
    """The text of a row whose digest goes into the receipt. Fields that the first version did not
    have are in it only where they say something: a finished stage stays current.
    """
    values = [
        f"{f.name}={getattr(e, f.name)!r}"
        for f in fields(e)
        if f.name in _FIRST_FIELDS or getattr(e, f.name) != f.default
    ]
    return f"Example({', '.join(values)})"


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


def _disputed(rows: Sequence[Example], contradictory: Sequence[str]) -> int:
    """The number of prompts among these rows that have several labels."""
    ids = set(contradictory)
    return len({prompt_key(e) for e in rows if e.id in ids})


def _dropped(contradictory: Sequence[str], placed: Placed, requests: int) -> list[str]:
    """Warnings about rows that were dropped because they contradict or leak, and about those that
    came so often that none is trained on. requests: that were read.
    """
    found = []
    if contradictory:
        found.append(
            f"{len(contradictory)} rows, first {contradictory[0]!r}: the same prompt has different "
            "labels; calibrate and test count it by the share of each, train leaves it out "
            f"({len(placed.unlearnt)} rows); correct the labels at the source"
        )
    if placed.leaked:
        found.append(
            f"{len(placed.leaked)} rows dropped, first {placed.leaked[0]!r}: their prompt, nearly "
            "their prompt, their session or their group is in a split further from training"
        )
    if placed.frequent:
        found.append(
            f"{len(placed.frequent)} prompts, first {placed.frequent[0]!r}, came so often "
            f"({placed.divided} of {requests} requests) that no split could do without them: these "
            "requests are divided between calibrate and test, and none is trained on"
        )
    return found


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
