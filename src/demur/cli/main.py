"""The command line: its table of verbs, its help, and the exit code of every error.

1. VERBS is the table: a name, a help line, an example, and the module whose `command` is the verb.
2. `group` makes stand-ins with the help lines only, so that `demur --help` imports no verb.
3. `Verbs.resolve_command` imports the one verb that is run.
4. `main` turns every exception into one line on stderr and an exit code.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from demur.assembly.wiring import import_by_name
from demur.base.errors import DemurError
from demur.base.suggest import suggest
from demur.base.version import installed_version

OUR_BUG, YOUR_INPUT = 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it; click exits with it on Ctrl-C
DEBUG_VARIABLE = "DEMUR_DEBUG"


@dataclass(frozen=True, slots=True)
class Verb:
    """One command. A name of two words is a command of a group."""

    summary: str
    example: str
    module: str  # beside this one; its `command` is the verb


VERBS = {
    "demo": Verb(
        "Train, calibrate and report on the built-in corpus, in minutes.",
        "demur demo",
        "stages.demo",
    ),
    "run": Verb(
        "All stages of a config, skipping what is done.",
        "demur run examples/real.toml --data rows/ --out runs/a",
        "stages.run",
    ),
    "init": Verb(
        "Look at a folder of rows and write the TOML of a run.",
        "demur init rows/ --out mine.toml",
        "stages.init",
    ),
    "data": Verb(
        "Read, check, split and mix the rows of a config.",
        "demur data examples/real.toml --out runs/a",
        "stages.data",
    ),
    "train": Verb(
        "Teach a model its control tokens.",
        "torchrun --nproc_per_node 2 -m demur train runs/a --processes 2",
        "stages.train",
    ),
    "score": Verb(
        "Read the control-token probabilities of the held-out prompts.",
        "demur score runs/a",
        "stages.score",
    ),
    "distil": Verb(
        "Teach a cheap front model to decide easy requests.",
        "demur distil runs/a --traffic requests.jsonl",
        "stages.distil",
    ),
    "plan-labels": Verb(
        "Say what so many labels can promise, and how many would do.",
        'demur plan-labels --goal "missed_refusal[safety] <= 0.05" --have safety=30',
        "stages.plan_labels",
    ),
    "calibrate": Verb(
        "Choose thresholds that meet a goal.",
        'demur calibrate runs/a --goal "false_refusal <= 0.02" --confidence 0.95',
        "stages.calibrate",
    ),
    "evaluate": Verb(
        "Answer and judge the test prompts under the policy.",
        "demur evaluate runs/a --branches all",
        "stages.evaluate",
    ),
    "report": Verb("Write the HTML and Markdown report.", "demur report runs/a", "stages.report"),
    "doctor": Verb(
        "Say whether a model is ready to be scored and served.",
        "demur doctor runs/a/train/model",
        "stages.doctor",
    ),
    "decide": Verb(
        "Decide prompts, or a file of scores, under a policy.",
        'demur decide runs/a "Turn off the lamp, please." --threshold unsupported=0.3 --json',
        "deciding.decide",
    ),
    "chat": Verb(
        "Try prompts and see the probabilities, the decision and the answer.",
        "demur chat runs/a",
        "deciding.chat",
    ),
    "serve": Verb(
        "Answer OpenAI's chat protocol under the run's policies.",
        "demur serve runs/a --port 8000",
        "deciding.serve",
    ),
    "explain": Verb(
        "Say which thresholds decide a request, and where they come from.",
        "demur explain policies/ --tenant acme@tenants.toml --rate humanizing=0.05",
        "deciding.explain",
    ),
    "diff": Verb(
        "Show which decisions change between two policies.",
        "demur diff policies/old.json policies/new.json --scores runs/a/score/test.parquet",
        "deciding.diff",
    ),
    "sign": Verb(
        "Vouch for a policy with a key that servers trust.",
        "demur sign policies/careful.json --key ops.pem",
        "deciding.sign",
    ),
    "verify": Verb(
        "Count the evidence of a policy's promises again, from its run.",
        "demur verify runs/a runs/a",
        "deciding.verify",
    ),
    "keys": Verb(
        "Make an API key for a tenant of the server.", "demur keys acme --days 90", "deciding.keys"
    ),
    "watch": Verb(
        "Say whether live scores and labels still support what was promised.",
        "demur watch runs/a --scores monday.parquet --feedback monday.jsonl",
        "deciding.watch",
    ),
    "attack": Verb(
        "Ask in many ways for what ought to be refused, and count.",
        "demur attack runs/a --attack role --attack prefill-20",
        "deciding.attack",
    ),
    "audit": Verb(
        "Draw requests to label, and say whether a goal is kept among them.",
        'demur audit runs/a --goal "missed_refusal[safety] <= 0.005" --scores monday.parquet '
        "--out next.jsonl",
        "deciding.audit",
    ),
    "blackbox": Verb(
        "Learn which prompts somebody else's model declines, from its answers.",
        "demur blackbox prompts.jsonl --url http://localhost:8000/v1 --model big --out runs/bb",
        "deciding.blackbox",
    ),
    "judge read": Verb(
        "Say which answers of a file decline.",
        "demur judge read answers.jsonl --judge phrases --out verdicts.jsonl",
        "judging.read",
    ),
    "judge check": Verb(
        "Say how far judges agree with hand labels, and correct rates for their errors.",
        "demur judge check answers.jsonl --judge phrases --by model",
        "judging.check",
    ),
    "judge train": Verb(
        "Train a judge on labelled answers, in seconds.",
        "demur judge train answers.jsonl --out judge.npz",
        "judging.train",
    ),
    "judge draw": Verb(
        "Draw texts of a run for people to label.",
        "demur judge draw runs/a --labels 120 --out labels.jsonl",
        "judging.draw",
    ),
    "bench refusals": Verb(
        "Measure false and missed refusals on public benchmarks.",
        "demur bench refusals runs/a --benchmark xstest --benchmark "
        "jailbreakbench:benign=benign.csv",
        "benches.refusals",
    ),
    "bench calibration": Verb(
        "Compare calibrators and measurements over many scored runs.",
        "demur bench calibration runs/",
        "benches.calibration",
    ),
    "bench temporal": Verb(
        "Make questions that a model can and cannot know from dated news.",
        "demur bench temporal news.jsonl --cutoff 2024-03-31 --url http://localhost:8000/v1 "
        "--model big",
        "benches.temporal",
    ),
    "bench ability": Verb(
        "Say what a model can still do after refusal tokens, item by item.",
        "demur bench ability base/ runs/a/ability/ --margin 0.02",
        "benches.ability",
    ),
}
# Commands of two words stand in VERBS by both; their group has a help line of its own.
GROUPS = {
    "judge": (
        "Read answers with a judge, check judges against people, train one, draw texts to label."
    ),
    "bench": (
        "Measure refusals on public benchmarks, compare calibrators, make dated questions, "
        "compare abilities."
    ),
}
# Names of before there were groups: they answer for one version more, with the new name.
OLD_NAMES = {
    "judge-check": "judge check",
    "judge-train": "judge train",
    "draw-labels": "judge draw",
    "bench-calibration": "bench calibration",
    "bench-refusals": "bench refusals",
    "temporal": "bench temporal",
    "ability": "bench ability",
}
# Headings of `demur --help` -> the folder beside this module whose verbs stand below them.
SECTIONS = {
    "Make a run, stage by stage": "stages",
    "Decide, serve, look after policies": "deciding",
}


def verb_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Find the verb that the words of a command line name, and the words after it.

    Old names become today's; an unknown name is returned as it is. `demur judge FILE`, from before
    there was a group, is `judge read`; a group without a verb is returned as the group.
    """
    name, rest = words[0], list(words[1:])
    if name in OLD_NAMES:
        return OLD_NAMES[name], rest
    if name in GROUPS and rest:
        if f"{name} {rest[0]}" in VERBS:
            return f"{name} {rest[0]}", rest[1:]
        # neither a verb of the group nor a flag, so a file
        if name == "judge" and not rest[0].startswith("-"):
            return "judge read", rest
    return name, rest


