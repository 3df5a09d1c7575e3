"""The pre-answer gate: a predictor decides on the prompt; only prompts it answers reach the model.

1. For models without control tokens, behind any OpenAI-compatible chat endpoint.
2. The predictor scores the prompt and the policy decides. A refusal costs no call: its text is the
   policy's, or the gate's own.
3. An answer is the upstream model's own, unmodified: tools, the choice whether to call one, and
   JSON formats are passed on as they are.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from demur.base.arrays import Floats
from demur.base.errors import (
    BackendDown,
    BackendError,
    BackendTimeout,
    EngineError,
    PromptTooLong,
    ScoreDoubt,
    ScoreError,
)
from demur.core.decision import decide_or_doubt
from demur.core.example import Message
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Prompt, Scorer
from demur.core.serving import (
    AnswerPart,
    Finish,
    ServedRun,
    ServeReply,
    ServeRequest,
    generates_nothing,
    no_parts,
)
from demur.engines.batched_scorer import BatchedScorer
from demur.engines.remote.answer_stream import (
    AnswerRules,
    AnswerStream,
    open_answer_stream,
    response_format,
)
from demur.engines.remote.chat_protocol import (
    finish_of_piece,
    read_event,
    require_same_model,
    require_served,
    sampling_fields,
)
from demur.engines.remote.completion import CallPiece, ChatPiece
from demur.engines.remote.http_request import CHAT
from demur.engines.remote.upstream import LOG, UpstreamClient, UpstreamOptions

_PROBE: Prompt = (Message(role="user", content="Hello."),)
REFUSAL = "I'm sorry, but I can't help with that."
_TOOL_MODES = ("auto", "required")  # values of tool_choice that are no function's name


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings:
    """The model behind a gate, the text of its refusals, and the messages it scores."""

    model: str  # the served model's name
    answers_as: str | None = None  # the name in its answers; None: that of the first answer
    # the refusal where a policy leaves its text to the model, since no model writes one here
    refusal: str = REFUSAL
    # Messages that are scored: the users', as the predictor was fitted, or all. A client that
    # writes system messages or invents past answers could put there what the predictor refuses in
    # a user's message.
    reads: Literal["user", "all"] = "user"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions(UpstreamOptions):
    """[backend] of a gate: the address of the model behind, and the fields of GateSettings."""

    # None: the model that the run's predictor was fitted on, else the run's name
    model: str | None = None
    answers_as: str | None = None
    refusal: str = REFUSAL
    reads: Literal["user", "all"] = "user"


@dataclass(kw_only=True, eq=False)
class PreAnswerBackend:
    """Implements demur.core.serving.Backend. Policies are for the scorer; the upstream's model is
    known by name only.
    """

    Options: ClassVar = GateOptions
    stops_nothing: ClassVar[str] = "a pre-answer gate"

    upstream: UpstreamOptions
    settings: GateSettings
    scorer: Scorer  # owned by the backend from now on

    _client: UpstreamClient = field(init=False, repr=False)
    _batches: BatchedScorer = field(init=False, repr=False)
    _answers_as: str | None = field(init=False, repr=False)
    _served: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = UpstreamClient(self.upstream)
        self._answers_as = self.settings.answers_as
        self._batches = BatchedScorer(self.scorer)
        self._fingerprint = self.scorer.fingerprint
        self._checking = asyncio.Lock()

    @classmethod
    def from_run(cls, run: ServedRun, options: GateOptions) -> PreAnswerBackend:
        """The gate of a run: its predictor decides, the model at the endpoint answers."""
        settings = GateSettings(
            model=options.model or run.name,
            answers_as=options.answers_as or run.behind,
            refusal=options.refusal,
            reads=options.reads,
        )
        return cls(upstream=options, settings=settings, scorer=run.scorer())

    @property
    def fingerprint(self) -> Fingerprint:
        """The scorer's fingerprint: policies are made for it."""
        return self._fingerprint

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Score and decide; begin the answer only if there is one. See demur.core.serving.Backend.

        Raises PolicyError on a policy of another scorer, what the scorer raises (ScoreDoubt,
        PromptTooLong, BackendError), EngineError where the endpoint refuses the request, and
        BackendDown, -Timeout or -Busy.
        """
        ask.policy.require_model(self._fingerprint)
        ask.policy.require_no_monitor(self.stops_nothing)
        logp_C = await self._score(ask.messages)
        decision = decide_or_doubt(ask.policy, logp_C)
        parts: AsyncIterator[AnswerPart] = no_parts()
        if not generates_nothing(ask, decision):
            parts = _refusal(self.settings.refusal) if decision.refuses else await self._answer(ask)
        return ServeReply(decision=decision, logp_C=logp_C, prompt_tokens=0, parts=parts)

    async def ready(self) -> None:
        """Score a prompt and check that the endpoint serves the model. Raises BackendDown."""
        await self._score(_PROBE)
        async with self._checking:
            await self._check_upstream()

    async def close(self) -> None:
        """Close the connections: open replies end with BackendDown."""
        self._batches.close()
        await self._client.close()

    async def _score(self, messages: Prompt) -> Floats:
        """The score of a prompt, (C,), within the time limit. Raises as `open`."""
        # Predictors read users' messages only: "all" passes every message as a user's.
        read = messages
        if self.settings.reads == "all":
            read = tuple(replace(m, role="user") for m in messages)
        try:
            async with asyncio.timeout(self.upstream.decide_s):
                return await self._batches.logp(read)
        except TimeoutError:
            raise BackendTimeout(
                f"no score within {self.upstream.decide_s:g} s", "try again later"
            ) from None
        except (BackendError, PromptTooLong, ScoreDoubt):
            raise
        except ScoreError as e:
            raise ScoreDoubt(e.message, e.hint) from None
        except EngineError as e:  # logged only: its message tells how the scorer is set up
            LOG.error("no score: %s", e)
            raise BackendDown("the scorer failed", "the log of this server says more") from None

    async def _answer(self, ask: ServeRequest) -> AnswerStream:
        """Begin the answer of the model behind."""
        if not self._served:
            async with self._checking:
                # Checked again: all first answers waited for the lock, and one check is enough.
                if not self._served:
                    await self._check_upstream()
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": m.role, "content": m.content} for m in ask.messages],
            **sampling_fields(ask),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.tools:
            choice: str | dict[str, Any] = ask.tool_choice or "auto"
            if choice not in _TOOL_MODES:
                choice = {"type": "function", "function": {"name": choice}}
            body |= {"tools": list(ask.tools), "tool_choice": choice}
        if (wanted := response_format(ask.json_schema)) is not None:
            body["response_format"] = wanted
        rules = AnswerRules(most_tokens=ask.sampling.max_tokens, declined=self.settings.refusal)
        # Some servers accept any tools or schema at first and report errors in the stream.
        wait = bool(ask.tools) or wanted is not None
        return await open_answer_stream(
            self._client.stream(CHAT, body), _EventReader(self._check), rules, wait=wait
        )

    async def _check_upstream(self) -> None:
        await require_served(self._client, self.settings.model)
        self._served = True

    def _check(self, chat: ChatPiece) -> None:
        """Raise BackendDown if another model answers than before: it declines other prompts."""
        if not chat.chosen and chat.error is None:
            return  # an event with usage only, or with an endpoint's remarks on the prompt
        if chat.error is None and self._answers_as is None:
            self._answers_as = chat.model
        require_same_model(chat, self._answers_as or "")


class _EventReader:
    """Reads the events of one answer: text is passed on at once, tool calls when they are whole."""

    def __init__(self, check: Callable[[ChatPiece], None]) -> None:
        self._check = check
        self._calls: dict[int, CallPiece] = {}
        self._counted = 0  # tokens passed on

    def __call__(self, data: bytes) -> AnswerPart | None:
        """One event as a part; None where it has no choice. Raises BackendDown if malformed."""
        chat = read_event(data)
        self._check(chat)
        for call in chat.calls:
            self._take(call)
        # A forced call ends with "stop" in OpenAI's protocol. A call that was cut short, by the
        # token limit or a filter, is no call.
        whole_calls = bool(self._calls) and chat.finish in ("stop", "tool_calls")
        finish: Finish | None = "tool_calls" if whole_calls else finish_of_piece(chat)
        has_output = bool(chat.text or chat.refusal or chat.thought or chat.calls)
        if not (chat.chosen or chat.declined) and chat.completion_tokens is None:
            return None
        # The protocol sends about one token an event, and the exact count at the end, as asked.
        counted = chat.completion_tokens
        tokens = int(has_output) if counted is None else max(0, counted - self._counted)
        self._counted += tokens
        return AnswerPart(
            text=chat.text,
            refusal=chat.refusal,
            thought=chat.thought,
            tokens=tokens,
            finish=finish,
            tool_calls=tuple(map(_whole, self._calls.values())) if finish == "tool_calls" else (),
            prompt_tokens=chat.prompt_tokens,
        )

    def _take(self, piece: CallPiece) -> None:
        """Add a piece to its call."""
        # Servers that send whole calls do not number them: each is the next.
        at = len(self._calls) if piece.index is None else piece.index
        before = self._calls.get(at, CallPiece())
        self._calls[at] = CallPiece(
            id=before.id or piece.id,
            name=before.name or piece.name,
            arguments=before.arguments + piece.arguments,
        )


def _whole(call: CallPiece) -> dict[str, Any]:
    """A gathered call in OpenAI's shape. Raises BackendDown if it has no name."""
    if not call.name:
        raise BackendDown("the backend calls a function without a name", "ask again")
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {
        "id": call.id or f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": function,
    }


async def _refusal(text: str) -> AsyncIterator[AnswerPart]:
    """The parts of a refusal that the gate writes itself."""
    yield AnswerPart(text=text, finish="stop")
