"""The table of everyday prompts at the top of the page: wrong decisions first, then those answered
and those declined.
"""

from __future__ import annotations

from collections.abc import Sequence

from demur.core.taxonomy import RESPOND
from demur.pages.parts import Cell, Table
from demur.store.results.everyday_file import Everyday, EverydayRow

MOST_LETTERS = 160  # of a text: it is there to give an idea
SHOWN = 2  # the most probable choices of each prompt


def everyday_table(everyday: Everyday) -> Table:
    """The folded table of all prompts with their decisions, probabilities and texts; its title has
    the number of right ones.
    """
    wrong, right = everyday.wrong, [row for row in everyday.rows if row.right]
    parts = (
        ("decided otherwise than expected", wrong),
        ("answered, as expected", [row for row in right if row.expected == RESPOND]),
        ("declined, as expected", [row for row in right if row.expected != RESPOND]),
    )
    # A heading with a count over each block; an empty block is left out.
    rows: list[tuple[Cell, ...]] = []
    for heading, some in parts:
        if some:
            rows += [(f"{heading} ({len(some)})",), *map(_row, some)]
    return Table(
        title=(
            f"{len(everyday.rows)} everyday prompts: {len(right)} decided as expected, "
            f"{len(wrong)} not"
        ),
        header=("prompt", "ought to be", "decided", "probabilities", "what it says"),
        rows=tuple(rows),
        caption=_caption(everyday.rows),
        text_columns=5,
        folded=True,
    )


def _row(row: EverydayRow) -> tuple[Cell, ...]:
    most = sorted(row.probability.items(), key=lambda pair: -pair[1])[:SHOWN]
    text = " ".join(row.text.split())
    return (
        row.prompt,
        _done(row.expected),
        _done(row.decided) + (" (doubt)" if row.doubt else ""),
        ", ".join(f"{name} {p:.0%}" for name, p in most),
        text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS].rstrip()} ...",
    )


def _done(choice: str) -> str:
    """A choice in words. "refuse" stands for any category: of no category of this taxonomy."""
    if choice == RESPOND:
        return "answered"
    return "declined" if choice == "refuse" else f"declined: {choice}"


def _caption(rows: Sequence[EverydayRow]) -> str:
    # Right all the same: a prompt to be refused was, with another category's token.
    other = [row for row in rows if row.right and row.decided not in (row.expected, RESPOND)]
    known = [row for row in rows if row.seen]
    words = (
        "Written for demur beside its corpus, under this run's policy. No threshold was chosen "
        "with them, and no rate and no promise counts them."
    )
    if other:
        words += f" Declined with another category than expected: {len(other)}."
    if known:
        words += f" THE MODEL WAS TRAINED ON {len(known)} OF THEM, first “{known[0].prompt}”."
    return words
