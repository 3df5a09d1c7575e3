"""Array types by element. The suffix of shape letters on a variable names its axes: `logp_NC` is N
x C.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]  # scores, as engines give them
Doubles = npt.NDArray[np.float64]  # everything that is reckoned from them
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
