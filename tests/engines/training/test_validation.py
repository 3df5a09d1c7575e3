"""Validation rows: never learnt, measured as they are decided, and the best weights are what is
left.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from demur.base.errors import EngineError
from demur.core.rows.splitting import hold_out
from demur.core.training.settings import TrainSettings
from demur.engines.hf.engine import HfEngine
from demur.engines.training import sft
from demur.engines.training.sft import SftTrainer
from demur.engines.training.validation import Validation, ValidationLoss
from tests.engines.training.test_sft import TAXONOMY, base, rows, settings

WAYS = {
    "from scratch": {},
    "full": {"optimizer": "adamw", "learning_rate": 1e-2},
    "lora": {"optimizer": "adamw", "lora_rank": 4, "learning_rate": 1e-2},
    "frozen": {"optimizer": "adamw", "frozen_share": 0.5, "learning_rate": 1e-2},
    "packed": {
        "packing": True,
        "batch_tokens": None,
        "rows_per_device": 1,
        "max_length": 128,
        "balance": "none",
    },
    "rows": {"batch_tokens": None, "rows_per_device": 8},
}


def chosen(folder: Path, way: str, **changes: object) -> TrainSettings:
    on = {} if way == "from scratch" else {"base": base(folder / "base", tied=True)}
    usual = {
        "validation_share": 0.3,
        "evaluate_every": 4,
        "balance": "class",
        "reply_share": 0.5,
        "epochs": 12.0,
    }
    return settings(**{**usual, **on, **WAYS[way], **changes})


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_is_validated_alike(tmp_path: Path, way: str) -> None:
    result = SftTrainer(chosen(tmp_path, way, patience=100)).train(rows(), TAXONOMY, tmp_path)
    assert result is not None
    assert (result.details["rows"], result.details["validation_rows"]) == (21, 9)
    measured = [row for row in result.history if "validation_loss" in row]
    assert [row["step"] for row in measured[:-1]] == list(range(4, 4 * len(measured), 4))
    assert measured[-1]["step"] == result.steps
    best = min(measured, key=lambda row: row["validation_loss"])
    assert result.details["best_step"] == best["step"]
    assert (
        result.details["validation_loss"]
        == best["validation_loss"]
        < measured[0]["validation_loss"]
    )
    assert 0 <= result.details["validation_leftover"] <= 1
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("way", ["full", "frozen", "lora"])
def test_what_is_measured_is_what_the_checkpoint_decides(tmp_path: Path, way: str) -> None:
    asked = chosen(tmp_path, way, patience=100)
    result = SftTrainer(asked).train(rows(), TAXONOMY, tmp_path)
    assert result is not None
    aside = hold_out(rows(), asked.validation_share, asked.seed)[1]
    logp_NC = HfEngine(model=tmp_path / "model", tokens=TAXONOMY.tokens).logp(
        [e.prompt for e in aside]
    )
    loss = -sum(
        logp[TAXONOMY.column(e.label)] for e, logp in zip(aside, logp_NC, strict=True)
    ) / len(aside)
    # frozen states are bfloat16
    assert loss == pytest.approx(result.details["validation_loss"], abs=0.02)
    leftover = 1 - torch.tensor(logp_NC).exp().sum(dim=1).mean()
    assert float(leftover) == pytest.approx(result.details["validation_leftover"], abs=0.02)


def test_no_validation_row_is_in_a_training_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = chosen(tmp_path, "frozen")
    made: list[tuple[list[list[int]], list[list[int]]]] = []
    real = sft.SftTrainer._own_batches

    def noted(self, prepared, state, weights):
        made.append(([r.input_ids for r in prepared.rows], [r.input_ids for r in prepared.aside]))
        own = real(self, prepared, state, weights)
        read = {index % len(prepared.rows) for batch in own.batches for index in batch}
        assert read == set(range(len(prepared.rows)))
        assert len(own.rows) == len(prepared.rows)
        return own

    monkeypatch.setattr(sft.SftTrainer, "_own_batches", noted)
    SftTrainer(asked).train(rows(), TAXONOMY, tmp_path)
    ((learnt, aside),) = made
    assert len(aside) == 9
    assert not [a for a in aside for ids in learnt if ids[: len(a) - 1] == a[:-1]]


@pytest.mark.parametrize("way", ["from scratch", "full", "lora", "frozen"])
def test_the_best_weights_are_put_back_and_training_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def worse_after_eight(self: Validation, step: int) -> ValidationLoss:
        kept[step] = {name: p.clone() for name, p in self._learnt().items()}
        return ValidationLoss(step=step, loss=abs(step - 8) + 1.0, leftover=0.0)

    real = Validation.finish

    def finish(self: Validation) -> ValidationLoss:
        best = real(self)
        assert all(torch.equal(p, kept[8][name]) for name, p in self._learnt().items())
        assert any(not torch.equal(p, kept[20][name]) for name, p in self._learnt().items())
        return best

    monkeypatch.setattr(Validation, "_decided", worse_after_eight)
    monkeypatch.setattr(Validation, "finish", finish)
    result = SftTrainer(chosen(tmp_path, way, patience=3)).train(rows(), TAXONOMY, tmp_path)
    assert result is not None
    assert (result.steps, result.details["best_step"]) == (20, 8)


def test_a_killed_training_still_knows_its_best_weights(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(step: int, total: int) -> None:
        if step == total - 2:
            raise KilledError

    asked = chosen(tmp_path, "frozen", save_every=3, patience=100, epochs=6.0)
    whole = SftTrainer(asked).train(rows(), TAXONOMY, tmp_path / "whole")
    with pytest.raises(KilledError):
        SftTrainer(asked).train(rows(), TAXONOMY, tmp_path / "killed", kill)
    resumed = SftTrainer(asked).train(rows(), TAXONOMY, tmp_path / "killed")
    assert whole is not None
    assert resumed is not None
    assert resumed.details == whole.details
    one, other = (
        AutoModelForCausalLM.from_pretrained(tmp_path / n / "model") for n in ("whole", "killed")
    )
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_a_training_that_diverges_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    monkeypatch.setattr(
        Validation, "_decided", lambda _, step: ValidationLoss(step=step, loss=nan, leftover=nan)
    )
    with pytest.raises(EngineError, match="diverged"):
        SftTrainer(chosen(tmp_path, "from scratch", epochs=2.0)).train(rows(), TAXONOMY, tmp_path)


def test_rows_that_do_not_fit_cannot_validate(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"none of|of which none fits"):
        SftTrainer(replace(chosen(tmp_path, "full"), max_length=8)).train(
            rows(), TAXONOMY, tmp_path
        )
