"""Splitting rows: exact shares in every stratum, linked rows in one split. Pure.

1. Rows that are linked (same prompt, near copy, group) are one unit, at a place in [0, 1) that a
   hash of its name and the run's seed gives, whatever other rows there are.
2. Units of one label (the category to be refused with, or none) get the shares of test and
   calibrate rounded to rows; within a label they are divided over its strata (source, kind,
   category) by largest remainders.
3. In a stratum the units with the lowest places are test, the next calibrate, the others train.

So more rows of a stratum move its cuts a little, and with them the few units that lie beside a cut;
all others stay. A hash alone would move none, and give 40 rows of a category 31, 6 and 3. Promises
need calibrate rows more than they need that: once a model is trained, splits do not change under
it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from demur.base.text import uniform_of
from demur.core.example import Example, Split, prompt_key
from demur.core.rows.linking import linked_rows
from demur.core.taxonomy import RESPOND

FAR_OFF = 0.05  # of all rows: a split that misses its share by more is warned about
# without an error among them they bound a rate at 10% with 95% confidence: rates.rows_needed
ENOUGH_ROWS = 29
_DISPUTED = "several labels"  # in place of a label


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitUnit:
    """One unit of splitting: rows that are linked."""

    rows: int
    place: float  # in [0, 1)
    label: str  # what has its shares by itself
    stratum: str  # within the label


def assign_splits(
    pieces: Sequence[SplitUnit], test_share: float, calibrate_share: float
) -> list[Split]:
    """Assign a split to each unit. A label of three units or more has some of it in every split."""
    found: list[Split] = ["train"] * len(pieces)
    by_label: dict[str, list[int]] = defaultdict(list)
    for n, piece in enumerate(pieces):
        by_label[piece.label].append(n)
    for label in sorted(by_label):
        own = by_label[label]
        wanted = _wanted([pieces[n] for n in own], test_share, calibrate_share)
        taken: set[int] = set()
        for split, rows in wanted.items():
            free = [n for n in own if n not in taken]
            for n in _lowest(pieces, free, rows):
                found[n] = split
                taken.add(n)
    return found


def _wanted(
    own: Sequence[SplitUnit], test_share: float, calibrate_share: float
) -> dict[Split, int]:
    """The number of rows of one label for test and for calibrate. A unit that is too large for
    either goes to train, and takes no room.
    """
    total, both = sum(p.rows for p in own), test_share + calibrate_share
    # a unit of more than twice a split's share takes the split further from it than leaving it out
    small = sum(p.rows for p in own if p.rows <= 2 * max(test_share, calibrate_share) * total)
    least = 1 if len(own) >= 3 else 0
    wanted: dict[Split, int] = {}
    for split, share in (("test", test_share), ("calibrate", calibrate_share)):
        rows = min(share * total, small * share / both)
        wanted[split] = max(least, int(rows + 0.5))  # type: ignore[index]  # both are splits
    return wanted


def _lowest(pieces: Sequence[SplitUnit], free: Sequence[int], rows: int) -> list[int]:
    """Choose units of about so many rows, those with the lowest places in each stratum; strata by
    largest remainders.
    """
    strata: dict[str, list[int]] = defaultdict(list)
    for n in free:
        strata[pieces[n].stratum].append(n)
    sizes = {name: sum(pieces[n].rows for n in own) for name, own in sorted(strata.items())}
    total = sum(sizes.values())
    exact = {name: min(rows, total) * size / total for name, size in sizes.items()}
    quota = {name: int(share) for name, share in exact.items()}
    # largest remainders (Hamilton): every stratum gets the whole part of its share, and the rows
    # left over go to the largest fractions; names break ties
    by_remainder = sorted(exact, key=lambda name: (quota[name] - exact[name], name))
    for name in by_remainder[: min(rows, total) - sum(quota.values())]:
        quota[name] += 1
    found: list[int] = []
    missing = 0  # rows that the strata before could not give: their pieces were too large
    # strata with few units first: what their large units cannot fill is passed on to those with
    # many
    for name in sorted(strata, key=lambda s: (len(strata[s]), s)):
        room = quota[name] + missing
        for n in sorted(strata[name], key=lambda n: pieces[n].place):
            if pieces[n].rows <= 2 * room:  # taking it comes nearer to the quota
                found.append(n)
                room -= pieces[n].rows
        missing = room
    return found


def uniform_hash(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on seed and name alone."""
    return uniform_of(f"{seed}:{name}")


