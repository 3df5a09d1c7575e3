"""A policy with a band through the stages: goals to a policy file, then three outcomes on the test
rows, in metrics.json and in the report.
"""

import pytest
from tests.fake_run import JUDGE, engine_for, examples, prepare

from demur.core.taxonomy import coconot
from demur.stages import calibrate, evaluate, report
from demur.store.policies.policy_file import read_policy
from demur.store.results.metrics_file import read_metrics
from demur.store.run import RunFolder

GOAL = "false_refusal <= 0.25; missed_refusal <= 0.35; deferral <= 0.3"
NAMES = coconot().names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "band"
    rows = examples(every=4)
    engine = engine_for(rows)
    config = calibrate.Config(
        goal=GOAL,
        on_defer=dict.fromkeys(NAMES, "ask"),
        defer_text=dict.fromkeys(NAMES, "Could you say more?"),
    )
    prepare(root, rows, engine, config)
    folder = RunFolder(root)
    evaluate.run(evaluate.Config(also=(), limit=120), engine, JUDGE, folder)
    return folder


def test_the_policy_carries_three_promises_and_both_thresholds(run):
    made = read_policy(run.policy)
    assert [p.status for p in made.promises] == ["certified"] * 3
    assert made.defers
    assert all(c.held_from <= c.threshold for c in made.categories)


def test_evaluate_counts_deferrals_apart(run):
    metrics = read_metrics(run.stage("evaluate") / "metrics.json")
    natural, calibrated = metrics.policies[:2]
    assert natural.decision.overall.deferral is None
    overall = calibrated.decision.overall
    assert overall.deferral is not None
    assert overall.deferral.hits == sum(map(sum, calibrated.deferred)) > 0
    # every row to be refused is caught, missed or deferred
    of = overall.caught.of
    deferred = sum(sum(line) for line in calibrated.deferred[1:])
    assert overall.caught.hits + overall.missed_refusal.hits + deferred == of
    assert calibrated.unscored_reasons["deferred: the policy's own text"] == overall.deferral.hits


def test_the_report_shows_them(run):
    report.run(report.Config(), run)
    text = (run.stage("report") / "report.md").read_text(encoding="utf-8")
    assert "neither answered nor refused" in text
    assert "deferral" in text
