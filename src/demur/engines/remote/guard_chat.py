"""A guard model behind an OpenAI-compatible endpoint as Scorer: how probably it says its word for
refusing.

Read off the log-probabilities of its first word, so that the score is a number and not a label.
Llama Guard's kind of model takes the conversation as it is and answers "safe" or "unsafe"; any chat
model can be given a template instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from demur.base.arrays import Floats
from demur.base.errors import BackendDown, EngineError, ScoreDoubt
from demur.core.example import Message
from demur.core.fingerprint import Fingerprint
from demur.core.judging.judge import ChatAnswer, ChatQuestion, ChatReply, Declined
from demur.core.ports import Progress, Prompt, no_progress
from demur.core.predictor import predictor_fingerprint, predictor_scores, require_one_category
from demur.core.score import TOLERANCE
from demur.engines.remote.chat_client import ChatClient, Endpoint

CONVERSATION = "{conversation}"
TOP = 20  # the most that the protocol allows
_TOKENS = 4  # some guards begin with line breaks

# (text, natural-log probability) of the likeliest tokens in a place
Listed = tuple[tuple[str, float], ...]


@dataclass(kw_only=True)
class ChatGuard:
    """Implements demur.core.ports.Scorer. Raises ConfigError on settings that cannot be,
    EngineError on the words.
    """

    url: str  # up to and with /v1
    model: str
    tokens: tuple[str, ...]  # of the run's taxonomy, respond first
    refuse: str = "unsafe"  # the guard's word for what is to be refused
    answer: str = "safe"
    # one user message with {conversation} in it; None: the messages as they are
    template: str | None = None
    key_variable: str = "DEMUR_GUARD_KEY"  # environment variable of the key; unset: no key is sent
    in_flight: int = 64  # requests at a time
    timeout_s: float = 10.0  # of one request
    tries: int = 3  # of one request

    def __post_init__(self) -> None:
        require_one_category(self.tokens)
        self._words = (self.refuse.strip().casefold(), self.answer.strip().casefold())
        if (
            not all(self._words)
            or self._words[0].startswith(self._words[1])
            or self._words[1].startswith(self._words[0])
        ):
            raise EngineError(
                f"words {self.refuse!r} and {self.answer!r} begin alike",
                "name the guard's two first words",
            )
        if self.template is not None and CONVERSATION not in self.template:
            raise EngineError(
                f"the template lacks {CONVERSATION}", "it stands for what was said, a turn a line"
            )
        self._client = ChatClient(
            endpoint=Endpoint(
                url=self.url,
                model=self.model,
                key_variable=self.key_variable,
                max_tokens=_TOKENS,
                logprobs=True,
                likeliest=TOP,
                in_flight=self.in_flight,
                timeout_s=self.timeout_s,
                tries=self.tries,
            )
        )
        self._answers_as: str | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        """The guard's name, its words and the template, as a predictor of kind "guard-chat".
        Weights are on trust.
        """
        parts = (self.model, *self._words, self.template or "")
        return predictor_fingerprint(
            sha256("\0".join(parts).encode()).hexdigest(), self.tokens, "guard-chat"
        )

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """(N, 2) natural-log probabilities that a prompt is answered and that it is refused.

        A guard whose endpoint declines the prompt by a filter of its own has refused it:
        probability 1. Raises BackendDown where the guard does not answer or changes its name,
        ScoreDoubt, saying what was listed, where neither of its words is among the likeliest,
        EngineError where it refuses the key or reports no probabilities.
        """
        probability_N, done = [math.nan] * len(prompts), 0

        def take(place: int, reply: ChatReply) -> None:
            nonlocal done
            probability_N[place] = self._probability(reply)
            done += 1
            progress(done, len(prompts))

        self._client.ask_many([ChatQuestion(messages=self._messages(p)) for p in prompts], take)
        return predictor_scores(probability_N)

    def _messages(self, prompt: Prompt) -> Prompt:
        if self.template is None:
            return prompt
        conversation = "\n".join(f"{m.role}: {m.content}" for m in prompt)
        return (Message(role="user", content=self.template.replace(CONVERSATION, conversation)),)

    def _probability(self, reply: ChatReply) -> float:
        if isinstance(reply, Declined):
            return 1.0
        if not isinstance(reply, ChatAnswer):
            raise BackendDown(
                f"the guard {self.model!r} did not answer: {reply.reason}", f"look at {self.url}"
            )
        self._answers_as = self._answers_as or reply.model
        if reply.model != self._answers_as:
            raise BackendDown(
                f"the guard answers as {reply.model!r}, before that as {self._answers_as!r}",
                "score with one model",
            )
        if not reply.tokens:
            raise EngineError(
                f"the guard {self.model!r} reports no log-probabilities",
                "it needs logprobs and top_logprobs",
            )
        return refusal_probability(
            next((likely for text, likely in reply.tokens if text.strip()), ()), self._words
        )


def refusal_probability(listed: Listed, words: tuple[str, str]) -> float:
    """P(word for refusing) / P(either word), from the likeliest tokens in the place of the first
    word.

    A token counts for the word that it begins. An unlisted word for refusing counts with as much as
    it can have: the least listed probability, or what the listed ones leave. Raises ScoreDoubt if
    neither word is listed, and on what is no log-probability.
    """
    if bad := [p for _, p in listed if not (math.isfinite(p) and p <= TOLERANCE)]:
        raise ScoreDoubt(f"the guard lists {bad[0]} as a log-probability", "look at its numerics")
    found = [sum(math.exp(p) for text, p in listed if _begins(text, word)) for word in words]
    if not any(found):
        seen = ", ".join(repr(text) for text, _ in listed) or "nothing"
        raise ScoreDoubt(
            f"the guard says neither {words[0]!r} nor {words[1]!r}: {seen}",
            "name its words, or its template",
        )
    if not found[0]:
        left = 1.0 - sum(math.exp(p) for _, p in listed)
        found[0] = max(0.0, min(left, *(math.exp(p) for _, p in listed)))
    return found[0] / sum(found)


def _begins(token: str, word: str) -> bool:
    piece = token.strip().casefold()
    return bool(piece) and word.startswith(piece)
