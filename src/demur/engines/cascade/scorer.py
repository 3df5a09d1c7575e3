"""A cascade as a scorer: a front model's scores where it is sure, else the engine's behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from demur.base.arrays import Floats
from demur.core.cascade.front import Front, cascade_scores
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Progress, Prompt, Scorer, no_progress


@dataclass(kw_only=True, eq=False)
class CascadeScorer:
    """Scores prompts by a front, or by the model behind it. Implements demur.core.ports.Scorer."""

    front: Front
    digest: str  # of the front's file
    model: Scorer

    asked: int = field(default=0, init=False)  # prompts scored so far
    by_front: int = field(default=0, init=False)  # prompts that the front scored itself

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the cascade; policies of the model alone or of another front differ."""
        return self.model.fingerprint.behind(self.digest)

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """(N, C) natural-log probabilities, float32; raises the errors of the engine behind."""
        # at_M: positions among the N prompts of the M that the front hands over.
        logp_NC, front_N = cascade_scores(
            self.front, prompts, lambda at_M: self.model.logp([prompts[n] for n in at_M], progress)
        )
        progress(len(prompts), len(prompts))
        self.asked += len(prompts)
        self.by_front += int(front_N.sum())
        return logp_NC
