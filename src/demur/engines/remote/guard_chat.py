"""A guard model behind an OpenAI-compatible endpoint as Scorer: the probability of its word for
refusing.

1. The probability is read off the log-probabilities of the guard's first word, so that the score is
   a number and not a label.
2. Models like Llama Guard take the conversation as it is and answer "safe" or "unsafe"; any other
   chat model needs a template.
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
_TOKENS = 4  # of an answer: some guards begin with line breaks

# (text, natural-log probability) of the likeliest tokens at one position of the answer
Listed = tuple[tuple[str, float], ...]


@dataclass(kw_only=True)
class ChatGuard:
    """Implements demur.core.ports.Scorer. Raises ConfigError on invalid settings, EngineError on
    words that begin alike and on a template without its mark.
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
        # A token is matched to the word that it begins, so neither word may begin the other.
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
        """A predictor's fingerprint of kind "guard-chat": a digest of model name, words, template.

        The guard's weights cannot be checked through the endpoint.
        """
        parts = (self.model, *self._words, self.template or "")
        return predictor_fingerprint(
            sha256("\0".join(parts).encode()).hexdigest(), self.tokens, "guard-chat"
        )

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """Natural-log probabilities that a prompt is answered and that it is refused, (N, 2).

        A prompt that the endpoint's own filter declines counts as refused with probability 1.
        Raises BackendDown where the guard does not answer or changes its name, ScoreDoubt, with the
        listed tokens, where neither of its words is among the likeliest, EngineError where the
        endpoint rejects the key or reports no log-probabilities.
        """
        probability_N, done = [math.nan] * len(prompts), 0

        def take(place: int, reply: ChatReply) -> None:
            nonlocal done
            probability_N[place] = self._probability(reply)
            done += 1
            progress(done, len(prompts))

        requests = []
        for prompt in prompts:
            messages = prompt
            if self.template is not None:  # the conversation, a turn a line, in one user message
                lines = "\n".join(f"{m.role}: {m.content}" for m in prompt)
                text = self.template.replace(CONVERSATION, lines)
                messages = (Message(role="user", content=text),)
            requests.append(ChatQuestion(messages=messages))
        self._client.ask_many(requests, take)
        return predictor_scores(probability_N)

    def _probability(self, reply: ChatReply) -> float:
        """The probability of refusal in one reply of the guard. Raises as `logp`."""
        if isinstance(reply, Declined):
            return 1.0
        if not isinstance(reply, ChatAnswer):
            raise BackendDown(
                f"the guard {self.model!r} did not answer: {reply.reason}", f"look at {self.url}"
            )
        # The name of the first answer: another model in between would give other scores.
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
        # line breaks before the first word are skipped
        first_word = next((likely for text, likely in reply.tokens if text.strip()), ())
        return refusal_probability(first_word, self._words)


def refusal_probability(listed: Listed, words: tuple[str, str]) -> float:
    """P(word for refusing) / P(either word), from the likeliest tokens at the guard's first word.

    words: for refusing, for answering; in lower case. A token counts for the word that it begins.
    An unlisted word for refusing counts with the most that it can have: the least listed
    probability, or the rest that the listed ones leave. Raises ScoreDoubt if neither word is
    listed, and on an invalid log-probability.
    """
    if bad := [p for _, p in listed if not (math.isfinite(p) and p <= TOLERANCE)]:
        raise ScoreDoubt(f"the guard lists {bad[0]} as a log-probability", "look at its numerics")
    found = [0.0, 0.0]  # probability mass of the tokens that begin each word
    for text, logp in listed:
        piece = text.strip().casefold()
        for at, word in enumerate(words):
            if piece and word.startswith(piece):
                found[at] += math.exp(logp)
    if not any(found):
        seen = ", ".join(repr(text) for text, _ in listed) or "nothing"
        raise ScoreDoubt(
            f"the guard says neither {words[0]!r} nor {words[1]!r}: {seen}",
            "name its words, or its template",
        )
    if not found[0]:
        # Erring towards refusal: a missed refusal is the error that a guard is there to prevent.
        left = 1.0 - sum(math.exp(p) for _, p in listed)
        found[0] = max(0.0, min(left, *(math.exp(p) for _, p in listed)))
    return found[0] / sum(found)
