from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import DataError
from demur.stats.calibration.metrics import COLUMNS, Column, measure
from demur.stats.calibration.study import HEADLINE, Study, answer_questions, table_row
from demur.stats.calibration.views import forecast
from tests.stats.calibration.material import log_softmax, simulated

SHARPNESS = (0.5, 0.8, 1.0, 1.3, 1.8, 2.5, 3.5, 5.0)  # of models: true log-odds times this


def of(row, **changes):
    """A study of 8 models in 2 subsets under 2 calibrators, of which value = `row` for each model
    if given.
    """
    value = np.tile(np.asarray(row, dtype=float)[None, :, None, None], (2, 1, 2, len(COLUMNS)))
    study = Study(
        subsets=("one", "two"),
        models=tuple(f"m{i}" for i in range(8)),
        calibrators=("none", "temperature"),
        columns=COLUMNS,
        value_DMLT=value,
        accuracy_DM=np.tile(np.linspace(0.5, 0.9, 8), (2, 1)),
        auroc_DM=np.tile(np.linspace(0.6, 0.95, 8), (2, 1)),
    )
    return replace(study, **changes)


def measured():
    """Real measurements: models that sharpen the truth too much or too little, and their repair."""
    rows = []
    for subset in (0, 1):
        logp_NC, label_N = simulated(1500, subset)
        rows.append(
            [
                [
                    table_row(measure(forecast(log_softmax(logp_NC * sharp), label_N)), COLUMNS)
                    for sharp in (sharpness, 1.0 + (sharpness - 1.0) / 10)
                ]
                for sharpness in SHARPNESS
            ]
        )
    return of(np.ones(8), value_DMLT=np.array(rows))


def by_question(study):
    return {a.question: a for a in answer_questions(study)}


def test_six_questions_are_answered_with_a_number_each():
    found = answer_questions(measured())
    assert len({a.question for a in found}) == 6
    assert all(a.figure.defined and a.meaning and a.details for a in found)


def test_real_miscalibration_is_seen_alike_by_the_measurements_and_on_both_subsets():
    found = by_question(measured())
    assert found["Do the measurements agree?"].figure.value > 0.7
    assert found["Does calibration carry over to other prompts?"].verdict == "yes"
    helped = found["Does calibration help every model alike?"]
    # all but the model that was right already
    assert 0.7 <= helped.details["temperature"].value < 1


def test_the_number_of_bins_matters_more_after_calibration_than_before():
    details = by_question(measured())["Does the number of bins matter?"].details
    raw = np.mean([f.value for name, f in details.items() if name.endswith("none")])
    after = np.mean([f.value for name, f in details.items() if name.endswith("temperature")])
    assert after > raw


def test_accurate_models_that_are_better_calibrated_give_a_yes():
    found = by_question(of(np.linspace(0.4, 0.1, 8)))["Are accurate models better calibrated?"]
    assert (found.verdict, found.figure.value) == ("yes", pytest.approx(1))
    worse = by_question(of(np.linspace(0.1, 0.4, 8)))["Are accurate models better calibrated?"]
    assert (worse.verdict, worse.figure.value) == ("no", pytest.approx(-1))


def test_the_better_half_can_answer_otherwise():
    found = by_question(of([0.8, 0.7, 0.6, 0.5, 0.1, 0.2, 0.3, 0.4]))[
        "Are accurate models better calibrated?"
    ]
    assert found.details["the more accurate half"].value == pytest.approx(-1)
    assert found.figure.value > 0


def test_what_cannot_be_known_is_undefined_with_the_reason():
    alone = of(np.ones(8))  # every model alike
    assert {a.verdict for a in answer_questions(alone)} == {"undefined", "no"}
    assert all(a.figure.why for a in answer_questions(alone) if a.verdict == "undefined")
    one = replace(
        alone,
        subsets=("one",),
        value_DMLT=alone.value_DMLT[:1],
        accuracy_DM=np.ones((1, 8)),
        auroc_DM=np.ones((1, 8)),
    )
    assert (
        by_question(one)["Does calibration carry over to other prompts?"].figure.why
        == "there is nothing to compare"
    )


def test_no_answer_ever_holds_a_nan():
    broken = measured()
    broken.value_DMLT[:, :3] = np.nan
    broken.value_DMLT[..., COLUMNS.index(Column(family="kde"))] = np.nan
    for answer in answer_questions(broken):
        for figure in (answer.figure, *answer.details.values()):
            assert figure.number is None or np.isfinite(figure.number)


def test_undefined_figures_become_nan_in_the_table_only():
    logp_NC, _ = simulated(50, 3)
    row = table_row(measure(forecast(logp_NC, np.full(50, 5))), COLUMNS)
    assert row.shape == (50,)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ("m0",)},
        {"accuracy_DM": np.ones((1, 8))},
        {
            "columns": tuple(c for c in COLUMNS if c != HEADLINE),
            "value_DMLT": np.ones((2, 8, 2, 49)),
        },
        {"subsets": (), "value_DMLT": np.ones((0, 8, 2, 50)), "accuracy_DM": np.ones((0, 8))},
    ],
)
def test_tables_that_do_not_fit_their_names_are_refused(changes):
    with pytest.raises(DataError):
        of(np.ones(8), **changes)
