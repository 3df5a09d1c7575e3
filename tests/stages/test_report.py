import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tests.browsing import opened
from tests.fake_run import HOSTILE, JUDGE, engine_for, examples, finished, prepare
from tests.habits import deaf

from demur.base.errors import ArtifactError, ConfigError
from demur.core.decision import decide_many
from demur.core.judging.outcome import Outcome
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.stages import calibrate, evaluate, report
from demur.stats.units import units_of
from demur.store.policies.policy_file import read_policy
from demur.store.results.metrics_file import read_metrics, write_metrics
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_branches, read_scores

SHOW_ALL = len(examples())  # so many cards that the hostile prompt is among them


class Dumb:
    """A judge that is not there."""

    version = "dumb/1"

    def judge(self, request, answer, category):
        return Outcome(verdict="unscored", reason="no answer", judge=self.version)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with its report; every prompt is shown."""
    folder, engine = finished(tmp_path_factory.mktemp("report") / "run", every=4)
    return (
        folder,
        engine,
        report.run(report.Config(title=f"Run {HOSTILE}", examples=SHOW_ALL), folder),
    )


@pytest.fixture
def run(made, tmp_path):
    """An evaluated run of one's own, without its report, and its engine."""
    shutil.copytree(made[0].root, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    return RunFolder(tmp_path / "run"), made[1]


@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_draws_every_plot_without_errors_or_network(made, browser, width):
    page, logged, asked = opened(browser, made[2], viewport={"width": width, "height": 900})
    assert logged == []
    assert asked == [made[2].as_uri()]
    assert page.locator("[data-plot]").count() == 15
    assert page.locator("svg.main-svg path").count() > 100
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_page_works_in_the_dark(made, browser):
    page, logged, _ = opened(browser, made[2], color_scheme="dark")
    assert logged == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def test_hostile_prompts_and_titles_stay_text(made, browser):
    page, logged, _ = opened(browser, made[2])
    assert logged == []
    assert page.locator("img").count() == page.locator("main b").count() == 0
    assert (
        page.locator(".prompt").filter(has_text="</script><img src=x onerror=alert(1)>").count()
        >= 1
    )
    assert page.locator(".answer").filter(has_text="{{ 7*7 }}").count() > 1
    assert page.locator("h1").inner_text().startswith("Run Is this </script><img")


def test_a_script_that_was_not_written_by_demur_does_not_run(made, browser, tmp_path):
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(
        made[2].read_text().replace("<main>", "<script>window.bad = 1</script><main>")
    )
    page, logged, _ = opened(browser, spoilt)
    assert page.evaluate("window.bad") is None
    assert any("Content Security Policy" in line for line in logged)


def test_plotly_is_inlined_once_and_the_file_stays_small(made):
    page = made[2].read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert made[2].stat().st_size < 6_000_000
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", page)


def test_page_and_markdown_say_the_same_chapters_and_numbers(made):
    folder, _, path = made
    page, text = (
        path.read_text(encoding="utf-8"),
        path.with_name("report.md").read_text(encoding="utf-8"),
    )
    chapters = re.findall(r"<h2>(.*?)</h2>", page)
    assert chapters == re.findall(r"^## (.*)$", text, re.M)
    assert len(chapters) == 9
    measured = read_metrics(folder.metrics).policies[1].decision.overall
    assert text.count(measured.caught.words) >= 1
    assert f"{100 * measured.false_refusal.value:.1f}% <small>" in page


def test_every_table_of_the_markdown_is_a_table(made):
    lines = made[2].with_name("report.md").read_text(encoding="utf-8").splitlines()
    cells = re.compile(r"(?<!\\)\|")
    tables = [n for n, line in enumerate(lines) if re.fullmatch(r"\|( -+:? \|)+", line)]
    assert len(tables) == 19
    for n in tables:
        assert lines[n - 2] == ""
        end = next((k for k in range(n, len(lines)) if not lines[k].startswith("|")), len(lines))
        assert end > n + 1
        assert {len(cells.findall(line)) for line in lines[n - 1 : end]} == {
            len(cells.findall(lines[n]))
        }


def test_a_tiny_base_is_called_what_it_is(made):
    assert "tiny model trained from nothing" in made[2].read_text(encoding="utf-8")


def test_undefined_rates_are_called_undefined(made):
    assert "not defined (0 rows)" in made[2].read_text(encoding="utf-8")
    assert "not defined (0 rows)" in made[2].with_name("report.md").read_text(encoding="utf-8")
    assert not re.search(
        r"\| nan \|", made[2].with_name("report.md").read_text(encoding="utf-8"), re.I
    )


def test_an_unchanged_run_keeps_its_report(run):
    folder, _ = run
    path = report.run(report.Config(), folder)
    before = path.stat().st_mtime_ns
    assert report.run(report.Config(), folder).stat().st_mtime_ns == before
    report.run(report.Config(title="Another"), folder)
    assert path.stat().st_mtime_ns > before


def test_a_goal_without_thresholds_still_makes_a_report(run):
    folder, engine = run
    evaluate.run(evaluate.Config(also=("refusal_rate = 0.00001",), limit=40), engine, JUDGE, folder)
    text = (
        report.run(report.Config(examples=0), folder)
        .with_name("report.md")
        .read_text(encoding="utf-8")
    )
    assert "“refusal\\_rate = 0.00001” has no line" in text


def test_a_checkpoint_that_demur_did_not_train_has_a_report(run):
    folder, _ = run
    shutil.rmtree(folder.stage("train"))
    text = report.run(report.Config(), folder).with_name("report.md").read_text(encoding="utf-8")
    assert "was not trained in this run" in text
    assert "### Training" not in text


def test_a_fixed_refusal_is_shown_as_the_text_that_is_sent(run):
    folder, engine = run
    fixed = dict.fromkeys(engine.taxonomy.names, "House rules forbid this.")
    calibrate.run(calibrate.Config(on_refuse=fixed), engine.taxonomy, folder)
    evaluate.run(evaluate.Config(), engine, JUDGE, folder)
    text = report.run(report.Config(), folder).with_name("report.md").read_text(encoding="utf-8")
    assert "text: House rules forbid this." in text
    assert "judged: a fixed refusal was sent" in text


def test_rows_of_one_kind_have_no_curves_but_a_report(run):
    folder, engine = run
    found = evaluate.run(evaluate.Config(limit=1), engine, JUDGE, folder)
    assert found.ranking["all"].auroc is None
    text = report.run(report.Config(), folder).with_name("report.md").read_text(encoding="utf-8")
    assert "### ROC" not in text
    assert "Where the scores lie" in text


@pytest.fixture(scope="module")
def calibrated(made, tmp_path_factory):
    """The run again, with a calibrator, and its report."""
    root, engine = tmp_path_factory.mktemp("calibrated") / "run", made[1]
    shutil.copytree(made[0].root, root)
    folder = RunFolder(root)
    calibrate.run(calibrate.Config(calibrator="platt"), engine.taxonomy, folder)
    evaluate.run(evaluate.Config(), engine, JUDGE, folder)
    return folder, report.run(report.Config(examples=2), folder)


def test_a_calibrator_is_named_with_its_reason_and_measured_before_and_after(calibrated):
    folder, path = calibrated
    text = path.with_name("report.md").read_text(encoding="utf-8")
    made = read_metrics(folder.metrics)
    assert "Calibrator: platt: asked for by name" in text
    assert f"fitted on {made.calibration.fitted_on} calibrate rows" in text
    assert f"chosen on {made.calibrate_rows} others" in text
    for key in ("refusal_ece", "top_ece", "log_loss", "brier"):
        before, after = getattr(made.calibration.before, key), getattr(made.calibration.after, key)
        assert f"| {before:.3f} | {after:.3f} |" in text


def test_reliability_has_a_plot_before_and_one_after_the_calibrator(calibrated, browser):
    page, logged, asked = opened(browser, calibrated[1], viewport={"width": 420, "height": 900})
    assert logged == []
    assert asked == [calibrated[1].as_uri()]
    assert page.locator("[data-plot]").count() == 16
    assert page.locator(".label", has_text="before calibration").count() == 1
    assert page.locator(".label", has_text="after calibration").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 420


def test_cards_show_the_probabilities_that_thresholds_are_compared_with(calibrated):
    folder, path = calibrated
    policy = read_policy(folder.policy)
    table, _ = read_scores(folder.scores("test"))
    margin_N = decide_many(policy, table.logp_NC).margin_N
    nearest = abs(margin_N).argmin()
    highest = np.exp(policy.calibrator.apply(table.logp_NC[nearest : nearest + 1])[0].max())
    shown = (
        path.with_name("report.md")
        .read_text(encoding="utf-8")
        .split("### Prompts nearest to the threshold")[1]
    )
    assert f" {highest:.1%}," in shown.split("probabilities: ")[1].split("\n")[0]


def test_a_run_without_a_calibrator_says_nothing_of_one(made):
    text = made[2].with_name("report.md").read_text(encoding="utf-8")
    assert "Calibrator:" not in text
    assert "before and after calibration" not in text


def table_of(text, title):
    """The rows of a table of the Markdown, by block and first cell."""
    part = text[text.index(f"### {title}") :]
    lines = part[part.index("\n|") + 1 :].split("\n\n", 1)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    block, rows = "", {}
    for first, *others in cells[2:]:
        if first.startswith("**"):
            block = first.strip("*")
        else:
            rows[block, first] = dict(zip(cells[0][1:], others, strict=True))
    return rows


def test_texts_that_ignore_their_token_are_shown_as_breaking_its_word_the_surest_first(tmp_path):
    rows = examples(every=4)
    engine = deaf(engine_for(rows, FakeEngine))
    folder = prepare(tmp_path / "run", rows, engine)
    evaluate.run(evaluate.Config(), engine, JUDGE, folder)
    text = (
        report.run(report.Config(examples=3), folder)
        .with_name("report.md")
        .read_text(encoding="utf-8")
    )
    kept, test_rows = (
        table_of(text, "Texts that keep their token's word, per token"),
        read_examples(folder.split("test")),
    )
    none_N, all_N = np.zeros(len(test_rows), dtype=bool), np.ones(len(test_rows), dtype=bool)
    rate = units_of(test_rows).rate(none_N, all_N)
    low, high = (100 * end for end in rate.interval(0.95))
    assert kept["forced", "respond"]["keeps its word"] == (
        f"0.0% ({low:.1f} to {high:.1f}; {rate.units} units)"
    )
    assert kept["forced", "respond"]["texts"] == str(len(test_rows))
    made = [b for b in read_branches(folder.branches, engine.fingerprint.tokens) if b.column]
    for column, name in enumerate(coconot().names, start=1):
        row = kept["forced", name]
        assert (row["keeps its word"][:6], row["texts"]) == (
            "100.0%",
            str(sum(b.column == column for b in made)),
        )
        assert int(kept["as sent", name]["texts"]) <= int(row["texts"]) < len(test_rows)
    assert "a refusal token only where it was the likeliest one" in text
    surest = int(read_scores(folder.scores("test"))[0].logp_NC[:, 0].argmax())
    worst = text[
        text.index(f"### Forced texts that break their token's word ({len(test_rows)} in all)") :
    ]
    card = worst[worst.index("\n- ") :].split("\n\n", 1)[0]
    assert test_rows[surest].text in card.splitlines()[1]
    assert "forced: respond, probability 99" in card
    assert "judged: refusal" in card


def test_a_run_with_every_token_forced_says_so_and_unscored_texts_stand_beside_the_rates(run):
    folder, engine = run
    evaluate.run(evaluate.Config(branches="all", limit=30), engine, Dumb(), folder)
    text = (
        report.run(report.Config(examples=0), folder)
        .with_name("report.md")
        .read_text(encoding="utf-8")
    )
    assert "Every token was forced after every prompt." in text
    row = table_of(text, "Policies on held-out prompts")["by the text, as judged", "natural"]
    assert (row["unscored"], row["false refusals"], row["F1"]) == (
        "30 of 30",
        "not defined (0 rows)",
        "not defined",
    )
    forced = table_of(text, "Texts that keep their token's word, per token")["forced", "safety"]
    assert (forced["texts"], forced["keeps its word"], forced["unscored"]) == (
        "0",
        "not defined (0 rows)",
        "30",
    )


def test_metrics_that_changed_since_are_refused(run):
    folder, _ = run
    write_metrics(folder.metrics, replace_limit(read_metrics(folder.metrics)))
    with pytest.raises(ArtifactError, match=r"metrics\.json has changed"):
        report.run(report.Config(), folder)


def replace_limit(evaluation):
    return evaluation.model_copy(update={"limit": 3})


def test_a_run_that_was_not_evaluated_is_refused(run):
    folder, _ = run
    shutil.rmtree(folder.stage("evaluate"))
    with pytest.raises(ArtifactError, match="evaluate"):
        report.run(report.Config(), folder)


def test_fewer_than_no_examples_are_refused():
    with pytest.raises(ConfigError, match="examples = -1"):
        replace(report.Config(), examples=-1)


def test_a_report_on_a_sample_of_texts_says_so_and_shows_prompts_that_have_one_first(run):
    folder, engine = run
    shutil.rmtree(folder.stage("evaluate"))
    found = evaluate.run(evaluate.Config(texts=30), engine, JUDGE, folder)
    text = report.run(report.Config(examples=2), folder).with_name("report.md").read_text()
    assert f"by the text, as judged, on 30 of {found.test_rows:,} prompts" in text
    first = text[: text.index("Setting the rate")]
    assert first.count("  - text: ") == first.count("  - ought to be: ") == 8
    whole = report.run(report.Config(examples=SHOW_ALL), folder).with_name("report.md").read_text()
    assert f"text: none: written for 30 of {found.test_rows:,} prompts" in whole


def test_commands_name_the_run_from_where_one_stands(run, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder.root.parent.parent)
    below = f"{folder.root.parent.name}/{folder.root.name}"
    text = report.run(report.Config(), RunFolder(folder.root)).with_name("report.md").read_text()
    assert f"demur chat {below}" in text
    assert f"demur report {below}" in text


def test_a_prompt_within_a_conversation_shows_what_came_before_it(made):
    folder, _, page = made
    turns = [e for e in read_examples(folder.split("test")) if len(e.prompt) > 1]
    text = page.with_name("report.md").read_text()
    assert turns
    assert text.count("  - before it: ") >= len(turns)
