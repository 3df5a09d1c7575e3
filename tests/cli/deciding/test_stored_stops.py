"""decide and explain under a policy with a monitor: stops are read off stored answers."""

import json
import shutil
from dataclasses import replace

import pytest

from demur.core.midway.monitor import first_stop
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder
from demur.store.scores.answer_peaks import answers_path, read_answers, write_answers
from tests.watching import watched_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose policy has a monitor; tests must not change it."""
    return watched_run(tmp_path_factory.mktemp("runs") / "watched")[0]


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it, to be changed."""
    return RunFolder(shutil.copytree(made.root, tmp_path / "run"))


def decided(demur, folder, *more):
    result = demur("decide", folder.root, "--scores", folder.scores("test"), *more, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_decide_says_what_is_stopped_and_where(demur, made):
    policy = read_policy(made.policy)
    traces = {a.scored.id: a.trace_TC for a in read_answers(answers_path(made, "test")).answers}
    seen = set()
    for row in decided(demur, made):
        stop = first_stop(policy.monitor, traces[row["prompt"]])
        if row["refuses"] or stop is None:
            assert row["stop"] is None
        else:
            assert row["stop"] == {"category": "safety", "position": stop.position}
        seen.add((row["refuses"], stop is not None))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}
    shown = demur("decide", made.root, "--scores", made.scores("test")).out
    assert "stopped" in shown
    assert " tokens" in shown


def test_explain_says_where_a_row_is_stopped(demur, made):
    row = next(r for r in decided(demur, made) if r["stop"])
    asked = f"{row['prompt']}@{made.scores('test')}"
    explained = json.loads(demur("explain", made.root, "--row", asked, "--json").out)
    assert explained["row"]["stop"] == row["stop"]
    told = f"safety after {row['stop']['position']} tokens"
    assert told in demur("explain", made.root, "--row", asked).out


def test_without_answers_nothing_is_said_of_stops(demur, folder):
    answers_path(folder, "test").unlink()
    scores = folder.scores("test")
    first = json.loads(demur("decide", folder.root, "--scores", scores, "--first", "--json").out)
    assert not any("stop" in row for row in first)
    name = first[0]["prompt"]
    for asked in (
        ("decide", folder.root, "--scores", scores),
        ("decide", folder.root, "Is this stopped?"),
        ("explain", folder.root, "--row", f"{name}@{scores}"),
    ):
        result = demur(*asked)
        assert result.code == 2
        assert "may stop an answer after its first position" in result.err
        assert "--answers 32" in result.err


def test_answers_of_another_kind_or_model_or_too_few_are_refused(demur, folder):
    path = answers_path(folder, "test")
    file = read_answers(path)
    longer = replace(file.scoring, answers=replace(file.scoring.answers, most_tokens=64))
    for wrong, says in (
        (replace(file, scoring=longer), "the monitor is for answers of at most 32 tokens"),
        (
            replace(file, fingerprint=replace(file.fingerprint, model_digest="other")),
            "is of another model than policy 'default': model_digest differ",
        ),
        (replace(file, answers=file.answers[1:]), "1 prompts have no scored answer"),
    ):
        write_answers(path, wrong)
        result = demur("decide", "--policy", folder.policy, "--scores", folder.scores("test"))
        assert result.code == 2
        assert says in result.err
