"""Array types by element. The suffix of shape letters on a variable names its axes: `logp_NC` is N
x C.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]  # scores, as engines give them
Doubles = npt.NDArray[np.float64]  # everything that is reckoned from them
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def numbered(names: Sequence[str | None]) -> Ints:
    """A number for each row, shape (N,), equal where names are; None: a number of its own."""
    keys = [f"name {name}" if name is not None else f"row {n}" for n, name in enumerate(names)]
    return np.asarray(np.unique(keys, return_inverse=True)[1], dtype=np.int64)


def occurrences(items: Sequence[Hashable]) -> list[int]:
    """How many equal items stand before each."""
    seen: Counter[Hashable] = Counter()
    found = []
    for item in items:
        found.append(seen[item])
        seen[item] += 1
    return found
