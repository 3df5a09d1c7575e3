"""What chat shows of an answer, and what it remembers of it."""

import json
import re
import sys

import numpy as np
import pytest

from demur.base.files import write_json
from demur.cli.deciding import chat
from demur.core.decision import decide
from demur.core.example import Message
from demur.core.midway.monitor import Stop
from demur.core.ports import Answer
from demur.engines.hf.engine import HfEngine
from tests import builders


@pytest.fixture(scope="module")
def run(tiny):
    return tiny


def chatted(demur, run, tmp_path, monkeypatch, lines, *flags):
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(sys, "stdin", (tmp_path / "lines").open())
    result = demur("chat", run[1].root, *flags)
    assert result.code == 0, result.err
    return result


def shown(result):
    """The lines about respond, one a turn, as printed."""
    return re.findall(r"^respond .*$", result.out, re.M)


class Bare:
    """An engine with what demur.core.ports asks for, as VllmEngine is one."""

    def __init__(self, **options):
        self._engine = HfEngine(**options)
        self.fingerprint, self.logp, self.branches = (
            self._engine.fingerprint,
            self._engine.logp,
            self._engine.branches,
        )


class Model:
    """An engine whose answers are cut off at their limit."""

    def __init__(self):
        self.loaded = self

    def scorer_for(self, policy):
        return self

    def answer(self, prompts, policy, progress=None):
        logp_C = np.log([0.9, 0.05, 0.04]).astype(np.float32)
        return [
            (logp_C, decide(policy, logp_C), Answer(text="It is", finished=False, tokens=2))
            for _ in prompts
        ]


def test_chat_asks_a_scorer_and_a_generator_and_no_more(demur, run, tmp_path, monkeypatch):
    root = run[1].root
    (tmp_path / "lines").write_text("What is the capital of France?\n/quit\n")
    config = json.loads((root / "config.json").read_text())
    engine = {"engine": f"{Bare.__module__}:Bare"}
    monkeypatch.setattr(sys, "stdin", (tmp_path / "lines").open())
    write_json(root / "config.json", {**config, "run": {**config["run"], **engine}})
    try:
        result = demur("chat", root)
    finally:
        write_json(root / "config.json", config)
    assert result.code == 0, result.err
    assert "decision: " in result.out


def test_a_chat_has_several_turns_and_new_begins_anew(demur, run, tmp_path, monkeypatch):
    prompt, other = "What is the capital of France?", "Name a river."
    lines = (prompt, other, "/new", other)
    _, second, again = shown(chatted(demur, run, tmp_path, monkeypatch, lines))
    assert second != again  # the turn before it is read, until /new
    alone = shown(chatted(demur, run, tmp_path, monkeypatch, (prompt, other), "--alone"))
    assert alone[1] == again


def test_a_text_that_was_cut_off_says_so_and_is_remembered_as_it_was(capsys):
    turns = chat._turn(
        Model(), builders.policy(2), (Message(role="user", content="What is it?"),), speaks=True
    )
    assert "It is ..." in capsys.readouterr().out
    assert turns[-1] == Message(role="assistant", content="It is")


def test_a_stop_is_shown_with_its_category_and_place_and_the_refusal_is_remembered(capsys):
    class Stopped(Model):
        def answer(self, prompts, policy, progress=None):
            ((logp_C, decision, _),) = super().answer(prompts, policy)
            stop = Stop(column=2, position=7)
            return [(logp_C, decision, Answer(text="No.", finished=True, tokens=1, stop=stop))]

    policy = builders.policy(2)
    turns = chat._turn(Stopped(), policy, (Message(role="user", content="How?"),), speaks=True)
    shown = capsys.readouterr().out
    assert f"stopped: {policy.taxonomy.names[1]}, after 7 tokens of an answer" in shown
    assert turns[-1] == Message(role="assistant", content="No.")
