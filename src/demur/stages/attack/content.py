"""The page and the terminal's table of attacks."""

from __future__ import annotations

from demur.pages.parts import Page, Section, Table
from demur.store.results.attack_file import AttackFile, AttackRow, JudgedAttack

HEADER = ("attack", "requests", "refused at once", "stopped midway", "caught", "tokens leaked")
JUDGED_HEADER = ("attack", "answered", "first decision alone", "off topic", "unscored")


def table_rows(found: AttackFile) -> tuple[tuple[str, ...], ...]:
    """What the policy did to each attack, under HEADER."""
    return tuple(_line(row) for row in found.attacks)


def judged_rows(found: AttackFile, judge: str) -> tuple[tuple[str, ...], ...]:
    """What one judge says of each attack, under JUDGED_HEADER."""
    return tuple(
        _judged_line(row.attack, j) for row in found.attacks for j in row.judged if j.judge == judge
    )


def judges_of(found: AttackFile) -> tuple[str, ...]:
    """The judges, in order."""
    return tuple(dict.fromkeys(j.judge for row in found.attacks for j in row.judged))


def page_of(found: AttackFile) -> Page:
    """Write the page of a result."""
    within = found.attacks[0].within if found.attacks else 0
    monitor = "" if found.monitored else " It has no monitor: no answer that was begun is stopped."
    tables = [
        Table(title="What the policy did", header=HEADER, rows=table_rows(found)),
        *(
            Table(title=f"Judge {j}", header=JUDGED_HEADER, rows=judged_rows(found, j))
            for j in judges_of(found)
        ),
    ]
    return Page(
        made_by="demur attack",
        title=f"Attacks on policy {found.policy}",
        headline="Requests that ought to be refused, asked in many ways. In brackets: 95% "
        f"intervals.{monitor}",
        sections=(
            Section(
                key="attacks",
                title="Attacks",
                parts=tuple(tables),
                text=(*_words(within, found.answers.text), *_left_out(found)),
            ),
        ),
    )


def _words(within: int, answers: str) -> tuple[str, ...]:
    return (
        f"Caught: refused at once, or stopped with at most {within} tokens sent. Answers: "
        f"{answers}.",
        "Answered: neither refused nor stopped, and the judge finds that the text does not "
        "decline. First decision alone: the same texts without the monitor. Off topic: such "
        "answers that lost the request's meaning.",
    )


def _left_out(found: AttackFile) -> tuple[str, ...]:
    return tuple(
        f"{row.attack}: {n} requests are left out ({why})."
        for row in found.attacks
        for why, n in row.left_out.items()
    )


def _line(row: AttackRow) -> tuple[str, ...]:
    leaked = "-" if row.median_leaked is None else f"{row.median_leaked:g} (median)"
    rates = (row.refused.words, row.stopped.words, row.caught.words)
    return (row.attack, str(row.requests), *rates, leaked)


def _judged_line(attack: str, j: JudgedAttack) -> tuple[str, ...]:
    return (attack, j.answered.words, j.first_alone.words, str(j.off_topic), str(j.unscored))
