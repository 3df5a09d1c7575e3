"""A certificate that the test rows speak against is said loudly, in the report and by the exit
code.
"""

import pytest
from tests import fake_run
from tests.cli.conftest import CONFIG, demur  # noqa: F401 - a fixture

from demur.assembly.config import config_from
from demur.assembly.run import create
from demur.core.taxonomy import coconot
from demur.stages import calibrate, data, evaluate, report
from demur.store.rows import read_examples
from demur.store.run import RunFolder

GOAL = calibrate.Config(goal="missed_refusal <= 0.4")


def run_of(root, *, worse):
    """A run with a certificate. worse: its test rows are decided far worse than its calibrate
    rows.
    """
    rows = fake_run.examples(every=4)
    folder = RunFolder(root)
    data.run(data.Config(), coconot(), {"rows": fake_run.Rows(rows)}, folder)
    labels = {e.text: e.label for e in rows}
    if worse:
        labels |= dict.fromkeys(
            e.text for e in read_examples(folder.split("test"))
        )  # the engine takes all of them for ordinary requests
    engine = fake_run.RudeEngine(taxonomy=coconot(), sharpness=2.2, labels=labels)
    made = fake_run.prepare(root, rows, engine, GOAL)
    evaluate.run(evaluate.Config(), engine, fake_run.JUDGE, made)
    create(config_from(CONFIG, "made.toml", base=root), root)
    return made


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("worse"), worse=True)


def test_a_promise_that_the_test_rows_bear_out_is_left_in_peace(tmp_path, demur):  # noqa: F811
    folder = run_of(tmp_path, worse=False)
    assert evaluate.contradictions(folder) == ()
    assert demur("report", folder.root).code == 0
    assert "SPEAK AGAINST" not in folder.report.with_name("report.md").read_text(encoding="utf-8")


def test_a_promise_that_they_speak_against_leads_the_report(worse):
    (found,) = evaluate.contradictions(worse)
    assert found.promise.risk == "missed_refusal"
    assert found.rate.interval()[0] > 0.4
    text = (
        report.run(report.Config(), worse)
        .with_name("report.md")
        .read_text(encoding="utf-8")
        .replace("\\", "")
    )
    assert (
        "THE TEST ROWS SPEAK AGAINST A CERTIFICATE: missed_refusal is promised at 0.4 and is "
        in text
    )
    assert "certified; the test rows speak against it" in text


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_the_exit_code_says_so_too(worse, demur, verb):  # noqa: F811
    result = demur(verb, worse.root)
    assert result.code == 3
    assert "THE TEST ROWS SPEAK AGAINST A CERTIFICATE: missed_refusal" in result.err


def test_a_report_after_a_new_calibration_is_refused_until_it_is_evaluated(tmp_path, demur):  # noqa: F811
    folder = run_of(tmp_path, worse=False)
    report.run(report.Config(), folder)
    before = folder.report.read_bytes()
    assert demur("calibrate", folder.root, "--goal", "youden max").code == 0
    result = demur("report", folder.root)
    assert result.code == 2
    assert "evaluate is out of date: it was made from another calibrate/policy.json" in result.err
    assert f"demur evaluate {folder.root}" in result.err
    assert folder.report.read_bytes() == before
