"""A cascade as a scorer: a front model's scores where it is sure, else those of the engine behind
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from demur.base.arrays import Floats
from demur.core.cascade.front import Front, cascade_scores
from demur.core.policy import Fingerprint
from demur.core.ports import Progress, Prompt, Scorer, no_progress


@dataclass(kw_only=True, eq=False)
class CascadeScorer:
    """Implements core.ports.Scorer. The engine is asked only about prompts that the front hands
    over.
    """

    front: Front
    digest: str  # of the front's file
    model: Scorer

    asked: int = field(default=0, init=False)  # prompts so far
    by_front: int = field(default=0, init=False)  # of them scored by the front

    @property
    def fingerprint(self) -> Fingerprint:
        """The cascade's: policies of the model alone, or of another front, are refused."""
        return self.model.fingerprint.behind(self.digest)

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """See core.ports.Scorer."""
        logp_NC, front_N = cascade_scores(
            self.front, prompts, lambda at_M: self.model.logp([prompts[n] for n in at_M], progress)
        )
        progress(len(prompts), len(prompts))
        self.asked += len(prompts)
        self.by_front += int(front_N.sum())
        return logp_NC
