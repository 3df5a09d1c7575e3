"""demur blackbox: prompts and any chat endpoint -> a run that calibrate, decide and serve work
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.assembly.config import config_from
from demur.assembly.endpoints import ENDPOINT, open_chat
from demur.assembly.judges import CostReport, build_judge, read_judge_settings
from demur.assembly.wiring import JUDGES, import_by_name
from demur.base.errors import ConfigError
from demur.cli.terminal import NAMED, TERMINAL, first_places, note, notes, print_table, progress_bar
from demur.core.classifiers.text import TextClassifier
from demur.core.ports import Judge
from demur.core.predictor import PROMPTS
from demur.core.taxonomy import single
from demur.store.models.text_model_file import read_text_classifier
from demur.store.run import Stage

if TYPE_CHECKING:
    from demur.assembly.run import Workspace
    from demur.stages.blackbox import collect, label
    from demur.store.answers.blackbox_file import BlackboxFile, BlackboxFolder

STAGES: tuple[Stage, ...] = ("data", "train", "score", "report")
# Of the rows: promises are made on the calibrate rows, and more of them promise more.
SHARES = {"calibrate_share": 0.3, "test_share": 0.2}

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Rows with prompts, in any format of docs/data.md."),
]
Hand = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Hand-labelled answers: trains the judge that labels the others."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="As in endpoint.max_tokens=100, llm.model=m. Repeatable."
    ),
]


UrlFlag = Annotated[
    str, typer.Option(metavar="URL", help="OpenAI-compatible endpoint, up to and with /v1.")
]
ModelFlag = Annotated[
    str,
    typer.Option(metavar="NAME", help="The model there whose refusals are to be predicted."),
]
JudgeFlag = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Labels the answers, as for demur judge read. Default: phrases."
    ),
]
MostCallsFlag = Annotated[int | None, typer.Option(min=0, help="Budget: calls of the endpoint.")]


def command(
    files: Files,
    *,
    url: UrlFlag,
    model: ModelFlag,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder.")] = Path(
        "runs/blackbox"
    ),
    judge: JudgeFlag = None,
    hand: Hand = None,
    most_calls: MostCallsFlag = None,
    overrides: Overrides = None,
) -> None:
    """Ask, label, learn to predict refusals from prompts alone. The same command goes on where it
    stopped.
    """
    from demur.assembly.steps import Steps
    from demur.stages.blackbox import collect, label
    from demur.store.answers.blackbox_file import BlackboxFolder
    from demur.store.prompts_file import read_prompts

    # "endpoint.max_tokens=100" is the endpoint's, any other setting the judge's
    ours = [text for text in overrides or () if text.startswith(ENDPOINT)]
    others = [text for text in overrides or () if text not in ours]
    chat = open_chat({"url": url, "model": model, "most_calls": most_calls}, ours)
    prompts = read_prompts(files)
    workspace = _workspace(out)
    folder = BlackboxFolder(workspace.folder)
    config, spent = _Judging(name=judge, hand=hand, overrides=others, folder=folder).built()
    with progress_bar("ask") as progress:
        collected = collect.run(prompts, chat, folder, progress)
    _note_collected(collected, chat)
    # Costs are told also where judging fails or is interrupted: they were paid.
    try:
        with progress_bar("judge") as progress:
            file = label.run(config, collected, folder, progress)
    finally:
        notes(spent())
    _print_verdicts(file)
    # again: more answers are more rows, and the predictor is fitted anew on them
    steps = Steps(workspace, TERMINAL, again=True)
    made = [steps.perform(stage) for stage in STAGES]
    note(f"page: {made[-1]}")
    note(f'next: demur calibrate {out} --goal "missed_refusal <= 0.1", and demur report {out}')


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judging:
    """The settings of the judge that labels the answers."""

    name: str | None
    hand: Path | None
    overrides: Sequence[str]
    folder: BlackboxFolder

    def built(self) -> tuple[label.Config, CostReport]:
        """Make the judge, trained first if there are hand labels; and the function that puts its
        costs into words. Raises ConfigError.
        """
        from demur.stages.blackbox import label, train_judge

        settings = read_judge_settings(None, self.overrides, self.folder.root / "labels.sqlite")
        if self.hand is not None and self.name is not None:
            raise ConfigError(
                f"--judge {self.name} beside --hand, which trains a judge", "leave one of them out"
            )
        # without hand labels, a judge that is there already
        if self.hand is None:
            judge, spent = build_judge(self.name or "phrases", settings)
            return label.Config(judge=judge, taxonomy=single()), spent
        force = bool(settings.section("trained").get("force", False))

        def make(classifier: TextClassifier, digest: str) -> Judge:
            judge: Judge = import_by_name("trained", JUDGES, "judge")(
                classifier=classifier, digest=digest, force=force
            )
            return judge

        # measured by cross-validation, then fitted on all labels and stored
        measured = train_judge.run(self.hand, self.folder.judge, make)
        judge = make(*read_text_classifier(self.folder.judge))
        return label.Config(judge=judge, taxonomy=single(), hand=measured), list


def _workspace(out: Path) -> Workspace:
    """Open the run in a folder, or make one. Raises ConfigError if the folder holds a run of
    another engine.
    """
    from demur.assembly.run import create, reopen

    if (out / "config.json").exists():
        workspace = reopen(out)
        if workspace.config.engine != PROMPTS:
            raise ConfigError(
                f"{out} is a run of engine {workspace.config.engine!r}",
                "choose another folder: --out",
            )
        return workspace
    # A run like any other: its rows are written by the labelling, its model is a prompt classifier.
    rows = {"kind": "jsonl", "folder": "blackbox", "files": ["rows.jsonl"]}
    table = {
        "run": {"name": out.resolve().name, "engine": PROMPTS},
        "taxonomy": {"preset": "single"},
        "data": {"sources": [rows], **SHARES},
        "train": {"base": PROMPTS},
    }
    return create(config_from(table, str(out / "config.json"), base=out), out)


def _note_collected(collected: collect.Collected, chat: Any) -> None:
    """Note prompts that were not asked or not answered, and what the others cost."""
    prompts, spent, endpoint = collected.prompts, chat.spent, chat.endpoint
    if prompts.without:
        note(
            f"not asked: {len(prompts.without)} rows hold no prompt: "
            f"{first_places(prompts.without)}"
        )
    if prompts.duplicates:
        note(f"not asked: {prompts.duplicates} rows repeat a prompt")
    for reason, count in list(collected.failed.items())[:NAMED]:
        note(f"no answer: {count} x {reason}")
    if collected.not_asked:
        note(
            f"not asked: {collected.not_asked} prompts, the budget is spent; the same command "
            "goes on with them"
        )
    # in the currency of the prices in the endpoint's settings; without prices nothing is claimed
    price = (
        f", {spent.price(endpoint):.4f} in your currency"
        if endpoint.price_in or endpoint.price_out
        else ""
    )
    if words := chat.dialect.description:
        note(f"the endpoint takes other fields than the usual: {words}")
    note(
        f"{spent.calls} calls ({spent.retries} of them retries) of {collected.model}; "
        f"{collected.known} answers were there before; {spent.prompt_tokens} + "
        f"{spent.completion_tokens} tokens{price}"
    )


def _print_verdicts(file: BlackboxFile) -> None:
    """Print the counts of verdicts, and note how reliable they are."""
    # A partial answer counts as declining.
    scored = file.answered - file.verdicts["unscored"]
    declined = file.verdicts["refusal"] + file.verdicts["partial"]
    rows = [(v, str(n), f"{100 * n / file.answered:.1f}%") for v, n in file.verdicts.items()]
    print_table(
        [("verdict", "answers", "share"), *rows], title=f"{file.model}, judged by {file.judge}"
    )
    for reason, count in list(file.declined.items())[:NAMED]:
        note(f"declined by the endpoint itself: {count} x {reason}")
    for reason, count in list(file.unscored.items())[:NAMED]:
        note(f"unscored: {count} x {reason}")
    if file.hand is not None:
        right = file.hand.accuracy
        known = file.hand.by_units
        low, high = right.interval() if known is None else (known.low, known.high)
        note(
            f"the judge was right on {right.hits} of {right.of} hand-labelled answers that it was "
            f"not fitted on: {right.value:.1%} ({low:.1%} to {high:.1%}); {file.hand.unscored} it "
            "did not score"
        )
    if file.without_outcome:
        note(
            f"{file.without_outcome} requests have no outcome: each counts as an error of every "
            "promise that demur calibrate makes; the same command asks again for those without an "
            "answer"
        )
    note(f"declined, in full or in part: {declined} of {scored} scored answers")
