"""A fake engine that follows answers, and a run whose answers it followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demur.core.ports import Answer, WatchedAnswer, no_progress
from demur.core.settings import AnswerSettings
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.stages import calibrate, score
from tests.fake_run import engine_for, examples, prepare


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchingEngine(FakeEngine):
    """Position scores by a prompt's truth: noise, and in most answers to what should be refused a
    rise of its category's token.
    """

    lift: float = 7.0  # of the log-odds, in nats
    alike: float = 0.2  # share of answers to refusals without a rise
    empty: float = 0.0  # share of answers without a token

    def watched(self, prompts, sampling, prefixes=(), progress=no_progress):
        made = []
        for n, prompt in enumerate(prompts):
            made.append(self._watched(prompt, sampling))
            progress(n + 1, len(prompts))
        return made

    def _watched(self, prompt, sampling):
        rng = np.random.default_rng([*self._hash(prompt), sampling.most_tokens])
        length = int(rng.integers(1, sampling.most_tokens + 1))
        if rng.random() < self.empty:
            length = 0
        logit_TC = rng.normal(-9.0, 1.0, (length, len(self.taxonomy.tokens)))
        truth, at = self.truth(prompt), int(rng.integers(0, max(length, 1)))
        if truth and rng.random() > self.alike:
            logit_TC[at:, truth] += self.lift
        logp_TC = -np.logaddexp(0.0, -logit_TC).astype(np.float32)
        answer = Answer(
            text=" ".join(["word"] * length), finished=length < sampling.most_tokens, tokens=length
        )
        return WatchedAnswer(answer=answer, logp_TC=logp_TC)


def watched_run(root, goal="f1 max; false_stop <= 0.2"):
    """A run on the built-in corpus whose policy has a monitor: (folder, engine)."""
    rows = examples(every=4)
    engine = engine_for(rows, WatchingEngine)
    folder = prepare(root, rows, engine)
    answers = AnswerSettings(most_tokens=32, temperature=0.0, traces=True)
    score.run(score.Config(answers=answers), engine, folder)
    calibrate.run(calibrate.Config(goal=goal, confidence=0.9), coconot(), folder)
    return folder, engine
