"""The pre-answer gate: a predictor decides on the prompt alone, and only what it lets through
reaches the model behind.

For models without control tokens, behind any OpenAI-compatible chat endpoint. A refusal costs no
call. An answer is the model's own, unmodified: tools, the choice whether to call one, and JSON
formats are passed on as they are.
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
_OURS = ("auto", "required")  # words of tool_choice that are no function's name


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings:
    """What a gate stands in front of, and what it says itself."""

    model: str  # the served model's name
    answers_as: str | None = None  # the name in its answers; None: whichever it first answers as
    # where a policy leaves the words to the model: there is none that could write them
    refusal: str = REFUSAL
    # Whose words are scored: the users', as the predictor was fitted, or those of all messages. A
    # client that writes system messages or invents past answers can say there what the predictor
    # would not let through.
    reads: Literal["user", "all"] = "user"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions(UpstreamOptions):
    """[backend] of a gate: the way to the model behind, and the fields of GateSettings."""

    # None: the model that the run's predictor was fitted on, else the run's name
    model: str | None = None
    answers_as: str | None = None
    refusal: str = REFUSAL
    reads: Literal["user", "all"] = "user"


@dataclass(kw_only=True, eq=False)
class PreAnswerBackend:
    """Implements demur.core.serving.Backend. Policies are for the scorer; the endpoint's model is
    looked up by name.
    """

    Options: ClassVar = GateOptions

    upstream: UpstreamOptions
    settings: GateSettings
    scorer: Scorer  # decides; belongs to the backend from now on

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
        """In front of any chat endpoint: the run's predictor decides, the model behind only
        answers.
        """
        settings = GateSettings(
            model=options.model or run.name,
            answers_as=options.answers_as or run.behind,
            refusal=options.refusal,
            reads=options.reads,
        )
        return cls(upstream=options, settings=settings, scorer=run.scorer())

    @property
    def fingerprint(self) -> Fingerprint:
        """The scorer's: policies are made for it."""
        return self._fingerprint

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Score and decide; begin the answer only if there is to be one. See
        demur.core.serving.Backend.

        Raises PolicyError on a policy of another scorer, what the scorer raises (ScoreDoubt,
        PromptTooLong, BackendError), EngineError where the endpoint refuses the request, and
        BackendDown, -Timeout or -Busy.
        """
        ask.policy.require_model(self._fingerprint)
        logp_C = await self._scored(ask.messages)
        decision = decide_or_doubt(ask.policy, logp_C)
        parts: AsyncIterator[AnswerPart] = no_parts()
        if not generates_nothing(ask, decision):
            parts = _said(self.settings.refusal) if decision.refuses else await self._answer(ask)
        return ServeReply(decision=decision, logp_C=logp_C, prompt_tokens=0, parts=parts)

    async def ready(self) -> None:
        """Score a prompt, and ask the endpoint whether it serves the model. Raises BackendDown
        saying why not.
        """
        await self._scored(_PROBE)
        async with self._checking:
            await self._check_upstream()

    async def close(self) -> None:
        """Hang up: open replies end with BackendDown."""
        self._batches.close()
        await self._client.close()

    async def _scored(self, messages: Prompt) -> Floats:
        read = (
            messages
            if self.settings.reads == "user"
            else tuple(replace(m, role="user") for m in messages)
        )
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
        except EngineError as e:  # callers would learn how the scorer is set up
            LOG.error("no score: %s", e)
            raise BackendDown("the scorer failed", "the log of this server says more") from None

    async def _answer(self, ask: ServeRequest) -> AnswerStream:
        """Begin the answer of the model behind."""
        if not self._served:
            async with self._checking:
                if not self._served:  # still: all first answers waited here, and one look is enough
                    await self._check_upstream()
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": m.role, "content": m.content} for m in ask.messages],
            **sampling_fields(ask),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.tools:
            body |= {"tools": list(ask.tools), "tool_choice": _tool_choice(ask.tool_choice)}
        if (wanted := response_format(ask.json_schema)) is not None:
            body["response_format"] = wanted
        rules = AnswerRules(most_tokens=ask.sampling.max_tokens, declined=self.settings.refusal)
        # Some accept anything at first and say what is wrong with it in the stream.
        wait = bool(ask.tools) or wanted is not None
        return await open_answer_stream(
            self._client.stream(CHAT, body), _EventReader(self._check), rules, wait=wait
        )

    async def _check_upstream(self) -> None:
        await require_served(self._client, self.settings.model)
        self._served = True

    def _check(self, chat: ChatPiece) -> None:
        """The endpoint is held to one name: another model declines other prompts."""
        if not chat.chosen and chat.error is None:
            return  # usage, or what some endpoints say of the prompt
        if chat.error is None and self._answers_as is None:
            self._answers_as = chat.model
        require_same_model(chat, self._answers_as or "")


class _EventReader:
    """Reads one answer's events: text goes on at once, tool calls when they are whole, as
    core.serving.Part has it.
    """

    def __init__(self, check: Callable[[ChatPiece], None]) -> None:
        self._check = check
        self._calls: dict[int, CallPiece] = {}
        self._counted = 0  # tokens

    def __call__(self, data: bytes) -> AnswerPart | None:
        """One event's part; None where it has no choice. Raises BackendDown on what cannot be
        read.
        """
        chat = read_event(data)
        self._check(chat)
        for call in chat.calls:
            self._take(call)
        finish = self._finish(chat)
        said = bool(chat.text or chat.refusal or chat.thought or chat.calls)
        if not (chat.chosen or chat.declined) and chat.completion_tokens is None:
            return None
        # The protocol sends about a token an event, and the exact number at the end, if it is
        # asked.
        counted = chat.completion_tokens
        tokens = int(said) if counted is None else max(0, counted - self._counted)
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
        """Add a piece to its call. Servers that send whole calls number none."""
        at = len(self._calls) if piece.index is None else piece.index
        before = self._calls.get(at, CallPiece())
        self._calls[at] = CallPiece(
            id=before.id or piece.id,
            name=before.name or piece.name,
            arguments=before.arguments + piece.arguments,
        )

    def _finish(self, chat: ChatPiece) -> Finish | None:
        """A forced call ends with "stop" in OpenAI's protocol. One that was cut short is no
        call.
        """
        if self._calls and chat.finish in ("stop", "tool_calls"):
            return "tool_calls"
        return finish_of_piece(chat)


def _whole(call: CallPiece) -> dict[str, Any]:
    """A gathered call in OpenAI's shape. Raises BackendDown if it calls nothing."""
    if not call.name:
        raise BackendDown("the backend calls a function without a name", "ask again")
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {
        "id": call.id or f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": function,
    }


def _tool_choice(choice: str | None) -> str | dict[str, Any]:
    if choice is None or choice in _OURS:
        return choice or "auto"
    return {"type": "function", "function": {"name": choice}}


async def _said(text: str) -> AsyncIterator[AnswerPart]:
    yield AnswerPart(text=text, finish="stop")