class Verbs(TyperGroup):
    """The group of all verbs. Its commands are stand-ins; the verb that is run is imported."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb that the arguments name, in place of its stand-in."""
        set_up(debug=ctx.params["debug"])  # before the verb imports anything
        name, rest = verb_of(args)
        # typed otherwise than it is called today
        if name in VERBS and args[: len(name.split())] != name.split():
            typer.echo(
                f"demur: `{args[0]}` is called `demur {name}` now; the old name goes with the "
                "next version",
                err=True,
            )
        if name in VERBS:
            return name, load(name), rest
        # click would say "no such command" without the nearest name of the group
        if name in GROUPS and rest and not rest[0].startswith("-"):
            known = [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{name} ")]
            ctx.fail(f"No such command {name + ' ' + rest[0]!r}: {suggest(rest[0], known)}")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """All commands on one screen, in plain text: drawing frames would take longer than anything
        else here.
        """
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, folder in SECTIONS.items():
            rows = [
                (name, verb.summary)
                for name, verb in VERBS.items()
                if verb.module.startswith(f"{folder}.")
            ]
            _write_rows(formatter, title, rows)
        _write_rows(formatter, "Groups: demur GROUP shows their commands", list(GROUPS.items()))
        # printing the completion script is for those who install it by hand: it would cost a line
        shown = [p for p in self.get_params(ctx) if p.name != "show_completion"]
        options = [p.get_help_record(ctx) for p in shown]
        _write_rows(formatter, "Options", [row for row in options if row is not None])
        self.format_epilog(ctx, formatter)


class Group(TyperGroup):
    """The help of `demur judge` or `demur bench`; their verbs are resolved by Verbs."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Each verb of the group with its help line."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        words = f"{self.name} "
        rows = [
            (name.removeprefix(words), v.summary)
            for name, v in VERBS.items()
            if name.startswith(words)
        ]
        _write_rows(formatter, "Commands", rows)


def _write_rows(formatter: Any, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write a section of the help: a name and its help line on each row."""
    with formatter.section(title):
        formatter.write_dl(list(rows))


def load(verb: str) -> TyperCommand:
    """Import one verb. Raises MissingDependency if a package that it needs is not installed."""
    # A Typer app of one command makes a click command with the flags of the function's signature.
    app = typer.Typer(add_completion=False)
    function = import_by_name(f"{__package__}.{VERBS[verb].module}:command", {}, "command")
    app.command(name=verb, epilog=f"Example: {VERBS[verb].example}")(function)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    from rich.markup import escape

    for param in command.params:
        if isinstance(param, TyperArgument | TyperOption) and param.help:
            param.help = escape(param.help)  # "[server]" is a section of a file, and no colour
    return command


def _root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    # read in Verbs.resolve_command, before the verb is imported
    debug: bool = typer.Option(  # noqa: ARG001
        False, "--debug", envvar=DEBUG_VARIABLE, help="Show tracebacks and library warnings."
    ),
) -> None:
    if version:
        typer.echo(f"demur {installed_version()}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit


def group() -> TyperGroup:
    """Make the whole command line as one object, for main and for tests."""
    wide = {"max_content_width": 120}  # where the terminal is: then a verb is a line
    app = typer.Typer(cls=Verbs, pretty_exceptions_enable=False, context_settings=wide)
    app.callback(
        invoke_without_command=True,
        help=(
            "A language model says why it declines before it declines; you set how often, per "
            "kind of request."
        ),
        epilog="Example: demur demo",
    )(_root)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    # Commands of two words have no stand-in here: `resolve_command` finds them by both words.
    for name, verb in VERBS.items():
        if " " not in name:
            command.add_command(TyperCommand(name, help=verb.summary))
    for name, summary in GROUPS.items():
        command.add_command(Group(name=name, help=summary, no_args_is_help=True))
    return command


def main() -> None:
    """Run the command line and exit: 0 done, 1 our bug, 2 the caller's input, 3 a goal that cannot
    be met.
    """
    try:
        group().main(prog_name="demur")
    except DemurError as e:
        _exit_with(str(e), e.exit_code)
    # errors that no module named: of a disk, a folder, a socket
    except OSError as e:
        at = f" {e.filename}" if e.filename else ""
        _exit_with(
            f"the system refused{at}: {e.strerror or e}\n  hint: check space and permissions",
            YOUR_INPUT,
        )
    # how click leaves, also when all went well
    except SystemExit as e:
        if e.code == INTERRUPTED:
            _exit_with("interrupted; nothing is lost: run the same command to resume", INTERRUPTED)
        raise
    # the outermost boundary: a bug ends in one line, not in a screen of frames
    except Exception as e:  # noqa: BLE001
        _exit_with(
            f"internal error: {type(e).__name__}: {e}\n  hint: run again with --debug and report "
            "what it prints",
            OUR_BUG,
        )


def set_up(*, debug: bool) -> None:
    """Log to stderr, and keep other libraries' advice off the terminal unless debugging."""
    # also for processes that are started from here
    os.environ[DEBUG_VARIABLE] = "1" if debug else ""
    logging.basicConfig(
        stream=sys.stderr,
        level="INFO" if debug else "ERROR",
        format="%(name)s: %(message)s",
        force=True,
    )
    if debug:
        return
    warnings.simplefilter("ignore")
    # These are read when the libraries are imported. A value that the user has set is kept.
    for variable, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TORCH_CPP_LOG_LEVEL", "ERROR"),
        # Idle OpenMP threads that spin make two threads on busy cores ten times slower than one.
        ("OMP_WAIT_POLICY", "PASSIVE"),
    ):
        os.environ.setdefault(variable, value)


def _exit_with(message: str, code: int) -> None:
    """Print an error on stderr and exit; with --debug, print its traceback too."""
    # the exception that is being handled; Ctrl-C is nobody's bug
    if os.environ.get(DEBUG_VARIABLE) and code != INTERRUPTED:
        traceback.print_exc()
    typer.echo(f"demur: {message}", err=True)
    raise SystemExit(code)
