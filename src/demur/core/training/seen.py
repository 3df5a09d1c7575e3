"""The record of rows that a model has seen in training, as digests: nobody can read the rows off
them.

A row counts as seen if its prompt is one that was trained on, up to case, punctuation and space; if
it is nearly one (demur.core.rows.similarity, exactly as rows are split); if its group or session
was trained on; or, for files that hold nothing but ids, if its id was. Digests are one-way, yet who
has a text can look for it: a record is as private as that allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from demur.base.errors import DataError
from demur.core.example import Example, Message, fold, fold_without_marks
from demur.core.rows.similarity import bounded_word_set, similar_to_any, word_set

SeenBy = Literal["prompt", "near copy", "group"]
WordDigests = frozenset[int]

PROMPT_BYTES = 16  # of a prompt's, a group's or an id's sha256: two different ones never meet
# of a word's: a meeting of two words decides only where likeness is at its very limit
WORD_BYTES = 4
NAMED = 3  # rows that an error spells out


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Digests of everything that some weights were trained on."""

    prompts: frozenset[bytes] = frozenset()
    words: frozenset[WordDigests] = (
        frozenset()
    )  # the word sets of prompts that can have near copies
    groups: frozenset[bytes] = (
        frozenset()
    )  # of the names of groups and sessions: Example.link_names
    ids: frozenset[bytes] = frozenset()
    # models that it began as, whose rows nobody recorded here: pretraining and the like
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # models of demur's that it began as, whose record is lost


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenRows:
    """The rows of a set that a model has seen, by id."""

    how: Mapping[str, SeenBy]
    of: int  # rows looked at
    ways: Mapping[SeenBy, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.how)

    @property
    def text(self) -> str:
        """The finding in words: "3 of 20 (2 by prompt, 1 by group), first 'a', 'b', 'c'"."""
        ways = ", ".join(f"{n} by {way}" for way, n in self.ways.items() if n)
        first = ", ".join(repr(i) for i in list(self.how)[:NAMED])
        return f"{len(self.how):,} of {self.of:,} rows ({ways}), first {first}"


def seen_of(examples: Iterable[Example]) -> Seen:
    """Make the record of training on these rows."""
    rows = list(examples)
    keys = {_key(e.prompt) for e in rows}
    return Seen(
        prompts=frozenset(map(_digest, keys)),
        words=frozenset(filter(None, (_word_digests(word_set(key)) for key in keys))),
        groups=frozenset(_digest(name) for e in rows for name in e.link_names),
        ids=frozenset(_digest(e.id) for e in rows),
    )


def merge_records(records: Sequence[Seen]) -> Seen:
    """Merge the records of trainings that followed one another."""
    return Seen(
        prompts=frozenset().union(*(r.prompts for r in records)),
        words=frozenset().union(*(r.words for r in records)),
        groups=frozenset().union(*(r.groups for r in records)),
        ids=frozenset().union(*(r.ids for r in records)),
        unknown=tuple(dict.fromkeys(name for r in records for name in r.unknown)),
        missing=tuple(dict.fromkeys(name for r in records for name in r.missing)),
    )


def without_missing(seen: Seen) -> Seen:
    """The record without its lost parts: the user has named the rows."""
    return replace(seen, missing=())


def seen_prompts(seen: Seen, prompts: Sequence[tuple[Message, ...]]) -> dict[int, SeenBy]:
    """Find the prompts that the model has seen, by index: word for word up to folding, or nearly
    so.

    A record does not say which version made it, and one model's may hold rows of several: they are
    looked up as this version folds them, and as earlier ones did.
    """
    keys = [
        (_key(p), "\n".join(fold_without_marks(message.content) for message in p)) for p in prompts
    ]
    found: dict[int, SeenBy] = {
        n: "prompt" for n, both in enumerate(keys) if {*map(_digest, both)} & seen.prompts
    }
    sets = {
        n: [_word_digests(word_set(key)), _word_digests(bounded_word_set(earlier.split()))]
        for n, (key, earlier) in enumerate(keys)
    }
    rest = [
        (n, words)
        for n, some in sets.items()
        if n not in found
        for words in some
        if words is not None
    ]
    near = similar_to_any(seen.words, [words for _, words in rest])
    return found | {n: "near copy" for n, words in rest if words in near}


def seen_rows(seen: Seen, examples: Sequence[Example]) -> SeenRows:
    """Find the rows that the model has seen, in their order: by prompt, near copy, else group or
    session.
    """
    by_prompt = seen_prompts(seen, [e.prompt for e in examples])
    how: dict[str, SeenBy] = {}
    for n, e in enumerate(examples):
        if n in by_prompt:
            how[e.id] = by_prompt[n]
        elif any(_digest(name) in seen.groups for name in e.link_names):
            how[e.id] = "group"
    ways: dict[SeenBy, int] = {
        way: sum(h == way for h in how.values()) for way in ("prompt", "near copy", "group")
    }
    return SeenRows(how=how, of=len(examples), ways=ways)


def seen_ids(seen: Seen, ids: Iterable[str]) -> list[str]:
    """Find the ids of rows that the model has seen."""
    return [i for i in ids if _digest(i) in seen.ids]


def require_unseen_ids(seen: Seen, ids: Collection[str], what: str) -> None:
    """Raise DataError if the model has seen rows with these ids. what: names the file in the
    error.
    """
    if known := seen_ids(seen, ids):
        raise DataError(
            f"{what}: the model was trained on {len(known)} of {len(ids)} rows, going by their "
            f"ids, first {known[0]!r}",
            "leave them out; or, if these are other requests, give them ids of their own",
        )


def require_unseen(seen: Seen, examples: Sequence[Example], what: str) -> None:
    """Raise DataError, naming rows, if the model has seen any of these, or if that cannot be told.

    what: names the rows in the error, such as "the calibrate split".
    """
    if found := seen_rows(seen, examples):
        raise DataError(
            f"{what}: the model was trained on {found.text}: what is counted on them holds of no "
            "new request",
            "train again on the present splits (demur train RUN), or put back the splits that it "
            "was trained with",
        )
    require_record(seen, what)


def require_record(seen: Seen, what: str) -> None:
    """Raise DataError if it is not known what the weights were trained on."""
    if seen.missing:
        raise DataError(
            f"{what}: the rows that {', '.join(seen.missing)} was trained on are unknown: it has "
            "no record of them",
            "name them: demur train RUN --seen rows.jsonl; or train again: demur train RUN",
        )


def _key(prompt: Sequence[Message]) -> str:
    """As demur.core.example.prompt_key: the folded text of all turns."""
    return "\n".join(fold(m.content) for m in prompt)


def _word_digests(words: frozenset[str] | None) -> WordDigests | None:
    """Digests of a folded prompt's different words; None if they are too few or too many to
    compare.
    """
    if words is None:
        return None
    digests = (hashlib.sha256(w.encode("utf-8", "surrogatepass")).digest() for w in words)
    return frozenset(int.from_bytes(digest[:WORD_BYTES], "big") for digest in digests)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:PROMPT_BYTES]
