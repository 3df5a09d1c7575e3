"""An engine without weights, for tests, documentation and CI, whose scores are calibrated.

1. The truth of a prompt is its declared label, else the category whose name is a word of the last
   message, else respond.
2. x = sharpness * onehot(truth) + standard normal noise, seeded by the prompt.
3. softmax(sharpness * x) is then the exact posterior of the truth when all columns are equally
   frequent (Bayes' rule for normal densities of one variance).
4. Position scores are low, but where the truth is a category: from one position of the answer on,
   drawn by the prompt, the log-odds of its refusal token lie AROSE higher.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from demur.base.arrays import Floats, occurrences
from demur.base.errors import EngineError
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import AnswerSampling
from demur.core.ports import Answer, Progress, Prompt, WatchedAnswer, no_progress
from demur.core.taxonomy import RESPOND, Taxonomy

LEFTOVER = 0.002  # probability outside the control tokens, the same for every prompt
# Log-odds of a refusal token against a word at a later position: standard normal noise around this.
CALM = -8.0
AROSE = 5.0

_ANSWERS = (
    "Here are the main points, starting with the one that matters most for what you described.",
    "Start with the simple version, check that it works, and add the details one at a time.",
    "It comes from Latin and has kept its meaning for about two thousand years.",
)
_REFUSALS = {
    "humanizing": (
        "I'm a program without a body or feelings, so I have no experience of that to share."
    ),
    "incomplete": (
        "I'd need to know more before I can answer. Could you tell me which one you mean?"
    ),
    "indeterminate": "Nobody knows the answer to that, and there is no way to find out today.",
    "safety": "I won't help with that, because it could hurt someone.",
    "unsupported": "I can't see images or look things up, so I'm not able to do that here.",
}
_REFUSAL = "I'm sorry, but I can't help with that."  # for a category of one's own


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeEngine:
    """Scores and answers prompts by a declared truth, deterministically.

    Implements demur.core.ports.Scorer, Generator and AnswerWatcher.
    """

    taxonomy: Taxonomy
    seed: int = 0
    # distance between the true column and the others in standard deviations of the noise
    sharpness: float = 2.0
    # text of the last message -> category; None: respond
    labels: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the settings that decide the scores; there is no chat template."""
        settings = (
            self.seed,
            self.sharpness,
            sorted((t, c or RESPOND) for t, c in self.labels.items()),
        )
        return Fingerprint(
            model_digest=_digest("fake", repr(settings)).hex(),
            tokenizer_digest=_digest(*self.taxonomy.tokens).hex(),
            template_digest=_digest("last message").hex(),
            tokens=self.taxonomy.tokens,
            token_ids=tuple(range(len(self.taxonomy.tokens))),
            dtype="float32",
        )

    def truth(self, prompt: Prompt) -> int:
        """The truth of a prompt as a score's column, 0 = respond.

        Raises TaxonomyError on a label that is no category.
        """
        text = prompt[-1].content
        if text in self.labels:
            return self.taxonomy.column(self.labels[text])
        words = set(re.findall(r"\w+", text.lower()))
        return next(
            (k for k, name in enumerate(self.taxonomy.names, start=1) if name.lower() in words), 0
        )

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """(N, C) natural-log probabilities, float32, each row by the seed and its prompt alone."""
        logit_NC = np.zeros((len(prompts), len(self.taxonomy.tokens)), dtype=np.float64)
        for n, prompt in enumerate(prompts):
            noise_C = np.random.default_rng(list(self._hash(prompt))).standard_normal(
                logit_NC.shape[1]
            )
            noise_C[self.truth(prompt)] += self.sharpness
            logit_NC[n] = self.sharpness * noise_C
            progress(n + 1, len(prompts))
        # The control tokens share all but LEFTOVER of the probability.
        logsumexp_N = np.logaddexp.reduce(logit_NC, axis=1)
        return np.asarray(logit_NC - logsumexp_N[:, None] + np.log1p(-LEFTOVER), dtype=np.float32)

    def branches(
        self,
        prompts: Sequence[Prompt],
        columns: Sequence[Sequence[int]],
        progress: Progress = no_progress,
    ) -> list[dict[int, Answer]]:
        """For each prompt a fixed text after each of its columns (control tokens).

        Raises EngineError on a column that is no control token.
        """
        made = []
        for n, (prompt, asked) in enumerate(zip(prompts, columns, strict=True)):
            made.append({column: self._answer(prompt, column) for column in asked})
            progress(n + 1, len(prompts))
        return made

    def watched(
        self,
        prompts: Sequence[Prompt],
        sampling: AnswerSampling,
        prefixes: Sequence[str] = (),
        progress: Progress = no_progress,
    ) -> list[WatchedAnswer]:
        """The fixed answer to each prompt, cut at its limit, with a score at each word.

        A score depends on the seed, the prompt, its prefix and the position alone; where answers
        are sampled, also on how many like it stand before it.
        """
        made = []
        begun = list(zip(prompts, prefixes or [""] * len(prompts), strict=True))
        draws = occurrences(begun) if sampling.temperature > 0.0 else [0] * len(begun)
        for (prompt, prefix), draw in zip(begun, draws, strict=True):
            answer = self._answer(prompt, 0)
            size = min(answer.tokens, sampling.most_tokens)
            if size < answer.tokens:
                text = " ".join(answer.text.split()[:size])
                answer = Answer(text=text, finished=False, tokens=size)
            logp_TC = self.position_scores(prompt, prefix, size, draw)
            made.append(WatchedAnswer(answer=answer, logp_TC=logp_TC))
            progress(len(made), len(prompts))
        return made

    def position_scores(self, prompt: Prompt, prefix: str, size: int, draw: int = 0) -> Floats:
        """Scores (T, C) at the first `size` words of an answer to a prompt. draw: of several."""
        truth = self.truth(prompt)
        rng = np.random.default_rng(
            list(_digest(self._hash(prompt).hex(), prefix, *([str(draw)] if draw else [])))
        )
        start = int(rng.integers(self._answer(prompt, 0).tokens))
        # Log-odds of each control token against the word that is written.
        odds_TC = CALM + rng.standard_normal((size, len(self.taxonomy.tokens)))
        if truth:
            odds_TC[start:, truth] += AROSE
        logsumexp_T = np.logaddexp.reduce(np.pad(odds_TC, ((0, 0), (1, 0))), axis=1)
        return np.asarray(odds_TC - logsumexp_T[:, None], dtype=np.float32)

    def _answer(self, prompt: Prompt, column: int) -> Answer:
        """The text after one control token; of a few answers, the prompt's hash picks one."""
        if not 0 <= column < len(self.taxonomy.choices):
            raise EngineError(
                f"column {column} is no control token",
                f"columns are 0..{len(self.taxonomy.choices) - 1}",
            )
        answer = _ANSWERS[self._hash(prompt)[0] % len(_ANSWERS)]
        text = _REFUSALS.get(self.taxonomy.choices[column], _REFUSAL) if column else answer
        return Answer(text=text, finished=True, tokens=len(text.split()))

    def _hash(self, prompt: Prompt) -> bytes:
        """sha256 of the seed and the prompt, the source of all randomness."""
        return _digest(str(self.seed), *(f"{m.role}:{m.content}" for m in prompt))


def _digest(*parts: str) -> bytes:
    return sha256("\n".join(parts).encode()).digest()
