"""Control tokens that start at a linear probe decide before anything was trained, with next to
nothing left over.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from demur.base.errors import ConfigError, EngineError
from demur.core.training.settings import TrainSettings
from demur.engines.hf.engine import HfEngine
from demur.engines.training.batches import TrainingRow
from demur.engines.training.probe_start import MARGIN, fitted, probe_rows
from demur.engines.training.sft import SftTrainer
from tests.engines.training.test_frozen_layers import frozen
from tests.engines.training.test_sft import TAXONOMY, rows


@given(seed=st.integers(0, 2**16), classes=st.integers(2, 6), rest=st.floats(-30, 60))
@hypothesis_settings(deadline=None, max_examples=25)
def test_groups_that_lie_apart_are_told_apart_above_the_rest(seed, classes, rest):
    g = torch.Generator().manual_seed(seed)
    centre_Cd = 3 * torch.randn(classes, 24, generator=g) + 1
    column_N = torch.arange(60 * classes) % classes
    hidden_Nd = centre_Cd[column_N] + torch.randn(len(column_N), 24, generator=g)
    others_N = torch.full((len(column_N),), rest)
    logits_NC = hidden_Nd @ fitted(hidden_Nd, column_N, others_N).T
    assert float((logits_NC.argmax(dim=1) == column_N).float().mean()) > 0.95
    above_N = torch.logsumexp(logits_NC, dim=1) - others_N
    # the penalty on the rows takes a part of the margin, the more the higher the rest lies
    assert float(above_N.median()) > 0.75 * MARGIN


def test_a_training_of_one_small_step_decides_as_the_probe_does(tmp_path):
    chosen = frozen(tmp_path, control_start="probe", epochs=0.01, learning_rate=1e-9)
    SftTrainer(chosen).train(rows(), TAXONOMY, tmp_path / "run")
    engine = HfEngine(model=tmp_path / "run" / "model", tokens=TAXONOMY.tokens)
    logp_NC = torch.as_tensor(engine.logp([e.prompt for e in rows()]))
    wanted_N = torch.tensor([TAXONOMY.column(e.label) for e in rows()])
    assert float((logp_NC.argmax(dim=1) == wanted_N).float().mean()) > 0.9
    assert float(1 - logp_NC.exp().sum(dim=1).mean()) < 0.05


def test_a_control_token_without_a_row_is_an_error_that_names_it():
    row = TrainingRow(input_ids=[1, 2, 7], labels=[-100, -100, 7])
    with pytest.raises(EngineError, match=r"ids \[8\]"):
        probe_rows(None, [torch.zeros(3, 4)], [row], (7, 8), seed=0)


def test_it_needs_states_that_are_kept():
    with pytest.raises(ConfigError, match=r"without train\.frozen_share"):
        replace(TrainSettings(base="x"), control_start="probe")
