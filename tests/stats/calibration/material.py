"""The golden inputs as forecasts and views, and simulated ones whose true probabilities are
known.
"""

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from demur.stats.calibration.views import binary_view, forecast, top_label

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "metrics.json").read_text(encoding="utf-8")
)
STAGES = ("pre", "post")


def log_softmax(logits_NC):
    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    return logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]


def golden_forecast(stage):
    temperature = GOLDEN["temperature"] if stage == "post" else 1.0
    return forecast(
        log_softmax(np.array(GOLDEN["inputs"]["logits_test"]) / temperature),
        np.array(GOLDEN["inputs"]["y_test"]),
    )


def golden_top(stage):
    return top_label(golden_forecast(stage))


def golden_binary():
    return binary_view(
        "binary", GOLDEN["inputs"]["binary_scores"], GOLDEN["inputs"]["binary_labels"]
    )


def calibrated_view(n, seed):
    rng = np.random.default_rng(seed)
    p_N = rng.random(n)
    return binary_view("calibrated", p_N, rng.random(n) < p_N)


def simulated(n, seed, columns=6):
    """Log-probabilities and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logp_NC = log_softmax(rng.normal(size=(n, columns)) * 2)
    label_N = (np.exp(logp_NC).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logp_NC, label_N


@st.composite
def views(draw, min_rows=1, max_rows=40, ties=True):
    """Pairs with many ties, or none."""
    n = draw(st.integers(min_rows, max_rows))
    grid = st.integers(0, 8 if ties else 10**6)
    p_N = np.array(draw(st.lists(grid, min_size=n, max_size=n, unique=not ties))) / (
        8 if ties else 10**6
    )
    return binary_view(
        "drawn", p_N, np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    )
