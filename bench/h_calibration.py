"""h-calibration at 10,000 prompts and 6 control tokens: CPU seconds to fit, and what it gains on
new prompts.

Usage: python bench/h_calibration.py [--prompts 10000]

Every published map family in its default size beside temperature scaling, one thread. Then 100
steps of the default beside the same 100 steps by torch's automatic differentiation, with the
largest difference between the two losses. Log loss in nats per prompt on as many new prompts;
"truth" is what knowing the true probabilities gives.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np

from demur.core.calibrator import closed
from demur.stats.calibrators.adam import Adam
from demur.stats.calibrators.h.fit import HSettings, fit_h
from demur.stats.calibrators.h.loss import HLoss, h_loss
from demur.stats.calibrators.h.maps import Form, trainable
from demur.stats.calibrators.rows import FitRows, FittedMap
from demur.stats.calibrators.temperature import fit_temperature

FORMS: tuple[tuple[Form, int], ...] = (("linear", 16), ("piecewise", 10), ("umnn", 10))
STEPS = 100
Result = TypeVar("Result")


def simulated(prompts: int, seed: int) -> tuple[FitRows, float]:
    """Scores twice too confident, most prompts to be answered; and the log loss of the true
    probabilities.
    """
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(size=(prompts, 6)) * 1.5 + np.array([2.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    truth_NC = closed(logits_NC)
    label_N = (
        (rng.random(prompts)[:, None] > np.exp(truth_NC).cumsum(axis=1)).sum(axis=1).clip(0, 5)
    )
    choices = ("respond", "a", "b", "c", "d", "e")
    rows = FitRows(
        closed_NC=closed(2.0 * logits_NC),
        label_N=label_N,
        group_N=np.arange(prompts),
        choices=choices,
    )
    return rows, log_loss(truth_NC, label_N)


def log_loss(logq_NC: np.ndarray, label_N: np.ndarray) -> float:
    """Mean over prompts."""
    return -float(logq_NC[np.arange(len(label_N)), label_N].mean())


def ours(rows: FitRows, start_P: np.ndarray) -> list[float]:
    """Losses of the first steps, gradients by hand."""
    family, adam, losses = trainable("linear", 16, rows.closed_NC), Adam(start_P, 0.005), []
    for _ in range(STEPS):
        q_NC, back = family.value(adam.theta_P)
        loss, by_q_NC = h_loss(q_NC, rows.label_N, HLoss(weighting="unweighted"))
        losses.append(loss)
        adam.step(1e5 * back(by_q_NC))
    return losses


def by_torch(rows: FitRows, start_P: np.ndarray) -> list[float]:
    """The same by automatic differentiation."""
    import torch

    torch.set_num_threads(1)
    score_NC, half = torch.tensor(rows.closed_NC), 100
    occurred_E = torch.nn.functional.one_hot(torch.tensor(rows.label_N), 6).double().flatten()
    theta_P = torch.tensor(start_P, requires_grad=True)
    adam, losses = torch.optim.Adam([theta_P], lr=0.005), []
    at = torch.arange(score_NC.numel())
    last, first = (at + half + 1).clamp(max=len(at)), (at - half).clamp(min=0)
    for _ in range(STEPS):
        weight_S = theta_P[16:].abs() / theta_P[16:].abs().sum()
        q_SNC = torch.softmax(theta_P[:16].abs()[:, None, None] * score_NC, dim=2)
        p_E = (weight_S[:, None, None] * q_SNC).sum(0).flatten()
        order_E = torch.argsort(p_E.detach(), stable=True)
        total = torch.cat(
            [torch.zeros(1, dtype=torch.float64), torch.cumsum((p_E - occurred_E)[order_E], 0)]
        )
        loss = ((total[last] - total[first]) / (2 * half + 1)).abs().mean()
        adam.zero_grad()
        (1e5 * loss).backward()
        adam.step()
        losses.append(loss.item())
    return losses


def cpu_seconds(run: Callable[[], Result]) -> tuple[float, Result]:
    """CPU time of this process, and the result."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def main() -> None:
    """Fit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10_000)
    prompts = parser.parse_args().prompts
    (rows, _), (new, truth) = simulated(prompts, 0), simulated(prompts, 1)
    print(
        f"{prompts:,} prompts, 6 control tokens; log loss on new prompts: "
        f"{log_loss(new.closed_NC, new.label_N):.4f}"
    )
    print(f"  {'truth':<22} {'':>8}     {truth:.4f}")
    fits: dict[str, Callable[[], FittedMap]] = {"temperature": partial(fit_temperature, rows)}
    for form, size in FORMS:
        fits[f"h-{form}-{size}"] = partial(fit_h, rows, HSettings(form=form, size=size))
    for name, run in fits.items():
        seconds, fit = cpu_seconds(run)
        print(
            f"  {name:<22} {seconds:8.2f} s   "
            f"{log_loss(fit.map.logq(new.closed_NC), new.label_N):.4f}  {fit.notes}"
        )
    start_P = trainable("linear", 16, rows.closed_NC).start(1357)
    mine, losses = cpu_seconds(lambda: ours(rows, start_P))
    print(f"  {STEPS} steps, ours        {mine:8.2f} s")
    try:
        theirs, baseline = cpu_seconds(lambda: by_torch(rows, start_P))
    except ModuleNotFoundError:
        print("  torch is not installed: no baseline")
        return
    apart = np.abs(np.subtract(losses, baseline)).max()
    print(f"  {STEPS} steps, torch       {theirs:8.2f} s   losses differ by at most {apart:.1e}")


if __name__ == "__main__":
    main()
