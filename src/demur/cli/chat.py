"""demur chat: a prompt at a time, with what the model saw in it, what the policy made of that, and the answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from rich.table import Table

from demur.cli import options
from demur.cli.calibrate import threshold_text
from demur.cli.policies import named_policy, overridden
from demur.cli.predictors import PREDICTORS
from demur.cli.show import note, result_console
from demur.cli.workspace import Engine, reopen
from demur.core.decision import Decision, decide
from demur.core.errors import DemurError
from demur.core.example import Message
from demur.core.policy import GENERATE, Policy
from demur.core.ports import Answer, Answerer, Prompt
from demur.core.score import Floats
from demur.store.policy_file import read_policy
from demur.store.run import RunFolder

BAR_WIDTH = 30
HELP = "/threshold CATEGORY NUMBER | /policy natural, calibrated, NAME or FILE | /help | /quit"


def command(run: options.Run, threshold: options.Threshold = None, rate: options.Rate = None) -> None:
    """Talk to the trained model. Every prompt stands alone; thresholds change without training again."""
    workspace = reopen(run)
    speaks = workspace.config.engine not in PREDICTORS
    policy = overridden(read_policy(workspace.folder.policy), threshold, rate)
    engine = Engine(workspace)
    note(HELP)
    if not speaks:
        note(f"engine {workspace.config.engine!r} decides and writes nothing: `demur serve` asks the model behind it")
    for line in _lines():
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                policy = _obey(line, workspace.folder, policy)
            else:
                _show(policy, *_asked(engine, (Message(role="user", content=line),), policy, speaks=speaks))
        except DemurError as e:  # a slip of the finger ends no conversation
            note(str(e))


def _lines() -> Iterator[str]:
    """What the user types, or what is piped in, without empty lines."""
    interactive = sys.stdin.isatty()
    while True:
        if interactive:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _obey(line: str, folder: RunFolder, policy: Policy) -> Policy:
    """The policy after a /command."""
    match line.split():
        case ["/threshold", category, value]:
            policy = overridden(policy, [f"{category}={value}"], ())
        case ["/policy", name]:
            policy = named_policy(folder, name, policy)
        case _:
            note(HELP)
            return policy
    pairs = zip(policy.taxonomy.names, policy.categories, strict=True)
    thresholds = ", ".join(f"{name} {threshold_text(c.threshold)}" for name, c in pairs)
    note(f"policy {policy.name!r}, rule {policy.rule!r}" + ("" if policy.rule == "natural" else f": {thresholds}"))
    return policy


def _asked(engine: Engine, prompt: Prompt, policy: Policy, *, speaks: bool) -> tuple[Floats, Decision, Answer | None]:
    """The score, the decision and the answer, from one prefill where the engine can. speaks: it writes at all."""
    if isinstance(engine.loaded, Answerer):
        return engine.loaded.answer([prompt], policy)[0]
    policy.require_model(engine.fingerprint)
    logp_C = engine.logp([prompt])[0]
    decision = decide(policy, logp_C)
    answers = engine.branches([prompt], [[decision.column]])[0] if speaks else {}
    return logp_C, decision, answers.get(decision.column)


def _show(policy: Policy, logp_C: Floats, decision: Decision, answer: Answer | None) -> None:
    console, table = result_console(), Table.grid(padding=(0, 1))
    p_C = np.exp(policy.calibrator.apply(logp_C[None, :])[0].astype(np.float64))  # what thresholds are compared with
    for name, p in zip(policy.taxonomy.choices, p_C, strict=True):
        table.add_row(name, "█" * round(p * BAR_WIDTH), f"{p:.4f}")
    console.print(table)
    console.print(f"decision: {decision.choice}", style="bold red" if decision.refuses else "bold green")
    console.print(_text(policy, decision, answer), markup=False)
    console.print()


def _text(policy: Policy, decision: Decision, answer: Answer | None) -> str:
    if decision.refuses and (template := policy.category(decision.choice).on_refuse) != GENERATE:
        return template
    if answer is None:
        return ""
    return answer.text if answer.finished else f"{answer.text} ..."
