"""The chapters of a study's page, in order."""

from __future__ import annotations

import html
from collections.abc import Sequence

from demur.pages.drawing import ANSWER, PAGE, REFUSE, small_plot
from demur.pages.parts import Cell, Figure, Page, Panel, Section, Spec, Table
from demur.store.results.study_file import AnswerRow, CalibratorRanking, StudyFile

FEW_KINDS = 10  # fewer orders than this are often equal by chance
_NAMES = (
    "ece and mce: mean and largest gap between probability and frequency, bins of equal width; "
    "ece_em: of equal mass; cwce, cwce_em: the same, mean over control tokens; the number is that "
    "of the bins. ks, kde, mmce: without bins. nll, brier: log loss and Brier score, which count "
    "sharpness too"
)


def page_of(study: StudyFile) -> Page:
    """Write the page of a study."""
    return Page(
        made_by="demur bench calibration",
        title="Calibration study",
        headline=_headline(study),
        sections=(
            Section(
                key="questions",
                title="Six questions",
                parts=(_questions(study),),
                text=(*(sentence(a) for a in study.answers), *_caution(study)),
            ),
            Section(
                key="calibrators",
                title="Which calibrator",
                parts=(*_rankings(study), _errors(study)),
                text=tuple(map(ranking_words, study.rankings)),
            ),
            Section(key="measurements", title="Which measurement", parts=(_correlations(study),)),
            Section(
                key="models",
                title="What was compared",
                parts=(_models(study),),
                text=tuple(
                    f"{m.calibrator} was not fitted on {m.model}: {m.failure}."
                    for m in study.measured
                    if m.failure
                ),
            ),
        ),
    )


def sentence(answer: AnswerRow) -> str:
    """A question and its answer, with the figure behind it and the range of that figure's parts."""
    if answer.figure is None:
        return f"{answer.question} Not known: {answer.why}."
    # The figure summarises the details (a median, mean or minimum): name the two ends of these.
    spread = ""
    known = sorted((value, name) for name, value in answer.details.items() if value is not None)
    if len(known) > 1:
        (low, lowest), (high, highest) = known[0], known[-1]
        spread = f" From {low:.2f} ({lowest}) to {high:.2f} ({highest})."
    return (
        f"{answer.question} {answer.verdict.capitalize()}: {answer.figure:.2f}, "
        f"{answer.meaning}.{spread}"
    )


def ranking_words(ranking: CalibratorRanking) -> str:
    """What a ranking shows, and of how many kinds of data."""
    by, of = f"By {ranking.measurement}", _counted(ranking.kinds, "kind")
    if not ranking.standings:
        return (
            f"{by} nothing is ranked: the data of all {_counted(ranking.cases, 'model')} is of one "
            "kind (they share sources or prompts, directly or over others), and one kind says "
            f"nothing of others. {ranking.needed} kinds that all agree tell two calibrators apart."
        )
    pairs = [f"{b} than {s.calibrator}" for s in ranking.standings for b in s.behind]
    if not pairs:
        return (
            f"{by}, no calibrator is shown to be better than another over {of} of data; "
            f"{ranking.needed} that all agree tell two apart."
        )
    return f"{by}, over {of} of data, these are shown to be better: {', '.join(pairs)}."


def mean_errors(study: StudyFile) -> list[tuple[str, str]]:
    """Each calibrator with the mean of the headline error over the models where it is defined."""
    measurement, rows = study.rankings[0].measurement, list[tuple[str, str]]()
    for calibrator in study.calibrators:
        errors = [m.errors.get(measurement) for m in study.measured if m.calibrator == calibrator]
        known = [error for error in errors if error is not None]
        rows.append((calibrator, _number(sum(known) / len(known) if known else None)))
    return rows


def _caution(study: StudyFile) -> tuple[str, ...]:
    """A warning that few kinds of data allow no rule about others; empty with FEW_KINDS or more."""
    kinds = len({m.kind for m in study.models})
    if kinds >= FEW_KINDS:
        return ()
    return (
        f"All of this rests on {_counted(len(study.models), 'model')} of "
        f"{_counted(kinds, 'kind')} of data: read it as a description of them, not as a rule about "
        "others.",
    )


def _headline(study: StudyFile) -> str:
    return (
        f"{_counted(len(study.models), 'model')} under "
        f"{_counted(len(study.calibrators), 'calibrator')}, {len(study.columns)} measurements "
        "each, on test rows that no calibrator was fitted on. "
        f"{ranking_words(study.rankings[0])}"
    )


def _questions(study: StudyFile) -> Table:
    return Table(
        title="The figures",
        header=("question", "answer", "what the figure is", "figure"),
        rows=tuple((a.question, a.verdict, a.meaning, _number(a.figure)) for a in study.answers),
        text_columns=3,
        caption="yes from 0.7 on, partly from 0.3 on. The questions are those of A Benchmark "
        "Study on Calibration (arXiv 2308.11838), asked of refusal scores.",
    )


