"""demur diff: which decisions change from one policy to another, on stored scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.policies import doubt_note, open_policy, policy_file
from demur.cli.policy_text import monitor_line
from demur.cli.terminal import note, print_json, print_table
from demur.core.decision import decide_many, outcome_words
from demur.core.policy import Policy
from demur.core.score import ScoreTable
from demur.store.policies.policy_file import policy_digest

CHANGED = 3  # a result, not a fault
SHOWN_ROWS = 20
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One prompt's decisions: "respond" or a category."""

    id: str
    before: str
    after: str


def command(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="The policy as it is: a file, or a calibrated run.")
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The policy as it would be.")],
    *,
    scores: Annotated[
        Path, typer.Option(metavar="FILE", help="Scores to decide, as `demur score` writes them.")
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Their examples, such as data/test.jsonl: shows the prompts."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Decide stored scores under both policies. Exit code 0 if every decision stays, 3 if any
    changes.
    """
    from demur.store.scores.tables import read_scores

    policies = open_policy(policy_file(a)), open_policy(policy_file(b))
    table, fingerprint = read_scores(scores)
    for policy in policies:
        policy.require_model(fingerprint)
    rows = _rows(table, policies)
    changed = [row for row in rows if row.before != row.after]
    texts = _texts(prompts, changed) if prompts else {}
    if as_json:
        print_json(_json(policies, rows, changed, texts))
    else:
        _show(policies, rows, changed, texts)
        if policies[0].monitor != policies[1].monitor:
            # a score says what is decided first, and nothing of the answer
            note("their monitors differ: which answers are stopped is not compared here")
        for p in policies:
            if p.monitor is not None:
                note(f"{p.name!r}: {monitor_line(p.monitor, p.taxonomy.names)}")
            if told := doubt_note(p, table.logp_NC):
                note(f"{p.name!r}: {told}")
    # for scripts that must not let a change pass unseen
    if changed:
        raise typer.Exit(CHANGED)


def _rows(table: ScoreTable, policies: tuple[Policy, Policy]) -> list[_Row]:
    """The decisions of both policies, row by row of the scores."""
    # by name, not by column: the taxonomies may order their categories otherwise
    before, after = (decide_many(p, table.logp_NC).words(p.taxonomy.choices) for p in policies)
    return [_Row(id=i, before=x, after=y) for i, x, y in zip(table.ids, before, after, strict=True)]


def _texts(path: Path, rows: Sequence[_Row]) -> dict[str, str]:
    """Read the prompts of these rows. Raises ConfigError if the file lacks one."""
    from demur.store.prompts_file import read_each_prompt

    found = {row.id: row.messages[-1].content for row in read_each_prompt(path)}
    missing = [row.id for row in rows if row.id not in found]
    if missing:
        raise ConfigError(
            f"{path} lacks {len(missing)} rows that were scored, first {missing[0]!r}",
            "give the split that was scored",
        )
    return found


def _show(
    policies: tuple[Policy, Policy],
    rows: Sequence[_Row],
    changed: Sequence[_Row],
    texts: Mapping[str, str],
) -> None:
    """Print the table of old and new decisions, then the first changed rows."""
    # a table of all pairs: rows are the old decision, columns the new one
    counts = Counter((row.before, row.after) for row in rows)
    old, new = (outcome_words(p) for p in policies)
    table = [("from \\ to", *new), *((x, *(str(counts[x, y]) for y in new)) for x in old)]
    before, after = (f"{p.name!r} {policy_digest(p)[:19]}" for p in policies)
    print_table(table, title=f"decisions from {before} to {after}, {len(rows)} rows")
    if changed:
        header = ("row", "from", "to", *(["prompt"] if texts else []))
        rows_shown = []
        for row in changed[:SHOWN_ROWS]:
            text = texts.get(row.id, "")
            if len(text) > SHOWN_CHARACTERS:
                text = f"{text[: SHOWN_CHARACTERS - 3]}..."
            rows_shown.append((row.id, row.before, row.after, *([text] if texts else [])))
        print_table([header, *rows_shown], words=4)
    if len(changed) > SHOWN_ROWS:
        note(f"{len(changed) - SHOWN_ROWS} more changed rows: --json lists all")
    note(f"{len(changed)} of {len(rows)} decisions change")


def _json(
    policies: tuple[Policy, Policy],
    rows: Sequence[_Row],
    changed: Sequence[_Row],
    texts: Mapping[str, str],
) -> dict[str, object]:
    """The same for programs: all pairs that occur, and every changed row."""
    counts = Counter((row.before, row.after) for row in rows)
    before, after = ({"policy": p.name, "digest": policy_digest(p)} for p in policies)
    return {
        "before": before,
        "after": after,
        "rows": len(rows),
        "changed": len(changed),
        "counts": [{"before": x, "after": y, "rows": n} for (x, y), n in sorted(counts.items())],
        "changes": [asdict(row) | ({"prompt": texts[row.id]} if texts else {}) for row in changed],
    }
