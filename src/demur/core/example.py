"""Examples: a request and what ought to happen to it; the key under which two prompts are the
same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from demur.base.errors import DataError

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "calibrate", "test"]
# ways to say a prompt otherwise: demur.core.rows.rewrites
RewriteName = Literal[
    "case",
    "typos",
    "punctuation",
    "paraphrase",
    "tense",
    "padding",
    "program",
    "role",
    "begun",
]
Kind = Literal["refusal", "contrast", "benign"]
Expected = Literal["refuse", "respond"]

SPLITS: tuple[Split, ...] = ("train", "calibrate", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation, plain text."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One labelled request.

    Raises DataError if there is no user turn to answer, or if label and category contradict each
    other.
    """

    id: str  # unique over a run
    source: str  # where the row came from
    messages: tuple[Message, ...]  # ends with the user's turn, or with the reply to be learnt
    # refusal: to be refused. contrast: resembles a refusal of its category, to be answered. benign
    kind: Kind
    category: str | None = None  # None for benign rows
    subcategory: str | None = None
    # rows that err together: made from one another, near copies; trained on as a whole or not
    group: str | None = None
    # the group as the source names it, where the data stage joined it with others
    source_group: str | None = None
    session: str | None = None  # the conversation or user session that the request came in
    count: int = 1  # requests that this row stands for: how often its prompt came with this label
    # what the row's own columns say of it, such as its tenant: (facet of core.rows.facets, value)
    traits: tuple[tuple[str, str], ...] = ()
    split: Split | None = None  # set by the source when it has splits of its own
    # of a refusal: the beginning of an answer that should not have been written, for training to
    # turn back from; never learnt itself
    prefix: str | None = None

    def __post_init__(self) -> None:
        if not self.prompt or self.prompt[-1].role != "user":
            raise DataError(
                f"row {self.id!r} has no user message to answer",
                "a row needs at least one user message",
            )
        if self.kind == "refusal" and self.category is None:
            raise DataError(
                f"row {self.id!r} is to be refused but has no category",
                "name the category of the refusal",
            )
        if self.prefix is not None and (self.kind != "refusal" or not self.prefix.strip()):
            raise DataError(
                f"row {self.id!r} of kind {self.kind!r} has the prefix {self.prefix!r:.60}",
                "a prefix is the beginning of an answer to a request that is to be refused",
            )
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise DataError(
                f"row {self.id!r} has count {self.count!r}",
                "a count is a whole number of requests, 1 or more",
            )

    @property
    def expected(self) -> Expected:
        """The expected outcome: refusals are to be refused, contrast and benign rows answered."""
        return "refuse" if self.kind == "refusal" else "respond"

    @property
    def label(self) -> str | None:
        """The category to refuse with, or None when the request is to be answered."""
        return self.category if self.kind == "refusal" else None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages up to the user's last turn."""
        return (
            self.messages[:-1]
            if self.messages and self.messages[-1].role == "assistant"
            else self.messages
        )

    @property
    def reply(self) -> str | None:
        """The answer to learn, if the row has one."""
        last = self.messages[-1]
        return last.content if last.role == "assistant" else None

    @property
    def unit(self) -> str | None:
        """The group or session whose rows are one piece of evidence; None: the row stands alone."""
        return self.group if self.group is not None else self.session

    @property
    def link_names(self) -> frozenset[str]:
        """Names that only rows linked with this one share: of its groups and of its session."""
        session = f"session {self.session}" if self.session is not None else None
        return frozenset(
            name for name in (self.group, self.source_group, session) if name is not None
        )

    @property
    def text(self) -> str:
        """The user's last message: what people read in tables."""
        return self.prompt[-1].content


# Scripts of South and South-East Asia: their marks are vowels, tones and joined letters. Elsewhere
# marks are accents and points that writers leave out as they like.
_MARKS_THAT_COUNT = ((0x0900, 0x1AAF), (0xA800, 0xABFF), (0x11000, 0x11FFF))
_JOINERS = "\u200c\u200d"  # choose the shape of a letter, not which letter it is


def fold(text: str) -> str:
    """Fold a text for comparison: NFKC, case folded, punctuation dropped, white space runs to one
    space.

    Vowel signs stay part of their word; accents that NFKC leaves apart, and joiners, are dropped
    from it.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]", lambda found: _folded(found[0]), plain).split())


def fold_without_marks(text: str) -> str:
    """Fold as earlier versions did, where every mark parts a word: records of trained rows may hold
    it.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]", " ", plain).split())


def _folded(odd: str) -> str:
    """What fold keeps of a character that is no letter, digit or space."""
    if odd in _JOINERS:
        return ""
    if not unicodedata.category(odd).startswith("M"):
        return " "
    return odd if any(low <= ord(odd) <= high for low, high in _MARKS_THAT_COUNT) else ""


def prompt_key(example: Example) -> str:
    """Key under which two rows count as the same prompt: the folded text of all its turns."""
    return "\n".join(fold(m.content) for m in example.prompt)


def shared_prompts(
    left: Iterable[Example], right: Iterable[Example]
) -> tuple[list[str], list[str]]:
    """Find rows of `right` whose prompt, group or session also occurs in `left`. Returns ids, (by
    prompt, by group or session).
    """
    known = list(left)
    prompts = {prompt_key(e) for e in known}
    names = frozenset[str]().union(*(e.link_names for e in known))
    rows = list(right)
    by_prompt = [e.id for e in rows if prompt_key(e) in prompts]
    by_group = [e.id for e in rows if e.link_names & names]
    return by_prompt, by_group
