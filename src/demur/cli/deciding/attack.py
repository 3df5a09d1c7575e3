"""demur attack: requests of the test split that ought to be refused, asked in many ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.assembly.endpoints import chat_client
from demur.assembly.judges import (
    CostReport,
    JudgeSettings,
    build_judge,
    cost_lines,
    read_judge_settings,
)
from demur.cli import options
from demur.cli.policies import run_with_policy
from demur.cli.terminal import note, notes, print_json, print_table, progress_bar
from demur.core.judging.cached_chat import CachedChat
from demur.core.rows.attacks import USUAL

if TYPE_CHECKING:
    from demur.store.results.attack_file import AttackFile

AttackFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help=f"Repeatable. Default: {', '.join(USUAL)}.", show_default=False
    ),
]
JudgeFlag = Annotated[
    list[str], typer.Option(metavar="NAME", help="Who reads the texts. Repeatable.")
]
LimitFlag = Annotated[int, typer.Option(metavar="N", help="At most so many requests.")]
OutFlag = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Result folder. Default: attack in the run's.")
]
KeepFlag = Annotated[bool, typer.Option("--keep-texts", help="Also store the texts.")]


def command(
    run: options.Run,
    *,
    attack: AttackFlag = None,
    policy: options.OfRun = None,
    judge: JudgeFlag = ["phrases"],  # noqa: B006 - typer's way to give a list a default
    settings: options.SettingsFile = None,
    limit: LimitFlag = 100,
    out: OutFlag = None,
    keep_texts: KeepFlag = False,
    as_json: options.AsJson = False,
) -> None:
    """Ask in many ways for what ought to be refused, and count what was refused, stopped and
    answered.
    """
    from demur.assembly.run import RunEngine, reopen
    from demur.stages import attack as stage
    from demur.store.policies.policy_file import read_policy
    from demur.store.rows import read_examples

    # all that can be wrong with the flags, before a model is loaded
    config = stage.Config(attacks=tuple(attack or USUAL), limit=limit, keep_texts=keep_texts)
    workspace = reopen(run)
    folder = run_with_policy(workspace.folder, policy)
    folder.require_fresh("calibrate")
    target = out or folder.root / "attack"
    read = read_judge_settings(settings, (), target / "labels.sqlite")
    built = [build_judge(name, read) for name in judge]
    attacker, spent_attacking = _attacker(read, target)
    chosen, engine = read_policy(folder.policy), RunEngine(workspace)
    subject = stage.Target(
        policy=chosen,
        scorer=engine.scorer_for(chosen),
        watcher=engine,
        judges=tuple(one for one, _ in built),
        attacker=attacker,
    )
    # costs are told also where judging fails or is interrupted: they were paid
    try:
        with progress_bar("attack") as progress:
            found = stage.run(
                config, subject, read_examples(folder.split("test")), target, progress
            )
    finally:
        for spent in (spent_attacking, *(spent for _, spent in built)):
            notes(spent())
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found)
        note(f"written: {target / 'attack.md'}")


def _attacker(settings: JudgeSettings, target: Path) -> tuple[CachedChat | None, CostReport]:
    """The model that attacks, if the settings name one, and what it has cost."""
    section = settings.section("attacker")
    if not section:
        return None, list
    from demur.store.answers.reply_file import ReplyFile

    chat = chat_client(section, f"{settings.where}: [attacker]")
    cached = CachedChat(chat=chat, replies=ReplyFile(target / "attacker.sqlite"))
    return cached, lambda: cost_lines(chat)


def _show(found: AttackFile) -> None:
    from demur.stages.attack.content import (
        HEADER,
        JUDGED_HEADER,
        judged_rows,
        judges_of,
        table_rows,
    )

    print_table([HEADER, *table_rows(found)])
    for judge in judges_of(found):
        print_table([JUDGED_HEADER, *judged_rows(found, judge)], title=f"judge {judge}")