def _rankings(study: StudyFile) -> tuple[Table, ...]:
    """The standings by each measurement; none where one kind of data ranks nothing."""
    # Per ranking a row of one cell, its heading, then a row per calibrator.
    rows: list[tuple[Cell, ...]] = []
    for r in study.rankings:
        if r.standings:
            models, kinds = _counted(r.cases, "model"), _counted(r.kinds, "kind")
            rows += [(f"by {r.measurement}: {models} of {kinds} of data",)]
        rows += [
            (s.calibrator, str(s.place), f"{s.mean_rank:.2f}", str(s.best_in)) for s in r.standings
        ]
    if not rows:
        return ()
    table = Table(
        title="Ranking of the calibrators",
        header=("calibrator", "place", "mean rank", "none better, in kinds"),
        rows=tuple(rows),
        caption="Those that could be fitted on every model, by their mean error in each kind of "
        "data. Place: one more than the calibrators that are shown to be better, so 1 where none "
        "is. Shown: exact sign test over kinds, all pairs together at 5% for each measurement "
        "(Holm). The mean rank describes these kinds.",
    )
    return (table,)


def _errors(study: StudyFile) -> Figure:
    """The headline error of every pair of model and calibrator, as a heat map and as a table."""
    measurement = study.rankings[0].measurement
    found = {(m.model, m.calibrator): m.errors.get(measurement) for m in study.measured}
    models, calibrators = [m.name for m in study.models], study.calibrators
    # M models x L calibrators; None where a calibrator could not be fitted.
    error_ML = [[found[m, c] for c in calibrators] for m in models]
    spec = _heat(calibrators, models, error_ML, [[0, PAGE], [1, REFUSE]], "3f")
    return Figure(
        title=f"{measurement} by model and calibrator",
        caption="Smaller and paler is better; an empty cell could not be fitted or measured.",
        panels=(Panel(label="error by model and calibrator", spec=spec),),
        numbers=Table(
            title=measurement,
            header=("model", *calibrators),
            rows=tuple(
                (m, *map(_number, error_L)) for m, error_L in zip(models, error_ML, strict=True)
            ),
        ),
    )


def _correlations(study: StudyFile) -> Figure:
    """Kendall's tau between the measurements, a heat map per set of cases."""
    panels, rows = [], list[tuple[Cell, ...]]()
    for c in study.correlations:
        spec = _heat(c.columns, c.columns, c.tau, [[0, REFUSE], [0.5, PAGE], [1, ANSWER]], "2f")
        # Fixed ends, so that the middle of the colour scale is tau = 0.
        spec["data"][0] |= {"zmin": -1, "zmax": 1}
        panels.append(Panel(label=f"over {c.over}", spec=spec))
        rows.append((f"over {c.over}",))
        rows += [(name, *map(_number, tau)) for name, tau in zip(c.columns, c.tau, strict=True)]
    return Figure(
        title="Correlation of the measurements",
        caption="Kendall's tau: 1 where two measurements put the cases in the same order, 0 where "
        f"one says nothing of the other, empty where there are too few cases. {_NAMES}.",
        panels=tuple(panels),
        numbers=Table(
            title="Kendall's tau",
            header=("measurement", *study.correlations[0].columns),
            rows=tuple(rows),
        ),
    )


def _heat(
    x: Sequence[str],
    y: Sequence[str],
    z: Sequence[Sequence[float | None]],
    colours: list[list[object]],
    digits: str,
) -> Spec:
    """A heat map with its numbers in it. digits: d3's format of a number, such as "3f". Names are
    escaped because plotly reads some markup in labels.
    """
    # z has a row per y; None is drawn as an empty cell.
    heat = {
        "type": "heatmap",
        "x": [html.escape(name) for name in x],
        "y": [html.escape(name) for name in y],
        "z": [list(row) for row in z],
        "texttemplate": f"%{{z:.{digits}}}",
        "textfont": {"size": 10},
        "colorscale": colours,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": f"%{{y}}, %{{x}}: %{{z:.{digits}}}<extra></extra>",
    }
    plain = {"type": "category", "showgrid": False, "ticks": ""}
    spec = small_plot([heat], {**plain, "tickangle": -45}, {**plain, "autorange": "reversed"})
    spec["layout"]["height"] = 130 + 30 * len(y)
    return spec


def _models(study: StudyFile) -> Table:
    return Table(
        title="Models",
        header=("run", "kind of data", "calibrate rows", "test rows", "accuracy", "AUROC"),
        rows=tuple(
            (
                m.name,
                str(m.kind),
                f"{m.calibrate_rows:,}",
                f"{m.test_rows:,}",
                f"{m.accuracy:.1%}",
                _number(m.auroc),
            )
            for m in study.models
        ),
        caption="Accuracy is that of the most probable control token, AUROC that of refusing at "
        "all, both before calibration. Runs that share a source or a prompt have one kind of data.",
    )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _number(value: float | None) -> str:
    return (
        "not defined" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.2e}"
    )
