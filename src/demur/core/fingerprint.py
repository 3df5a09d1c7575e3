"""Fingerprints of the model behind the scores, and of whatever stands in front of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

LOGPROB_CONVENTION = "raw-logprobs/full-vocabulary/temperature-1/float32"
# how the convention of scores begins that no language model gave: see core.predictor
PREDICTED = "predicted/"
# of a cascade's: its front's digest and the convention of the model behind it follow
CASCADE = "cascade/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """The model that a policy's numbers were made with. Serving refuses to start on another."""

    model_digest: str  # of the weight files
    tokenizer_digest: str
    template_digest: str  # of the chat template
    tokens: tuple[str, ...]  # control tokens, respond first
    token_ids: tuple[int, ...]
    dtype: str  # of the weights while scoring
    logprobs: str = LOGPROB_CONVENTION
    # of config.json and its like: core.checkpoint. None: written before it was named
    config_digest: str | None = None

    @property
    def as_scored(self) -> Fingerprint:
        """The same model behind raw scores, whatever this one's were made into. Predicted scores
        are raw.
        """
        if self.front is not None:
            return replace(self, logprobs=self.logprobs.removeprefix(f"{CASCADE}{self.front}/"))
        return self if self.predicted else replace(self, logprobs=LOGPROB_CONVENTION)

    @property
    def front(self) -> str | None:
        """The digest of the front model of a cascade: see core.cascade. None: the model scores
        every prompt.
        """
        if not self.logprobs.startswith(CASCADE):
            return None
        return self.logprobs.removeprefix(CASCADE).partition("/")[0]

    def behind(self, front: str) -> Fingerprint:
        """The fingerprint of a cascade of a front model, by its digest, before this model."""
        return replace(self, logprobs=f"{CASCADE}{front}/{self.logprobs}")

    @property
    def predicted(self) -> bool:
        """Whether the scores come from a predictor beside the model that answers: see
        core.predictor.
        """
        return self.logprobs.startswith(PREDICTED)

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Names of the fields in which two fingerprints differ."""
        return tuple(f for f in self.__dataclass_fields__ if getattr(self, f) != getattr(other, f))
