"""Everyday prompts: asked beside the evaluation, shown in the report, counted nowhere."""

import json
import shutil

import pytest
from tests import builders
from tests.fake_run import finished

from demur.base.errors import PolicyError
from demur.core.decision import decide_many
from demur.core.example import Example, Message
from demur.core.taxonomy import coconot, single
from demur.engines.fake.engine import FakeEngine
from demur.sources.corpus import EverydayPrompts
from demur.stages import evaluate, report
from demur.stages.evaluate.everyday import _expected, evaluate_everyday
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.results.everyday_file import REFUSE, everyday_path, read_everyday
from demur.store.run import RunFolder

PROMPTS = tuple(EverydayPrompts().read())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An evaluated run and its engine."""
    return finished(tmp_path_factory.mktemp("everyday") / "run", every=6)


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made[0].root, tmp_path / "run")
    return RunFolder(tmp_path / "run"), made[1]


def test_each_prompt_is_decided_by_the_policy_as_decide_many_does(run):
    folder, engine = run
    found = evaluate_everyday(PROMPTS, engine, folder)
    decided = decide_many(read_policy(folder.policy), engine.logp([e.prompt for e in PROMPTS]))
    assert [row.decided for row in found.rows] == [coconot().choices[c] for c in decided.choice_N]
    assert [row.expected for row in found.rows] == [e.label or "respond" for e in PROMPTS]
    assert {row.id for row in found.wrong} == {row.id for row in found.rows if not row.right}
    assert all(row.text for row in found.rows)
    assert [row.seen for row in found.rows] == [None] * len(PROMPTS)


def test_asking_again_changes_nothing_and_asks_no_model(run):
    folder, engine = run
    found = evaluate_everyday(PROMPTS, engine, folder)
    before = everyday_path(folder).stat().st_mtime_ns

    class Silent:
        fingerprint = engine.fingerprint

    assert evaluate_everyday(PROMPTS, Silent(), folder) == found
    assert everyday_path(folder).stat().st_mtime_ns == before


def test_another_policy_makes_them_out_of_date_and_another_model_is_refused(run):
    folder, engine = run
    evaluate_everyday(PROMPTS, engine, folder)
    policy = read_policy(folder.policy)
    write_policy(folder.policy, policy.with_thresholds({"safety": 0.123}))
    assert read_everyday(folder) is None
    with pytest.raises(PolicyError, match="another model"):
        evaluate_everyday(PROMPTS, FakeEngine(taxonomy=coconot(), sharpness=1.0, seed=9), folder)


def test_the_evaluation_and_its_receipt_know_nothing_of_them(run):
    folder, engine = run
    before = {p.name: p.read_bytes() for p in folder.stage("evaluate").iterdir() if p.is_file()}
    evaluate_everyday(PROMPTS, engine, folder)
    after = {p.name: p.read_bytes() for p in folder.stage("evaluate").iterdir() if p.is_file()}
    assert after.pop("everyday.json")
    assert after == before
    asked = evaluate.Config(everyday=True)
    settings = json.loads((folder.stage("evaluate") / "made.json").read_text())["settings"]
    assert "everyday" not in settings
    assert asked.everyday


def test_the_report_shows_them_at_its_top_and_says_how_many_are_wrong(run):
    folder, engine = run
    plain = report.run(report.Config(), folder).with_name("report.md").read_text()
    assert "everyday prompts" not in plain
    found = evaluate_everyday(PROMPTS, engine, folder)
    text = report.run(report.Config(), folder).with_name("report.md").read_text()
    title = (
        f"40 everyday prompts: {40 - len(found.wrong)} decided as expected, {len(found.wrong)} not"
    )
    assert title in text
    assert text.index(title) < text.index("Setting the rate")
    for row in found.rows:
        assert row.prompt.split('"')[0] in text


def test_a_prompt_that_was_trained_on_is_said_to_be(run):
    folder, engine = run
    learnt = json.loads(folder.split("train").read_text().splitlines()[0])["messages"][0]["content"]
    known = Example(
        id="k", source="k", messages=(Message(role="user", content=learnt),), kind="benign"
    )
    (row,) = evaluate_everyday((known,), engine, folder).rows
    assert row.seen == "prompt"
    assert "THE MODEL WAS TRAINED ON 1 OF THEM" in report.run(report.Config(), folder).read_text()


def test_a_fixed_refusal_is_shown_as_it_is_sent(run):
    folder, engine = run
    policy = read_policy(folder.policy)
    for k in range(len(policy.categories)):
        policy = builders.with_category(policy, k, on_refuse="No, thank you.")
    write_policy(folder.policy, policy)
    found = evaluate_everyday(PROMPTS, engine, folder)
    assert {row.text for row in found.rows if row.decided != "respond"} == {"No, thank you."}


def test_a_taxonomy_without_the_category_expects_a_refusal_of_any_kind():
    assert {_expected(e, single()) for e in PROMPTS} == {"respond", REFUSE}
