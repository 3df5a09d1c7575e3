"""Fixed inputs and the numbers that reference implementations returned on them."""

import json
from pathlib import Path

import numpy as np

from demur.core.calibrator import closed
from demur.stats.calibrators.rows import FitRows

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "calibrators.json").read_text(encoding="utf-8")
)
BINARY, MULTICLASS, H, CORRECTNESS = (
    GOLDEN[k] for k in ("binary", "multiclass", "h", "correctness_aware")
)

LABEL_N = np.array(GOLDEN["y_cal"])
CLOSED_NC = closed(GOLDEN["logits_cal"])
TEST_NC = closed(GOLDEN["logits_test_first10"])
SCORE_N = np.array(GOLDEN["binary_scores"])
EVENT_N = np.array(GOLDEN["binary_labels"]) == 1
GRID = np.array(GOLDEN["grid"])


def log_odds(p):
    return np.log(p) - np.log1p(-np.asarray(p))


LOG_ODDS_N = log_odds(SCORE_N)
LOG_ODDS_GRID = log_odds(np.array(GOLDEN["grid_for_logits"]))


def fit_rows_of(closed_NC, label_N):
    return FitRows(
        closed_NC=closed_NC,
        label_N=np.asarray(label_N),
        group_N=np.arange(len(label_N)),
        choices=tuple(f"choice {c}" for c in range(closed_NC.shape[1])),
    )


ROWS = fit_rows_of(CLOSED_NC, LABEL_N)
PAIR_ROWS = fit_rows_of(
    closed(np.stack([0.0 * LOG_ODDS_N, LOG_ODDS_N], axis=1)), EVENT_N.astype(int)
)


def near(found, expected, tolerance):
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance
    return True


def expit(x):
    return 1.0 / (1.0 + np.exp(-np.asarray(x)))
