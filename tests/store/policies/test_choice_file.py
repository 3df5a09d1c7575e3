import pytest

from demur.base.errors import ArtifactError
from demur.store.policies.choice_file import CalibratorChoice, TrialRow, read_choice, write_choice

TRIAL = TrialRow(
    family="platt",
    log_loss=None,
    brier=None,
    behind=None,
    noise=None,
    failure="in a fold: too few rows",
)
CHOICE = CalibratorChoice(
    asked="auto",
    family="none",
    why="none: it is enough",
    notes=("one",),
    share=0.4,
    seed=1,
    fitted_on=40,
    left=60,
    trials=(TRIAL,),
)


def test_a_choice_reads_back_as_it_was_written(tmp_path):
    write_choice(tmp_path / "calibrator.json", CHOICE)
    assert read_choice(tmp_path / "calibrator.json") == CHOICE


def test_no_file_means_that_no_calibrator_was_asked_for(tmp_path):
    assert read_choice(tmp_path / "calibrator.json") is None


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "calibrator.json"
    path.write_text('{"format": "demur.calibrator/1", "famly": "platt"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"calibrator\.json: famly: unknown key"):
        read_choice(path)
