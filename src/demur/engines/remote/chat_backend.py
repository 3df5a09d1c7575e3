"""The backend in front of any OpenAI-compatible chat endpoint that serves the run's model.

1. The first call asks for one token and the 20 most probable ones. A control token outside the 20
   is known by a bound only: ScoreDoubt where several decisions stay open (partial_scores.py).
2. The second call continues an assistant message that consists of the control token. Whether the
   server can do so is tried before the backend is ready.
3. The upstream renders prompts. So control tokens in users' text are broken by a word joiner,
   where vllm/two_call_backend.py encodes them apart.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from demur.base.boundary import read_json
from demur.base.errors import EngineError
from demur.core.decision import Decision
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Prompt
from demur.core.serving import (
    AnswerPart,
    ServedRun,
    ServeReply,
    ServeRequest,
    generates_nothing,
    no_parts,
)
from demur.engines.remote.answer_stream import (
    AnswerRules,
    AnswerStream,
    open_answer_stream,
    response_format,
)
from demur.engines.remote.chat_protocol import (
    finish_of_piece,
    first_token_logprobs,
    read_completion,
    read_event,
    require_same_model,
    require_served,
    sampling_fields,
)
from demur.engines.remote.partial_scores import decide_partial
from demur.engines.remote.upstream import UpstreamClient, UpstreamOptions
from demur.engines.tool_calls import Mode, PartStream, Schema, mode_of, text_or_call, with_tools

TOP = 20  # the most that the protocol allows
WORD_JOINER = "\u2060"  # invisible, and not a line break
_PREFILL = {"continue_final_message": True, "add_generation_prompt": False}
_BAN = -100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatOptions(UpstreamOptions):
    """[backend] of a chat endpoint that serves the run's model: its address and the model's name
    there.
    """

    model: str | None = None  # None: the run's name


@dataclass(kw_only=True, eq=False)
class OpenAiBackend:
    """Implements demur.core.serving.Backend in front of a chat endpoint with log-probabilities and
    prefill.

    declared: the fingerprint that the operator vouches for; the protocol allows no check of it.
    Raises EngineError for a literal that a word joiner cannot break.
    """

    Options: ClassVar = ChatOptions
    stops_nothing: ClassVar[str] = "a chat endpoint"

    upstream: UpstreamOptions
    model: str  # the served model's name
    declared: Fingerprint
    keep_history: bool = True  # past assistant turns carry their control token, as in training
    # further special tokens of the served model, broken in users' text like ours
    literals: Sequence[str] = ()

    _client: UpstreamClient = field(init=False, repr=False)
    _answers_as: str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = UpstreamClient(self.upstream)
        # Longest first: of two tokens that begin alike, the regular expression takes the first.
        longest_first = sorted({*self.declared.tokens, *self.literals}, key=len, reverse=True)
        if whole := [t for t in longest_first if len(t) < 2 or WORD_JOINER in t]:
            raise EngineError(
                f"{whole} cannot be broken by a word joiner",
                "name literals of two characters or more",
            )
        self._literal = re.compile("|".join(map(re.escape, longest_first)))
        self._checking = asyncio.Lock()

    @classmethod
    def from_run(cls, run: ServedRun, options: ChatOptions) -> OpenAiBackend:
        """The backend in front of an endpoint that serves the run's model.

        The special tokens of its tokenizer are broken in users' text too.
        """
        added = read_json(run.model / "tokenizer.json").get("added_tokens", [])
        # A literal of one character could not be broken.
        special = [t["content"] for t in added if t.get("special") and len(t["content"]) > 1]
        return cls(
            upstream=options,
            model=options.model or run.name,
            declared=run.declared,
            keep_history=run.keep_history,
            literals=tuple(special),
        )

    @property
    def fingerprint(self) -> Fingerprint:
        """As declared: see the class."""
        return self.declared

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Decide, then begin the answer. See demur.core.serving.Backend.

        Raises PolicyError on a policy of another model, ScoreDoubt when 20 tokens do not settle the
        decision, EngineError for a schema or a tool choice that cannot be honoured, and
        BackendDown, -Timeout or -Busy.
        """
        ask.policy.require_model(self.declared)
        ask.policy.require_no_monitor(self.stops_nothing)
        mode = mode_of(ask)
        if self._answers_as is None:
            async with self._checking:
                # Checked again: all first requests waited for the lock, and one check is enough.
                if self._answers_as is None:
                    await self._check_upstream()
        listed, prompt_tokens = await self._first_token(self._render(ask.messages))
        decision, logp_C = decide_partial(ask.policy, listed, self.declared.tokens)
        parts: AsyncIterator[AnswerPart] = no_parts()
        if not generates_nothing(ask, decision):
            parts = await self._answer(ask, decision, mode)
        return ServeReply(
            decision=decision, logp_C=logp_C, prompt_tokens=prompt_tokens, parts=parts
        )

    async def ready(self) -> None:
        """Check that the model is served; the first time, that an assistant message can be
        continued after one token.

        Raises BackendDown when the model is missing or answers by another name, EngineError when
        the server cannot continue an assistant message.
        """
        async with self._checking:
            await self._check_upstream()

    async def _check_upstream(self) -> None:
        await require_served(self._client, self.model)
        if self._answers_as is None:
            self._answers_as = await self._try_prefill()

    async def close(self) -> None:
        """Close the connections: open replies end with BackendDown."""
        await self._client.close()

    def _render(self, messages: Prompt) -> list[dict[str, Any]]:
        """Messages whose texts hold no control token but ours."""
        # Past answers open with the respond token where training had it so.
        answered = self.declared.tokens[0] if self.keep_history else ""
        rendered = []
        for message in messages:
            text = message.content
            # A word joiner goes behind the first character of each literal. Breaking one may leave
            # another that overlapped it, so this repeats until none is found.
            while self._literal.search(text):
                text = self._literal.sub(lambda m: m.group()[0] + WORD_JOINER + m.group()[1:], text)
            opening = answered if message.role == "assistant" else ""
            rendered.append({"role": message.role, "content": opening + text})
        return rendered

    async def _first_token(self, messages: list[dict[str, Any]]) -> tuple[dict[str, float], int]:
        """Log-probabilities of the most probable first tokens, and the prompt's token count."""
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": 1.0,  # some servers report log-probabilities after processing
            "logprobs": True,
            "top_logprobs": TOP,
            "max_tokens": 1,
        }
        chat = await self._client.post("chat/completions", body, read_completion)
        require_same_model(chat, self._answers_as or chat.model)
        return first_token_logprobs(chat), chat.prompt_tokens or 0

    async def _answer(self, ask: ServeRequest, decision: Decision, mode: Mode) -> PartStream:
        """Begin the text after the control token. Neither a schema nor functions bind a refusal."""
        write = partial(self._continue, ask, decision.column)
        if decision.refuses:
            return await write(ask.messages, None)
        if mode == "none":
            return await write(ask.messages, ask.json_schema)
        return await text_or_call(ask, mode, partial(write, with_tools(ask)))

    async def _continue(
        self, ask: ServeRequest, column: int, messages: Prompt, schema: Schema | None
    ) -> AnswerStream:
        """Begin to write after the control token of a score column."""
        body = {
            **self._continuation_body(self._render(messages), column),
            **sampling_fields(ask),
            "stream": True,
        }
        if (wanted := response_format(schema)) is not None:
            body["response_format"] = wanted
        read = partial(self._part, answers_as=self._answers_as or "")
        rules = AnswerRules(most_tokens=ask.sampling.max_tokens)
        # Some servers accept any schema at first and report its errors in the stream.
        return await open_answer_stream(
            self._client.stream("chat/completions", body), read, rules, wait=wanted is not None
        )

    def _continuation_body(self, messages: list[dict[str, Any]], column: int) -> dict[str, Any]:
        """The request that continues after a control token, with all control tokens banned."""
        opened = [*messages, {"role": "assistant", "content": self.declared.tokens[column]}]
        banned = {str(i): _BAN for i in self.declared.token_ids}
        return {"model": self.model, "messages": opened, "logit_bias": banned, **_PREFILL}

    async def _try_prefill(self) -> str:
        """The model name in the server's answers, once it has proved to continue a prefilled token.

        Raises EngineError unless a prefilled control token makes the prompt one token longer. A
        server that ignores the request to continue closes the turn and opens another, which takes
        several tokens.
        """
        messages = [{"role": "user", "content": "Hello."}]
        body = {"model": self.model, "messages": messages, "max_tokens": 1}
        plain = await self._client.post("chat/completions", body, read_completion)
        opened = await self._client.post(
            "chat/completions",
            {**self._continuation_body(messages, 0), "max_tokens": 1},
            read_completion,
        )
        counted = [c.prompt_tokens for c in (plain, opened)]
        if None in counted or counted[1] != counted[0] + 1:  # type: ignore[operator]
            raise EngineError(
                "the backend cannot continue an assistant message after "
                f"{self.declared.tokens[0]!r}: prompts of {counted[0]} and {counted[1]} tokens, "
                "expected one more",
                "it must know continue_final_message, keep the control token one id, and report "
                "usage",
            )
        return plain.model

    def _part(self, data: bytes, answers_as: str) -> AnswerPart | None:
        """One event as a part; None where it has no choice, such as one with usage only."""
        chat = read_event(data)
        if not chat.chosen and chat.error is None and chat.declined is None:
            return None
        require_same_model(chat, answers_as)
        # The protocol counts no tokens in an event and sends about one token in each.
        has_text = bool(chat.text or chat.refusal or chat.thought)
        return AnswerPart(
            text=chat.text,
            refusal=chat.refusal,
            thought=chat.thought,
            tokens=int(has_text),
            finish=finish_of_piece(chat),
        )
