"""Checks of models for `demur doctor`, and models of constant behaviour to compare with.

The checks are the engines' own, imported when they are called: they need torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from demur.assembly.wiring import explain_missing_extra
from demur.core.taxonomy import Taxonomy
from demur.core.training.readiness import Readiness
from demur.core.training.settings import TrainSettings
from demur.engines.fake.constant import (
    always_refuse,
    answer_then_refuse,
    never_refuse,
    refuse_then_answer,
)

if TYPE_CHECKING:
    from demur.engines.fake.constant import ConstantModel

_WHAT = "looking at a model"

# Models that behave the same for every prompt: any measure of refusals must tell them apart.
SUBJECTS: dict[str, Callable[[Taxonomy], ConstantModel]] = {
    "always-refuse": always_refuse,
    "never-refuse": never_refuse,
    "refuse-then-answer": refuse_then_answer,
    "answer-then-refuse": answer_then_refuse,
}


def model_readiness(model: str, *, dtypes: bool, **declared: Any) -> Readiness:
    """Examine a trained model. declared: fields of its demur.json, see demur.engines.hf.doctor.

    dtypes: also compare the scores of several number formats.
    """
    with explain_missing_extra(_WHAT):
        from demur.engines.hf.doctor import Examination, examine

    return examine(Examination(model=model, dtypes=dtypes, **declared))


def base_readiness(taxonomy: Taxonomy, settings: TrainSettings, rows: int) -> Readiness:
    """Estimate what training of `settings.base` on so many rows will do and cost."""
    with explain_missing_extra(_WHAT):
        from demur.engines.training.base_model.doctor import BaseCase, examine_base

    return examine_base(
        BaseCase(base=settings.base, taxonomy=taxonomy, settings=settings, rows=rows)
    )


def is_base(model: str, tokens: tuple[str, ...]) -> bool:
    """Whether a model is one to train from: none of these control tokens is in its tokenizer."""
    with explain_missing_extra(_WHAT):
        from demur.engines.training.base_model import doctor

    return doctor.is_base(model, tokens)


def has_gpu() -> bool:
    """Whether torch finds a CUDA device."""
    with explain_missing_extra(_WHAT):
        from demur.engines.hf.load import on_gpu

    return on_gpu()
