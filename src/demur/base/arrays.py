"""Names of array types: what the numbers are. A suffix of shape letters on a variable says how they
lie.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]  # scores, as engines give them
Doubles = npt.NDArray[np.float64]  # everything that is reckoned from them
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
