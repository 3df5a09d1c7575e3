"""The rows that a training learns from, and those it validates on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from demur.core.example import Example
from demur.core.rows.rewrites import rewritten_rows
from demur.core.rows.splitting import hold_out
from demur.core.training.settings import TrainSettings


def learning_rows(
    examples: Sequence[Example], settings: TrainSettings
) -> tuple[list[Example], list[Example]]:
    """Split off the validation rows, and add rewrites to the others: (rows to learn from, rows to
    validate on).

    Validation rows are never rewritten.
    """
    learnt, aside = hold_out(examples, settings.validation_share, settings.seed)
    return [
        *learnt,
        *rewritten_rows(learnt, settings.rewrites, settings.rewritten_share, settings.seed),
    ], aside
