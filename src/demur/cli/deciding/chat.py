"""demur chat: a conversation, with each turn's probabilities, decision and answer."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from demur.assembly.predictors import PREDICTORS
from demur.base.arrays import Floats
from demur.base.errors import DemurError
from demur.cli import options
from demur.cli.policies import named_policy, open_policy, policy_with_overrides, run_with_policy
from demur.cli.policy_text import threshold_text
from demur.cli.terminal import note, result_console
from demur.core.conversation.languages import operators_text
from demur.core.decision import Decision, decide_or_doubt, doubt_reason
from demur.core.example import Message, Role
from demur.core.policy import Policy
from demur.core.ports import Answer, Prompt, Scorer
from demur.core.serving import Answerer
from demur.store.run import RunFolder

if TYPE_CHECKING:
    from demur.assembly.run import RunEngine

with contextlib.suppress(ModuleNotFoundError):  # not everywhere, and chat does without
    import readline  # noqa: F401 - arrow keys edit a line and bring back earlier ones

BAR_WIDTH = 30
HELP = (
    "/threshold CATEGORY NUMBER | /policy natural, calibrated, NAME or FILE | /new | /help | /quit"
)


def command(
    run: options.Run,
    *,
    threshold: options.Threshold = None,
    rate: options.Rate = None,
    named: options.OfRun = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Let every prompt stand alone: no earlier turns.")
    ] = False,
) -> None:
    """Talk to the trained model. Thresholds change without training again; /new begins anew."""
    from demur.assembly.run import RunEngine, reopen

    workspace = reopen(run)
    # engines that predict refusals decide, and write nothing
    speaks = workspace.config.engine not in PREDICTORS
    policy = policy_with_overrides(
        open_policy(run_with_policy(workspace.folder, named).policy), threshold, rate
    )
    engine = RunEngine(workspace)
    note(HELP)
    if not speaks:
        engine_name = workspace.config.engine
        note(
            f"engine {engine_name!r} decides and writes nothing: `demur serve` asks the model "
            "behind it"
        )
    turns: tuple[Message, ...] = ()
    for line in _lines():
        if line == "/quit":
            return
        try:
            if line == "/new":
                turns = ()
            elif line.startswith("/"):
                policy = _run_command(line, workspace.folder, policy)
            else:
                answered = _turn(engine, policy, (*turns, _message("user", line)), speaks=speaks)
                # with --alone every line begins a new conversation
                turns = () if alone else answered
        except DemurError as e:  # a slip of the finger ends no conversation
            note(str(e))


def _lines() -> Iterator[str]:
    """The lines that the user types, or that are piped in, without empty ones."""
    # `input` edits lines, and would print its prompt into a pipe
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("> ") if interactive else sys.stdin.readline()
        except EOFError:
            return
        # at its end a pipe gives the empty text; an empty line still has its line break
        if not interactive and not line:
            return
        if line.strip():
            yield line.strip()


def _message(role: Role, text: str) -> Message:
    return Message(role=role, content=text)


def _turn(
    engine: RunEngine, policy: Policy, prompt: Prompt, *, speaks: bool
) -> tuple[Message, ...]:
    """Decide, answer and print one turn; return the conversation with the answer.

    A later turn is decided on the whole conversation. A note says where the same words alone would
    be decided otherwise: a refused turn may affect those after it.
    """
    scorer = engine.scorer_for(policy)
    logp_C, decision, answer = _answer_prompt(engine, scorer, prompt, policy, speaks=speaks)
    _show(policy, logp_C, decision, answer)
    # the last turn alone costs a prefill more, and only where there are earlier ones
    if len(prompt) > 1:
        alone = decide_or_doubt(policy, scorer.logp([prompt[-1:]])[0])
        if alone.words != decision.words:
            note(f"without the turns before it: {alone.words} (/new begins anew)")
    # Nothing was answered (engines that write nothing): the conversation cannot go on.
    text = _text(policy, decision, answer)
    return (*prompt, _message("assistant", text)) if text else ()


def _run_command(line: str, folder: RunFolder, policy: Policy) -> Policy:
    """Do a /command; return the policy after it."""
    match line.split():
        case ["/threshold", category, value]:
            policy = policy_with_overrides(policy, [f"{category}={value}"], ())
        case ["/policy", name]:
            policy = named_policy(folder, name, policy)
        case _:
            note(HELP)
            return policy
    pairs = zip(policy.taxonomy.names, policy.categories, strict=True)
    thresholds = ", ".join(f"{name} {threshold_text(c.threshold)}" for name, c in pairs)
    note(
        f"policy {policy.name!r}, rule {policy.rule!r}"
        + ("" if policy.rule == "natural" else f": {thresholds}")
    )
    return policy


def _answer_prompt(
    engine: RunEngine, scorer: Scorer, prompt: Prompt, policy: Policy, *, speaks: bool
) -> tuple[Floats, Decision, Answer | None]:
    """Score, decision and answer of a prompt. speaks: whether the engine writes answers at all."""
    # One prefill for all three, where the engine can and no cascade decides in its place.
    if scorer is engine and isinstance(engine.loaded, Answerer):
        return engine.loaded.answer([prompt], policy)[0]
    policy.require_model(scorer.fingerprint)
    policy.require_no_monitor("an engine that decides alone")
    logp_C = scorer.logp([prompt])[0]
    decision = decide_or_doubt(policy, logp_C)
    # else a second call writes the text after the token that was decided on
    wanted = speaks and decision.outcome != "defer"
    answers = engine.branches([prompt], [[decision.column]])[0] if wanted else {}
    return logp_C, decision, answers.get(decision.column)


def _show(policy: Policy, logp_C: Floats, decision: Decision, answer: Answer | None) -> None:
    """Print the probabilities as bars, then the decision and the text."""
    console, table = result_console(), Table.grid(padding=(0, 1))
    # what thresholds are compared with
    p_C = np.exp(policy.calibrator.apply(logp_C[None, :])[0].astype(np.float64))
    for name, p in zip(policy.taxonomy.choices, p_C, strict=True):
        table.add_row(name, "█" * round(p * BAR_WIDTH), f"{p:.4f}")
    console.print(table)
    colour = {"refuse": "red", "defer": "yellow", "answer": "green"}[decision.outcome]
    console.print(f"decision: {decision.words}", style=f"bold {colour}")
    stop = answer.stop if answer is not None else None
    if stop is not None:
        category = policy.taxonomy.choices[stop.column]
        console.print(
            f"stopped: {category}, after {stop.position} tokens of an answer", style="bold red"
        )
    if decision.doubt:
        console.print(f"doubt: {doubt_reason(policy, logp_C)}")
    text = _text(policy, decision, answer)
    console.print(
        answer.shown if answer is not None and text == answer.text else text, markup=False
    )
    console.print()


def _text(policy: Policy, decision: Decision, answer: Answer | None) -> str:
    """The text of a turn, on which later turns are decided: the policy's own, else the answer's."""
    own = operators_text(policy, decision)
    if own is not None:
        return own
    return "" if answer is None else answer.text
