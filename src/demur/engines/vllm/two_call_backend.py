"""The gateway: an unmodified vLLM server scores and answers in two calls.

1. Prompts are rendered and encoded here and sent as ids, so that users' text never becomes a
   control token.
2. The first call asks for one token and reads the control tokens' log-probabilities at its
   position; demur decides.
3. The second call continues after the chosen control token, from the server's prefix cache.
4. Under a policy with a monitor the second call reports the scores of every position. A stop hangs
   up, and a third call writes the refusal after what was written and the refusal token. vLLM's
   grammars mask these scores, so JSON and tool calls are refused under such a policy.
5. Before the first answer the server must reproduce reference scores; at every readiness check, the
   score of a fixed prompt. See docs/gateway.md for what is taken on trust.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import (
    BackendDown,
    ConfigError,
    DemurError,
    EngineError,
    PolicyError,
    PromptTooLong,
    ScoreDoubt,
    ScoreError,
)
from demur.core.calibrator import closed
from demur.core.decision import Decision, decide_or_doubt
from demur.core.example import Message
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import Stop
from demur.core.ports import Prompt
from demur.core.score import check_scores
from demur.core.serving import (
    AnswerPart,
    Finish,
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
from demur.engines.remote.declines import printable_name
from demur.engines.remote.upstream import LOG, UpstreamClient, UpstreamOptions, parse_body
from demur.engines.tool_calls import Mode, PartStream, Schema, mode_of, text_or_call, with_tools
from demur.engines.vllm.completions_api import (
    Completion,
    CompletionChoice,
    ModelList,
    control_token_ban,
    decision_body,
    encoder_of,
    logprob_fields,
    read_part,
    score_of,
    single_choice,
    writing_fields,
)
from demur.engines.vllm.watched_stream import WatchedReader, WatchedStream, WatchRules

Reference = tuple[Prompt, Floats]  # a prompt and its score (C,), as the policies' model gave it

_PROBE: Prompt = (Message(role="user", content="Hello."),)
# Nats by which a score may differ under a ban and at a lower temperature: batches of half
# precision. Where a server applies these first, it differs by a hundred.
_RAW_NATS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """The served model, as the first check found it."""

    answers_as: str  # the model name in its answers
    context: int | None  # tokens it reads; None: the server does not report it
    probe_C: Floats  # the score of a fixed prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedOptions(UpstreamOptions):
    """[backend] of a server that holds the run's model: its address and the model's name there."""

    model: str | None = None  # None: the run's name
    # test prompts whose scores the server must reproduce; 0: its weights are taken on trust
    references: int = 4

    def __post_init__(self) -> None:
        UpstreamOptions.__post_init__(self)
        if self.references < 0:
            raise ConfigError(f"references = {self.references} is below 0", "0: none is asked for")


@dataclass(kw_only=True, eq=False)
class TwoCallBackend:
    """Implements demur.core.serving.Backend in front of an unmodified vLLM server.

    declared: the fingerprint that the operator vouches for, from the policies or demur.json. Its
    tokenizer, template and control ids are compared with the tokenizer at hand; its weights and
    dtype only by `reference` scores. Raises EngineError when the tokenizer is another one.
    """

    Options: ClassVar = ServedOptions
    stops_nothing: ClassVar[None] = None

    upstream: UpstreamOptions
    model: str  # the served model's name
    tokenizer: str  # a folder or a Hugging Face name; no weights are read
    declared: Fingerprint
    keep_history: bool = True  # past assistant turns carry their control token, as in training
    reference: Sequence[Reference] = ()  # scores that the server must reproduce before it is ready
    tolerance: float = 0.02  # |probability| by which it may differ: half precision, other batches

    _client: UpstreamClient = field(init=False, repr=False)
    _served: ServedModel | None = field(default=None, init=False, repr=False)
    _is_raw: bool = field(default=False, init=False, repr=False)  # see _require_raw_scores

    def __post_init__(self) -> None:
        self._encoder, self._decoder = encoder_of(
            self.tokenizer, self.declared, keep_history=self.keep_history
        )
        # None where the template ends turns without a special token
        self._end_of_turn = self._encoder.end_of_turn
        self._client = UpstreamClient(self.upstream)
        self._encoding = asyncio.Lock()  # Hugging Face tokenizers must not be entered twice at once
        self._checking = asyncio.Lock()

    @classmethod
    def from_run(cls, run: ServedRun, options: ServedOptions) -> Self:
        """The backend in front of a server that holds the run's model."""
        return cls(
            upstream=options,
            model=options.model or run.name,
            tokenizer=str(run.model),
            declared=run.declared,
            keep_history=run.keep_history,
            reference=run.references(options.references),
        )

    @property
    def fingerprint(self) -> Fingerprint:
        """As declared: see the class."""
        return self.declared

    async def open(self, ask: ServeRequest) -> ServeReply:
        """Decide, then begin the answer. See demur.core.serving.Backend.

        Raises PolicyError on a policy of another model, PromptTooLong, ScoreDoubt where no score
        decides, EngineError for a schema or a tool choice that cannot be honoured, and BackendDown,
        BackendTimeout or BackendBusy.
        """
        ask.policy.require_model(self.declared)
        mode = mode_of(ask)
        if ask.policy.monitor is not None and (ask.json_schema is not None or mode != "none"):
            raise EngineError(
                "a policy with a monitor gets neither JSON nor tool calls from vLLM, whose grammar "
                "masks the scores that the monitor reads",
                "leave out response_format and tools, or use a policy without a monitor",
            )
        served = await self._served_model()
        ids = await self._encode(ask.messages)
        self._tokens_left(ids, served)
        logp_C, _ = await self._score(ids, served)
        decision = decide_or_doubt(ask.policy, logp_C)
        parts: AsyncIterator[AnswerPart] = no_parts()
        if not generates_nothing(ask, decision):
            parts = await self._answer(ask, ids, decision, mode)
        return ServeReply(decision=decision, logp_C=logp_C, prompt_tokens=len(ids), parts=parts)

    async def ready(self) -> None:
        """Check the served model by its name and by the score of a fixed prompt.

        The first time the reference prompts are scored too. Raises BackendDown when the model is
        missing or is not the one of the first time.
        """
        async with self._checking:
            self._served = await self._check_upstream(self._served)
            self._is_raw = False  # it may have been started again, with other settings

    async def close(self) -> None:
        """Close the connections: open replies end with BackendDown."""
        await self._client.close()

    async def _served_model(self) -> ServedModel:
        """The served model, checked before the first request is answered."""
        if self._served is None:
            async with self._checking:
                # Checked again: all first requests waited for the lock, and one check is enough.
                if self._served is None:
                    self._served = await self._check_upstream(None)
        return self._served

    async def _encode(self, messages: Prompt) -> list[int]:
        """Token ids of a prompt, encoded in a thread so that the event loop goes on."""
        async with self._encoding:
            return await asyncio.to_thread(self._encoder.prompt, messages)

    def _tokens_left(self, ids: Sequence[int], served: ServedModel) -> int | None:
        """Tokens left for an answer after its control token; None: no limit is known.

        Raises PromptTooLong where none are left.
        """
        room = None if served.context is None else served.context - len(ids) - 1
        if room is not None and room < 1:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens, the model reads {served.context}",
                "shorten the conversation",
            )
        return room

    async def _require_raw_scores(self, served: ServedModel) -> None:
        """Raise PolicyError unless the server reports scores as they are ahead of a ban.

        Control tokens are banned in mid-answer. A server that reports log-probabilities after the
        ban would show none of them, and no monitor would ever stop. Asked once after each check.
        """
        if self._is_raw:
            return
        banned = {
            "logit_bias": control_token_ban(self._encoder.token_ids),
            "temperature": 0.5,
        }
        logp_C, _ = await self._score(await self._encode(_PROBE), served, banned)
        apart = float(np.abs(logp_C - served.probe_C).max())
        if apart > _RAW_NATS:
            LOG.error("upstream scores a prompt as %s, without the ban %s", logp_C, served.probe_C)
            raise PolicyError(
                "the policy has a monitor, and the backend reports scores after its ban of control "
                f"tokens: {apart:.0f} nats away",
                "start it with --logprobs-mode raw_logprobs; or use a policy without a monitor",
            )
        self._is_raw = True

    async def _score(
        self,
        ids: Sequence[int],
        served: ServedModel | None,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[Floats, str]:
        """The score of a prompt, (C,), and the name that the server answers as.

        changes: of the request.
        """
        body = {"model": self.model, **decision_body(self._encoder, ids), **changes}
        completion = await self._client.post(
            "completions", body, partial(parse_body, kind=Completion)
        )
        name = served.answers_as if served else completion.model
        return self._checked_score(single_choice(completion, name)), name

    def _checked_score(self, choice: CompletionChoice | None) -> Floats:
        """The score at a choice's first token, (C,). Raises ScoreDoubt where it is invalid."""
        logp_C = score_of(choice or CompletionChoice(text=""), self._encoder.token_ids)
        try:
            check_scores(logp_C[None, :])
        except ScoreError as e:
            LOG.error("upstream: %s", e.message)
            raise ScoreDoubt(
                "the backend's control-token scores are no log-probabilities",
                "start it with --logprobs-mode raw_logprobs",
            ) from None
        return logp_C

    async def _answer(
        self, ask: ServeRequest, ids: list[int], decision: Decision, mode: Mode
    ) -> PartStream:
        """Begin the text after the control token. Neither a schema nor functions bind a refusal."""
        if decision.refuses:
            return await self._continue(ask, ids, decision.column, None)
        if mode == "none":
            return await self._continue(ask, ids, decision.column, ask.json_schema)
        # The decision was made on the prompt without the tools' description; the answer needs it.
        with_tools_ids = await self._encode(with_tools(ask))
        write = partial(self._continue, ask, with_tools_ids, decision.column)
        return await text_or_call(ask, mode, write)

    async def _continue(
        self, ask: ServeRequest, ids: list[int], column: int, schema: Schema | None
    ) -> PartStream:
        """Begin to write after the control token of a score column, watched by the monitor."""
        start = [*ids, self._encoder.token_ids[column]]
        if ask.policy.monitor is None or column:
            return await self._write(ask, start, self._read_part, schema)
        await self._require_raw_scores(await self._served_model())
        reader = WatchedReader(self._watch_rules(ask))
        parts = await self._write(ask, start, reader.read, schema, scores=True)
        return WatchedStream(parts, reader, partial(self._refuse, ask, start, reader.read))

    def _read_part(self, data: bytes) -> AnswerPart | None:
        """One event of an answer that nothing stops; see read_part."""
        return read_part(data, self._answers_as, self._encoder.token_ids)

    @property
    def _answers_as(self) -> str:
        """The served model's name in its answers; nothing is written before it was checked."""
        assert self._served is not None
        return self._served.answers_as

    def _watch_rules(self, ask: ServeRequest, *, plugged: bool = False) -> WatchRules:
        """How a watched answer is read. plugged: the server's plug-in stops it."""
        assert ask.policy.monitor is not None
        return WatchRules(
            monitor=ask.policy.monitor,
            token_ids=self._encoder.token_ids,
            model=self._answers_as,
            decode=partial(self._decoder.decode, skip_special_tokens=True),
            stops=ask.sampling.stop,
            plugged=plugged,
        )

    async def _refuse(
        self,
        ask: ServeRequest,
        start: list[int],
        read: Callable[[bytes], AnswerPart | None],
        stop: Stop,
        written: Sequence[int],
    ) -> PartStream:
        """Begin the model's own refusal after a stop. start: prompt and control token.

        read: the watched answer's, which makes the text from ids. The server's text would begin
        with all of the prompt where the stop divides a character.
        """
        # The refusal shares the answer's limit, and its control token takes one position.
        left = ask.sampling.max_tokens - len(written) - 1
        ids = [*start, *written, self._encoder.token_ids[stop.column]]
        context = None if self._served is None else self._served.context
        finish: Finish | None = None
        if not ask.policy.writes(stop.column):
            finish = "stop"
        elif left < 1 or (context is not None and len(ids) >= context):
            finish = "length"
        if finish is None:
            rest = replace(ask, sampling=replace(ask.sampling, max_tokens=left))
            try:
                return await self._write(rest, ids, read, None)
            except DemurError as e:
                # The stop stands; a text of the operator's takes the refusal's place.
                LOG.error("upstream wrote no refusal after a stop: %s", e.message)
                finish = "stop"
        end = AnswerPart(finish=finish)
        return AnswerStream(None, read, AnswerRules(most_tokens=1), end)

    async def _write(
        self,
        ask: ServeRequest,
        start: list[int],
        read: Callable[[bytes], AnswerPart | None],
        schema: Schema | None,
        *,
        scores: bool = False,
    ) -> AnswerStream:
        """Begin to write after some ids, the last one a control token. scores: at every position.

        Waits for the first part where its errors are the request's: vLLM accepts any schema at
        first, and a server without scores shows it in its first event.
        """
        room = self._tokens_left(start[:-1], await self._served_model())
        most = ask.sampling.max_tokens
        body = {
            "model": self.model,
            "prompt": start,
            **writing_fields(ask.sampling, most if room is None else min(most, room)),
            **(logprob_fields(self._encoder) if scores else {}),
            "logit_bias": control_token_ban(self._encoder.token_ids),
            "stop_token_ids": [] if self._end_of_turn is None else [self._end_of_turn],
        }
        if (wanted := response_format(schema)) is not None:
            body["response_format"] = wanted
        opening = self._client.stream("completions", body)
        rules = AnswerRules(most_tokens=most)
        return await open_answer_stream(opening, read, rules, wait=scores or wanted is not None)

    async def _check_upstream(self, before: ServedModel | None) -> ServedModel:
        """Check the served model. A server without valid scores is down, not in doubt."""
        try:
            return await self._check_model(before)
        except ScoreDoubt as e:
            raise BackendDown(e.message, e.hint) from None

    async def _check_model(self, before: ServedModel | None) -> ServedModel:
        """Check the model's name and scores. before: as the first check found it; None: this one.

        Raises BackendDown where they differ, ScoreDoubt where a score is missing or invalid.
        """
        models = await self._client.get("models", ModelList)
        card = next((m for m in models.data if m.id == self.model), None)
        if card is None:
            LOG.error(
                "upstream serves %s, not %r",
                ", ".join(printable_name(m.id) for m in models.data[:20]),
                self.model,
            )
            raise BackendDown(
                f"the backend does not serve {self.model!r}", "check its --served-model-name"
            )
        probe_C, name = await self._score(await self._encode(_PROBE), before)
        now = ServedModel(answers_as=name, context=card.max_model_len, probe_C=probe_C)
        if before is None:
            for prompt, logp_C in self.reference:
                self._require_same_score(
                    prompt, logp_C, (await self._score(await self._encode(prompt), now))[0]
                )
            return now
        self._require_same_score(_PROBE, before.probe_C, probe_C)
        return before

    def _require_same_score(self, prompt: Prompt, expected_C: Floats, found_C: Floats) -> None:
        """Raise BackendDown unless two scores are the same but for rounding."""
        # The control tokens' shares among each other too: before training all of them are
        # improbable, and their probabilities then never differ by much.
        pairs = ((expected_C, found_C), (closed(expected_C), closed(found_C)))
        apart = max(float(np.abs(np.exp(a_C) - np.exp(b_C)).max()) for a_C, b_C in pairs)
        if apart > self.tolerance:
            LOG.error(
                "upstream scores a prompt of %d turns as %s, expected %s",
                len(prompt),
                found_C,
                expected_C,
            )
            raise BackendDown(
                "the backend's model is not the one of the policies: probabilities are "
                f"{apart:.3f} apart",
                "serve the checkpoint, template and dtype that the policies were made with",
            )
