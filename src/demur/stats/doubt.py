"""The rule for doubt, measured on calibration scores, and the check that a model has learnt its
control tokens.

Source of the numbers: docs/decisions/0010-doubt-is-leftover-mass.md.
"""

from __future__ import annotations

import numpy as np

from demur.base.errors import ScoreError
from demur.core.fingerprint import Fingerprint
from demur.core.policy import MOST_LEFTOVER, DoubtRule, OnDoubt
from demur.core.score import ScoreTable

# of the calibration rows: that quantile of their leftover mass is what ordinary prompts have
SHARE = 0.99
# times as much is doubt: about one ordinary prompt in a thousand, and nearly all padded ones
MARGIN = 2.0
LEAST = 0.01  # a lower bound would call rounding and other hardware doubt


def measured_rule(table: ScoreTable, fingerprint: Fingerprint, then: OnDoubt) -> DoubtRule:
    """Measure the rule for doubt: MARGIN times the SHARE quantile of leftover mass, from LEAST to
    MOST_LEFTOVER.

    Labels are not looked at. A predictor's two probabilities sum to 1: the default bound stands,
    and never applies.
    """
    if fingerprint.predicted:
        return DoubtRule(then=then)
    usual = float(np.quantile(table.leftover_N.astype(np.float64), SHARE, method="higher"))
    return DoubtRule(
        most_leftover=round(min(max(MARGIN * usual, LEAST), MOST_LEFTOVER), 4), then=then
    )


def require_trained(table: ScoreTable) -> None:
    """Raise ScoreError where most of the probability lies on no control token: thresholds would
    mean nothing.

    Half of the rows would be in doubt under any bound. Half-trained models leave .9 and more, one
    epoch on a pretrained model left .05.
    """
    median = float(np.median(table.leftover_N))
    if median > MOST_LEFTOVER:
        raise ScoreError(
            f"half of the {len(table.ids)} calibrate rows have {median:.0%} or more of their "
            f"probability outside the control tokens, expected at most {MOST_LEFTOVER:.0%}: the "
            "model has not learnt to begin with one",
            "train longer, or with the chat template that prompts are rendered with; demur doctor "
            "looks closer",
        )
