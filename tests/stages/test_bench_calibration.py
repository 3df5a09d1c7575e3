"""Studies over runs of the fake engine, whose sharpness decides how good a model is."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau
from tests.browsing import opened
from tests.fake_run import HOSTILE, engine_for, examples, prepare

from demur.base.errors import ArtifactError, ConfigError, DataError
from demur.core.calibrator import closed
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.stages import calibrate
from demur.stages.bench_calibration import Config, ScoredModel, run
from demur.stages.bench_calibration.content import page_of, ranking_words, sentence
from demur.stages.bench_calibration.measurements import read_model_rows
from demur.stats.calibration.binned import cells
from demur.stats.calibration.proper import nll
from demur.stats.calibration.views import forecast, top_label
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.labelled import label_scores
from demur.store.results.study_file import CalibratorRanking, StandingRow, read_study
from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores

QUICK = Config(calibrators=("temperature", "platt", "isotonic"))
MEASUREMENTS = 10  # with 15 bins, or without


def scored(root, name, sharpness, rows):
    folder = prepare(root / name, rows, engine_for(rows, FakeEngine, sharpness))
    return ScoredModel(name=name, folder=folder, taxonomy=coconot())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root, rows = tmp_path_factory.mktemp("runs"), examples(every=3)
    return [scored(root, f"sharp {s}", s, rows) for s in (0.8, 1.4, 2.2, 4.0)]


@pytest.fixture(scope="module")
def made(models, tmp_path_factory):
    """(study, its folder, what progress told)"""
    out, told = tmp_path_factory.mktemp("study") / "out", []
    return run(QUICK, models, out, lambda done, total: told.append((done, total))), out, told


def test_every_calibrator_is_fitted_on_the_calibrate_rows_and_measured_on_the_test_rows(
    models, made
):
    found = {(m.model, m.calibrator): m for m in made[0].measured}
    assert set(found) == {(m.name, c) for m in models for c in ("none", *QUICK.calibrators)}
    model = models[1]
    split = {s: read_examples(model.folder.split(s)) for s in ("calibrate", "test")}
    rows = {
        s: label_scores(e, model.taxonomy, read_scores(model.folder.scores(s))[0])
        for s, e in split.items()
    }
    groups = [e.group for e in split["calibrate"]]
    platt = fit_calibrator("platt", rows["calibrate"], model.taxonomy, groups).calibrator
    logq_NC = closed(platt.apply(rows["test"].table.logp_NC))
    expected = nll(forecast(logq_NC, rows["test"].label_N)).value
    assert found[model.name, "platt"].errors["nll"] == pytest.approx(expected)


def test_six_questions_are_answered_each_with_its_number_or_the_reason_why_there_is_none(made):
    answers = made[0].answers
    assert len({a.question for a in answers}) == len(answers) == 6
    for answer in answers:
        assert (answer.figure is None) == (answer.verdict == "undefined") == bool(answer.why)
        words = sentence(answer)
        assert words.startswith(answer.question)
        assert answer.why in words if answer.figure is None else f"{answer.figure:.2f}" in words


def test_parts_too_small_to_measure_leave_the_question_about_them_open(made):
    carries_over = made[0].answers[4]
    assert "carry over" in carries_over.question
    assert (
        carries_over.why
        == f"parts by category with at least 150 test rows: {len(made[0].parts)}, 2 are needed"
    )


def test_parts_with_enough_rows_are_compared(tmp_path):
    halved = [replace(e, source=("one", "two")[len(e.group or e.id) % 2]) for e in examples()]
    models = [scored(tmp_path, f"m{s}", s, halved) for s in (0.8, 2.2, 4.0)]
    study = run(Config(calibrators=("temperature",), by="source"), models, tmp_path / "out")
    assert study.parts == ("one", "two")
    assert study.answers[4].figure == pytest.approx(
        kendalltau(*(errors_on(s, models) for s in study.parts)).statistic
    )


def errors_on(source, models):
    """ece_em_15 before calibration, on the test rows of one source."""
    found = []
    for model in models:
        rows = [e for e in read_examples(model.folder.split("test")) if e.source == source]
        labelled = label_scores(rows, model.taxonomy, read_scores(model.folder.scores("test"))[0])
        view = top_label(forecast(closed(labelled.table.logp_NC), labelled.label_N))
        found.append(cells(view, "mass", 15).error())
    return found


def test_the_matrix_of_correlations_is_symmetric_with_ones_on_its_diagonal(made):
    for correlation in made[0].correlations:
        tau = np.array(correlation.tau, dtype=float)
        assert tau.shape == (MEASUREMENTS, MEASUREMENTS)
        assert np.allclose(tau, tau.T)
        assert np.allclose(tau.diagonal(), 1.0)


def test_measurements_that_the_test_rows_cannot_bear_are_left_out(models, made):
    rows = min(m.test_rows for m in made[0].models)
    bins = [int(name.rpartition("_")[2]) for name in made[0].columns if name[-1].isdigit()]
    assert max(bins) <= rows / 10 < 100
    assert "ece_em_15" in made[0].columns


def test_runs_that_share_their_rows_are_one_kind_and_rank_nothing(made):
    study, out, _ = made
    assert {m.kind for m in study.models} == {1}
    for ranking in study.rankings:
        assert (ranking.cases, ranking.kinds, ranking.standings) == (4, 1, ())
    words = ranking_words(study.rankings[0])
    assert "of all 4 models is of one kind" in words
    assert f"{study.rankings[0].needed} kinds" in words
    page = (out / "study.md").read_text(encoding="utf-8").replace("\\", "")
    assert words in page
    assert "Ranking of the calibrators" not in page
    assert "4 models of 1 kind of data" in page


def apart(root, kinds, sharpness=0.8):
    """Scored runs of other data each: prompts, groups and sources differ."""
    made = []
    for kind in range(kinds):
        rows = [
            replace(
                e,
                id=f"{kind}:{e.id}",
                source=f"source {kind}",
                group=e.group and f"{kind}:{e.group}",
                messages=tuple(replace(m, content=f"set {kind}: {m.content}") for m in e.messages),
            )
            for e in examples(every=3)
        ]
        made.append(scored(root, f"data {kind}", sharpness, rows))
    return made


def test_runs_of_other_data_are_ranked_and_what_they_do_not_show_is_said(models, tmp_path):
    runs = apart(tmp_path / "runs", 2)
    study = run(QUICK, [*models[:2], *runs], tmp_path / "out")
    assert [m.kind for m in study.models] == [1, 1, 2, 3]
    for ranking in study.rankings:
        assert (ranking.cases, ranking.kinds) == (4, 3)
        assert {s.place for s in ranking.standings} == {1}
        ranks = [s.mean_rank for s in ranking.standings]
        assert ranks == sorted(ranks)
        assert "no calibrator is shown to be better than another over 3 kinds" in ranking_words(
            ranking
        )
    assert "4 models of 3 kinds of data" in (tmp_path / "out" / "study.md").read_text("utf-8")


def test_what_is_shown_is_said_pair_by_pair(made):
    better = StandingRow(place=1, calibrator="a", mean_rank=1.0, best_in=9)
    worse = StandingRow(place=2, calibrator="b", mean_rank=2.0, best_in=0, behind=("a",))
    ranking = CalibratorRanking(
        measurement="nll", cases=9, kinds=9, needed=6, standings=(better, worse)
    )
    assert "over 9 kinds of data, these are shown to be better: a than b." in ranking_words(ranking)
    study = made[0].model_copy(update={"rankings": (ranking,)})
    (table,) = [p for p in page_of(study).sections[1].parts if "Ranking" in p.title]
    assert ("b", "2", "2.00", "0") in table.rows


def test_a_calibrator_that_cannot_be_fitted_everywhere_is_told_and_not_ranked(models, tmp_path):
    rows = [e for e in examples(every=2) if not (e.category == "safety" and e.kind == "refusal")]
    lacking = prepare(
        tmp_path / "lacking", rows, engine_for(rows, FakeEngine), calibrate.Config(goal="natural")
    )
    study = run(
        QUICK,
        [*models, ScoredModel(name="lacking", folder=lacking, taxonomy=coconot())],
        tmp_path / "out",
    )
    failed = {(m.model, m.calibrator) for m in study.measured if m.failure}
    assert failed == {("lacking", "platt"), ("lacking", "isotonic")}
    assert study.rankings[0].cases == 5
    assert study.rankings[0].needed == 6, "one pair: none and temperature"
    text = (tmp_path / "out" / "study.md").read_text(encoding="utf-8")
    assert "platt was not fitted on lacking: none of" in text


def test_one_model_is_described_and_nothing_is_claimed_of_it(models, tmp_path):
    study = run(QUICK, models[:1], tmp_path)
    assert {a.verdict for a in study.answers} <= {"undefined", "yes", "no"}
    assert study.answers[0].why == "1 cases, at least 3 needed"
    assert study.rankings[0].standings == ()
    assert "All of this rests on 1 model of 1 kind of data:" in (tmp_path / "study.md").read_text(
        encoding="utf-8"
    )


def test_the_study_reads_back_and_holds_no_nan(made):
    study, out, _ = made
    assert read_study(out / "study.json") == study
    assert all(v is None or math.isfinite(v) for m in study.measured for v in m.errors.values())


def test_progress_counts_pairs_of_model_and_calibrator(made):
    assert made[2] == [(n, 16) for n in range(1, 17)]


def test_the_page_draws_without_errors_or_network_and_says_what_the_text_says(made, browser):
    study, out, _ = made
    page, logged, asked = opened(
        browser, out / "study.html", viewport={"width": 420, "height": 900}
    )
    assert (logged, asked) == ([], [(out / "study.html").as_uri()])
    assert page.locator("[data-plot]").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") == 420
    assert sentence(study.answers[0]) in page.locator("#questions").inner_text()


def test_the_name_of_a_run_cannot_become_markup(models, made):
    study = made[0]
    named = replace_names(study, models[0].name, HOSTILE)
    figure = page_of(named).sections[1].parts[0]
    assert all("<" not in name for name in figure.panels[0].spec["data"][0]["y"])


def replace_names(study, old, new):
    rows = {
        field: tuple(
            r.model_copy(update={key: new if getattr(r, key) == old else getattr(r, key)})
            for r in rows
        )
        for field, key, rows in (
            ("models", "name", study.models),
            ("measured", "model", study.measured),
        )
    }
    return study.model_copy(update=rows)


def test_no_run_an_unscored_run_and_too_few_test_rows_are_refused(models, tmp_path):
    with pytest.raises(DataError, match="no scored run"):
        run(QUICK, [], tmp_path)
    few = scored(tmp_path, "few", 2.0, examples(every=12))
    with pytest.raises(DataError, match=r"few has \d+ test rows, 15 bins need 150"):
        run(Config(calibrators=("none",)), [few], tmp_path / "out")
    shutil.rmtree(few.folder.stage("score"))
    with pytest.raises(ArtifactError, match="score is not finished"):
        run(QUICK, [few], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frequent_prompts_are_in_both_splits_and_measured_in_neither(tmp_path):
    plain = examples(every=6)
    often = replace(next(e for e in plain if e.kind == "benign"), count=200)
    rows = [often if e.id == often.id else e for e in plain]
    model = scored(tmp_path, "often", 2.2, rows)
    texts = {
        s: [e.text for e in read_examples(model.folder.split(s))] for s in ("calibrate", "test")
    }
    assert all(own.count(often.text) == 1 for own in texts.values())
    found = read_model_rows(model)
    assert [e.text for e in found.examples] == [t for t in texts["test"] if t != often.text]
    assert len(found.test.label_N) == len(found.examples)


def test_an_unknown_calibrator_gets_a_suggestion():
    with pytest.raises(ConfigError, match="unknown calibrator 'plat'") as error:
        Config(calibrators=("plat",))
    assert "'platt'" in error.value.hint
