"""All 102 measurements of one model in one call: 45 binned and 5 others before calibration, the
same after, and 2 areas.

The set is that of "A Benchmark Study on Calibration" (Tao et al. 2024, arXiv 2308.11838): each view
is sorted once, and every number of bins reads its prefix sums. More bins than a tenth of the rows
measure noise: see `Column.noisy`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from demur.stats.calibration.binless import kolmogorov_smirnov
from demur.stats.calibration.binned import Cells, cells
from demur.stats.calibration.proper import brier, nll, view_auroc, view_average_precision
from demur.stats.calibration.smooth import kde_error, mmce
from demur.stats.calibration.views import (
    BinaryView,
    Forecast,
    all_classes,
    forecast,
    refusal,
    top_label,
)
from demur.stats.measure import Statistic

Family = Literal["ece", "ece_em", "mce", "cwce", "cwce_em", "ks", "kde", "mmce", "nll", "brier"]

BINNED: tuple[Family, ...] = ("ece", "ece_em", "mce", "cwce", "cwce_em")
OTHERS: tuple[Family, ...] = ("ks", "kde", "mmce", "nll", "brier")
BINS = (5, 10, 15, 20, 25, 50, 100, 200, 500)


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Column:
    """One measurement of a forecast.

    ece, mce: equal width; ece_em: equal mass; cwce, cwce_em: the same, mean over classes. ks, kde,
    mmce: top label. nll, brier: of the whole vector.
    """

    family: Family
    bins: int | None = None  # None where there are none to choose

    def noisy(self, rows: int) -> bool:
        """Whether the bins outnumber a tenth of the rows, so that the error is mostly noise."""
        return self.bins is not None and self.bins > rows / 10

    def __str__(self) -> str:
        return self.family if self.bins is None else f"{self.family}_{self.bins}"


COLUMNS = tuple(Column(family=f, bins=b) for f in BINNED for b in BINS) + tuple(
    Column(family=f) for f in OTHERS
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBenchmark:
    """The 102 measurements of one model. All but the areas: smaller is better."""

    rows: int
    raw: dict[Column, Statistic]  # 50: before calibration
    calibrated: dict[Column, Statistic]  # 50: after
    # "ought to be refused" by the calibrated probability of any refusal; undefined without both
    # kinds
    auroc: Statistic
    average_precision: Statistic

    def __len__(self) -> int:
        return len(self.raw) + len(self.calibrated) + 2


def benchmark(
    raw_NC: npt.ArrayLike, calibrated_NC: npt.ArrayLike, label_N: npt.ArrayLike
) -> CalibrationBenchmark:
    """Measure log-probabilities before and after calibration; rows of both sum to 1. Errors: see
    views.forecast.
    """
    raw, calibrated = forecast(raw_NC, label_N), forecast(calibrated_NC, label_N)
    refuse = refusal(calibrated)
    return CalibrationBenchmark(
        rows=len(raw.label_N),
        raw=measure(raw),
        calibrated=measure(calibrated),
        auroc=view_auroc(refuse),
        average_precision=view_average_precision(refuse),
    )


def measure(f: Forecast) -> dict[Column, Statistic]:
    """The 50 measurements of one forecast, in the order of COLUMNS."""
    top, classes = top_label(f), all_classes(f)
    figures: dict[Column, Statistic] = {}
    for family, (views, scheme, error) in _binned(top, classes).items():
        for bins in BINS:
            # one view for the top label; for class-wise errors the mean over one view per class
            value = float(np.mean([error(cells(v, scheme, bins)) for v in views]))
            figures[Column(family=family, bins=bins)] = Statistic(number=value)
    figures[Column(family="ks")] = Statistic(number=kolmogorov_smirnov(top).error)
    figures[Column(family="kde")] = kde_error(top)
    figures[Column(family="mmce")] = Statistic(number=mmce(top))
    figures[Column(family="nll")] = nll(f)
    figures[Column(family="brier")] = Statistic(number=brier(f))
    return figures


def _l1(c: Cells) -> float:
    return c.error("l1")


def _max(c: Cells) -> float:
    return c.error("max")


def _binned(
    top: BinaryView, classes: Sequence[BinaryView]
) -> dict[Family, tuple[Sequence[BinaryView], Literal["width", "mass"], Callable[[Cells], float]]]:
    return {
        "ece": ([top], "width", _l1),
        "ece_em": ([top], "mass", _l1),
        "mce": ([top], "width", _max),
        "cwce": (classes, "width", _l1),
        "cwce_em": (classes, "mass", _l1),
    }