def seeded(seed: int, name: str) -> Random:
    """Draws that depend on seed and name alone."""
    digest = sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return Random(int.from_bytes(digest[:8], "big"))


def hold_out(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out about a `share` of the rows to validate on, whole units, by label and stratum:
    (learnt, held out).

    No prompt, near copy or group is in both. Rows keep their order; share 0 holds none out.
    """
    if not share:
        return list(examples), []
    rows = [(e, prompt_key(e)) for e in examples]
    roots = linked_rows(rows)
    together: dict[int, list[tuple[Example, str]]] = defaultdict(list)
    for row, root in zip(rows, roots, strict=True):
        together[root].append(row)
    names = {root: min(key for _, key in own) for root, own in together.items()}
    pieces = [
        split_unit(own, uniform_hash(seed, f"validation:{names[root]}"))
        for root, own in together.items()
    ]
    aside = {
        root
        for root, split in zip(together, assign_splits(pieces, share, 0.0), strict=True)
        if split == "test"
    }
    learnt = [e for e, root in zip(examples, roots, strict=True) if root not in aside]
    return learnt, [e for e, root in zip(examples, roots, strict=True) if root in aside]


def split_unit(
    rows: Sequence[tuple[Example, str]], place: float, disputed: frozenset[str] = frozenset()
) -> SplitUnit:
    """The unit of linked rows, each with the key of its prompt: equal prompts are one row.

    disputed: prompts with several labels. They have shares of their own, so that they move no row
    of a label; a unit that holds others too goes by those.
    """
    clear = [(e, key) for e, key in rows if key not in disputed]
    labels = {e.label for e, _ in clear if e.label} if clear else {_DISPUTED}
    return SplitUnit(
        rows=len({key for _, key in clear or rows}),
        place=place,
        label=" + ".join(sorted(labels)),
        stratum=" | ".join(sorted({f"{e.source}, {e.kind}, {e.category}" for e, _ in clear})),
    )


def split_warnings(
    splits: Mapping[Split, Sequence[Example]],
    placed: Sequence[Example],
    shares: Mapping[Split, float],
) -> tuple[str, ...]:
    """Warnings about splits that miss their share, and about labels with too few rows or groups to
    bound a rate at 10%.

    placed: all rows before the mix of the train split was set.
    """
    found, counted = [], Counter(e.split for e in placed)
    for split, share in shares.items():
        wanted = share * len(placed)
        if abs(counted[split] - wanted) > FAR_OFF * len(placed):
            found.append(
                f"{split} has {counted[split]} of {len(placed)} rows, {wanted:.0f} were asked for: "
                "sources have splits of their own, or many rows hang together (a group, or "
                "prompts nearly alike)"
            )
    for split in shares:
        rows = Counter(e.label or RESPOND for e in splits[split])
        # rows of one group or session are one piece of evidence
        units = Counter(
            label for label, _ in {(e.label or RESPOND, _unit(e)) for e in splits[split]}
        )
        few = ", ".join(
            f"{label} {n}" + (f" ({units[label]} independent)" if units[label] < n else "")
            for label, n in sorted(rows.items())
            if units[label] < ENOUGH_ROWS
        )
        what = "promised" if split == "calibrate" else "measured"
        if few:
            found.append(
                f"{split} has few rows of {few}: a rate over fewer than {ENOUGH_ROWS} cannot be "
                f"{what} at 10% or less with 95% confidence; add rows, or raise data.{split}_share"
            )
    return tuple(found)


def count_units(rows: Sequence[Example]) -> int:
    """The number of pieces of evidence: groups, sessions, and rows that stand alone."""
    return len(set(map(_unit, rows)))


def _unit(e: Example) -> tuple[str, str]:
    """The name of a row's piece of evidence."""
    return ("row", e.id) if e.unit is None else ("unit", e.unit)
