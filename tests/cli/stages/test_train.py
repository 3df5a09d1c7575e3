"""What the terminal says when a training is done."""

from types import SimpleNamespace

import pytest

from demur.assembly import steps
from demur.cli.terminal import TERMINAL
from demur.core.ports import TrainedModel
from demur.core.taxonomy import single
from demur.core.training.settings import cpu
from demur.engines.fake.engine import FakeEngine
from demur.stages import train

DETAILS = {
    "validation_loss": 0.21,
    "validation_leftover": 0.004,
    "validation_rows": 1234,
    "best_step": 150,
    "language_tokens": 2500,
    "language_rows": 64,
}


@pytest.mark.parametrize(("change", "warned"), [(0.04, False), (0.3, True)])
def test_validation_and_language_are_said_and_a_loss_is_warned_of(
    monkeypatch, capsys, change, warned
):
    fingerprint = FakeEngine(taxonomy=single()).fingerprint
    details = DETAILS | {"language_change": change}
    made = TrainedModel(
        fingerprint=fingerprint, steps=200, history=(), row_change=(1.0, 1.0), details=details
    )
    monkeypatch.setattr(train, "run", lambda *_: made)
    config = SimpleNamespace(train=cpu(), engine="hf", taxonomy=single())
    work = SimpleNamespace(config=config, folder=None)
    assert steps.Steps(work, TERMINAL)._train(lambda done, total: None) is made
    said = capsys.readouterr().err
    assert "validation: log loss 0.210 and leftover mass 0.0040 on 1,234 rows, at step 150" in said
    assert f"language: {change:+.3f} nats a token" in said
    assert ("warning: the language suffers" in said) == warned
