"""Several policies of one run: each is evaluated and reported from its own, and none makes another
out of date.
"""

import pytest
from tests.fake_run import JUDGE, engine_for, examples, prepare

from demur.base.errors import ArtifactError, ConfigError
from demur.stages import calibrate, evaluate, report
from demur.store.policies.ledger_file import read_ledger
from demur.store.run import RunFolder


def test_each_policy_of_a_run_has_its_own_evaluation_and_report(tmp_path):
    rows = examples(every=4)
    engine = engine_for(rows)
    own = prepare(tmp_path, rows, engine)
    config = evaluate.Config(also=("false_refusal <= 0.5",), limit=40)
    evaluate.run(config, engine, JUDGE, own)
    careful = own.named("careful")
    with pytest.raises(ArtifactError, match="not finished") as e:
        evaluate.run(config, engine, JUDGE, careful)
    assert "--name careful" in e.value.hint
    calibrate.run(
        calibrate.Config(goal="false_refusal <= 0.3", name="careful"), engine.taxonomy, careful
    )
    found = evaluate.run(config, engine, JUDGE, careful)
    assert found.policies[1].goal == "false_refusal <= 0.3"
    assert found.policies[1].file == "calibrate/careful/policy.json"
    pages = [report.run(report.Config(examples=0), folder) for folder in (own, careful)]
    assert pages[1] == tmp_path / "report" / "careful" / "index.html"
    # A promise for comparison is an attempt on the same rows, counted once for both policies.
    attempts = read_ledger(own.ledger).attempts
    assert ("false_refusal <= 0.5",) in [a.goals for a in attempts]
    assert len({a.key for a in attempts}) == 2
    words = "2 attempts on these rows: 90% confidence that all they grant holds"
    assert words in pages[1].read_text()
    assert words not in pages[0].read_text()
    own.require("evaluate")
    own.require("report")
    careful.require("report")
    calibrate.run(
        calibrate.Config(goal="false_refusal <= 0.4", name="careful"), engine.taxonomy, careful
    )
    with pytest.raises(ArtifactError, match="out of date"):
        careful.require("evaluate")
    own.require("evaluate")


@pytest.mark.parametrize("name", ["", "..", "a/b", "policies", ".made", "calibrated", "a b"])
def test_a_name_that_is_no_plain_word_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be called"):
        RunFolder(tmp_path).named(name)
