"""The port between server and engine: the decision first, then the answer that follows it.

A backend reads the score at the first answer position, decides with demur.core.decision under the
request's policy, and only then writes: nothing for a deferral, or for a refusal that has a text of
the operator's own; else the answer or the model's own refusal, going on from the same prefill where
it can. Implementations are named in demur.assembly.wiring.BACKENDS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from demur.base.arrays import Floats
from demur.core.decision import Decision
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import Stop
from demur.core.policy import Policy
from demur.core.ports import Answer, Progress, Prompt, Scorer, no_progress
from demur.core.taxonomy import Taxonomy

# the last: a filter behind declined
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How an answer is written. None of it touches the decision."""

    max_tokens: int = 512  # after the control token
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeRequest:
    """One request, after the server's checks: conversation, policy and sampling."""

    messages: Prompt  # ends with a user message
    policy: Policy  # with the caller's permitted overrides already applied
    # of the stored policy that `policy` came from; a backend with its own copy compares it. "": the
    # server has changed categories, so that no copy decides alike
    policy_digest: str
    sampling: Sampling = field(default_factory=Sampling)
    # an answer, not a refusal, must fit it; {}: any JSON object
    json_schema: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()  # OpenAI's function declarations
    tool_choice: str | None = None  # "auto", "required" or a function's name; None without tools
    tenant: str = ""  # who asks: places are shared out fairly between tenants
    # False: nothing is written unless it is refused; the decision is what is asked for
    answers: bool = True

    def under(self, policy: Policy) -> ServeRequest:
        """The same request under the policy as the server has changed it."""
        same = policy.categories == self.policy.categories
        return replace(self, policy=policy, policy_digest=self.policy_digest if same else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPart:
    """A piece of an answer's text; the last one says why the answer ended."""

    text: str = ""
    refusal: str = ""  # of the model behind, where it has a field of its own for that
    thought: str = ""  # of a model that thinks apart from its answer
    tokens: int = 0  # generated for this piece
    finish: Finish | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()  # OpenAI's shape, whole, in the last part only
    prompt_tokens: int | None = None  # of the prompt, where that is known only now; else see Reply
    # The policy's monitor stopped the answer behind the text of the parts before this one. This
    # part and those after it carry the model's own refusal, in `refusal`; the last one finishes.
    stop: Stop | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServeReply:
    """A decided request. `parts` is read once; closing it early (aclose) stops generation and frees
    its place.
    """

    decision: Decision
    logp_C: Floats  # what was decided on
    prompt_tokens: int
    # empty for a refusal or a deferral whose text the policy holds: no token is generated for it
    parts: AsyncIterator[AnswerPart]
    by_front: bool = False  # decided by a cascade's front model: see demur.core.cascade


def generates_nothing(ask: ServeRequest, decision: Decision) -> bool:
    """Whether no text is to be generated: the operator's own text stands for the refusal or the
    deferral, or the request wants the decision alone.
    """
    if decision.outcome == "defer":
        return True
    if not decision.refuses:
        return not ask.answers
    return not ask.policy.writes(decision.column)


async def no_parts() -> AsyncIterator[Any]:
    """An iterator that ends at once: the parts of an answer for which nothing is generated."""
    none: tuple[Any, ...] = ()
    for part in none:
        yield part


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServedRun:
    """The run that a backend is made for, as it may ask of it; nothing is loaded or read before it
    asks.
    """

    name: str  # also of the model at a server behind, where the options name none
    taxonomy: Taxonomy
    model: Path  # folder of the trained checkpoint
    declared: Fingerprint  # of that checkpoint; a backend in front of it vouches for it
    keep_history: bool  # past assistant turns carry their control token, as in training
    # the model that the run's predictor was fitted on, as it calls itself in answers
    behind: str | None
    load: Callable[[], Any]  # the checkpoint in this process: a demur.engines.hf.engine.HfEngine
    # what decides: the run's own engine, with its front where policies are of a cascade
    scorer: Callable[[], Scorer]
    # So many prompts with the scores that this checkpoint gave them; fewer where there are fewer.
    references: Callable[[int], Sequence[tuple[Prompt, Floats]]]


class BackendKind(Protocol):
    """A backend's class, as it is named in demur.assembly.wiring.BACKENDS or by
    "package.module:Class".

    Options: a frozen dataclass whose fields are the keys that [backend] may hold. One named `url`
    makes `--url` required; one named `api_key` takes the key from the environment.
    """

    Options: type

    def from_run(self, run: ServedRun, options: Any) -> Backend:
        """The backend of a run. A classmethod."""
        ...


class Backend(Protocol):
    """An engine behind the server. All of it runs in one event loop and never blocks it."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The model behind the answers: the server refuses to start with policies for another."""
        ...

    @property
    def stops_nothing(self) -> str | None:
        """What this engine is, if it stops no answer that was begun: the server then takes no
        policy with a monitor. None: it stops answers.
        """
        ...

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Score and decide. Raises a BackendError, or another EngineError for what it cannot
        honour.
        """
        ...

    async def ready(self) -> None:
        """Return when a request would be answered now. Raises BackendDown saying why not."""
        ...

    async def close(self) -> None:
        """Let go of everything; open replies end with BackendDown."""
        ...


@runtime_checkable
class Answerer(Protocol):
    """A generator that scores, decides and writes from one prefill."""

    def answer(
        self, prompts: Sequence[Prompt], policy: Policy, progress: Progress = no_progress
    ) -> list[tuple[Floats, Decision, Answer]]:
        """Each prompt's score (C,), what the policy decides of it, and the answer that follows.

        Raises PolicyError if the policy was made with another model.
        """
        ...
