"""What a report says of the training."""

from types import SimpleNamespace

import pytest

from demur.stages.report import figures

LOGGED = [
    {"step": 10.0, "loss": 2.0, "control_loss_share": 0.5},
    {"step": 20.0, "loss": 1.0, "control_loss_share": 0.4},
]
MEASURED = [{"step": 20.0, "validation_loss": 0.3, "validation_leftover": 0.01}]


def drawn(history):
    return figures.training(SimpleNamespace(model=SimpleNamespace(history=tuple(history))))


@pytest.mark.parametrize(("measured", "panels"), [([], 2), (MEASURED, 4)])
def test_validation_is_drawn_where_there_was_one(measured, panels):
    figure = drawn(LOGGED + measured)
    assert len(figure.panels) == panels
    assert len(figure.numbers.header) == 1 + panels
    assert figure.numbers.rows[-1][:3] == ("20", "1.000", "0.400")
    assert figure.numbers.rows[-1][3:] == (("0.300", "0.010") if measured else ())
    assert ("Validation" in figure.caption) == bool(measured)


def test_a_model_without_a_history_has_no_figure():
    assert drawn([]) is None
