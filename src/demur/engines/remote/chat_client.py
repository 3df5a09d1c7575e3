"""The client of a chat endpoint for many questions at a time: retries, a budget, a record of use.

1. `ask_many` starts `in_flight` workers; each takes the next question, on a connection of its own.
2. A transient failure is retried after an exponential pause with jitter, or after the wait that the
   endpoint asks for; a rejected format or field at once, in the next form.
3. Before each request the budget is checked; what it does not reach is returned as not asked.
Implements demur.core.judging.judge.ChatModel.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from demur.base.errors import ConfigError, DemurError, EngineError
from demur.core.conversation.thoughts import split_thought
from demur.core.judging.judge import (
    NOT_ASKED,
    ChatAnswer,
    ChatQuestion,
    ChatReply,
    Declined,
    NoAnswer,
)
from demur.engines.remote.bounded_read import MOST_BYTES, ReadLimits, ResponseTooLarge, read_bounded
from demur.engines.remote.completion import (
    ChatPiece,
    MalformedReply,
    parse_json,
    read_chat,
    token_at,
    top_logprobs,
)
from demur.engines.remote.declines import declined_error, error_words
from demur.engines.remote.dialect import LIMIT, Dialect
from demur.engines.remote.http_request import (
    CHAT,
    LONGEST_WAIT_S,
    EndpointRequest,
    RejectedRequest,
    open_client,
    send_request,
)

Format = Literal["json_schema", "choice", "text"]
FORMATS: tuple[Format, ...] = ("json_schema", "choice", "text")

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses worth a retry
REFUSED_FORMAT = (400, 422, 501)  # statuses for a response format that a server does not know
REFUSED_KEY = (401, 403)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An endpoint's address, its limits and the budget. Raises ConfigError on an invalid number."""

    url: str  # up to and with /v1
    model: str
    key_variable: str = "OPENAI_API_KEY"  # environment variable of the key; unset: no key is sent
    format: Format = "json_schema"  # falls back to the next one where the endpoint refuses it
    max_tokens: int = 300  # of an answer, thoughts among them
    # or "max_completion_tokens"; the other one is tried where the endpoint asks for it
    token_limit: str = LIMIT
    leave_out: tuple[str, ...] = ()  # of temperature, seed: never sent
    most_bytes: int = MOST_BYTES  # of one answer
    seed: int | None = 0
    # asks for the likeliest tokens, from which a label's probability is read
    logprobs: bool = False
    likeliest: int = 5  # how many of them
    in_flight: int = 64  # requests at a time
    timeout_s: float = 60.0  # of one request, from sending to the last byte
    tries: int = 6  # of one request
    first_wait_s: float = 0.5  # doubled with each try, drawn between 0 and that
    most_calls: int | None = None  # the budget: nothing is sent once it is reached
    most_tokens: int | None = None  # prompt and completion together, as the endpoint counts them
    most_price: float | None = None  # in the caller's currency, by the two prices
    price_in: float = 0.0  # per million prompt tokens, in the caller's currency
    price_out: float = 0.0  # per million completion tokens

    def __post_init__(self) -> None:
        Dialect(limit=self.token_limit, leave_out=tuple(self.leave_out))  # raises ConfigError
        for name in ("max_tokens", "in_flight", "timeout_s", "tries", "most_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} must be above 0", "correct it, or leave it out"
                )
        if self.most_price is not None and not self.price_in + self.price_out > 0:
            raise ConfigError(
                f"most_price = {self.most_price:g} without a price", "set price_in and price_out"
            )
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"url {self.url!r} is no HTTP address", "such as http://localhost:8000/v1"
            )


@dataclass(kw_only=True, slots=True)
class Spent:
    """Counts of requests and tokens so far. Changes while requests are under way."""

    calls: int = 0  # requests sent, each try counted
    retries: int = 0
    failed: int = 0  # questions that got no answer
    declined: int = 0  # questions that a filter, or the model in a field of its own, declined
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def price(self, endpoint: Endpoint) -> float:
        """The cost of all tokens so far, in the caller's currency."""
        return (
            self.prompt_tokens * endpoint.price_in + self.completion_tokens * endpoint.price_out
        ) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """A try that failed and is worth another."""

    fault: str
    retry_after_s: float = 0.0  # the wait that the endpoint asks for


class _FormatRefused(Exception):
    """The endpoint rejects the response format."""


class _OtherDialect(Exception):
    """The endpoint rejects a field; `dialect` is the one to try next."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect.description)
        self.dialect = dialect


@dataclass(kw_only=True, slots=True)
class ChatClient:
    """A client of one endpoint. `spent` may be read at any time, from a progress callback too."""

    endpoint: Endpoint
    spent: Spent = field(default_factory=Spent)
    _dialect: Dialect | None = None  # the first one that worked
    _format: Format | None = None  # the best one that the endpoint takes, once that is known
    _trusted: ssl.SSLContext | None = None  # made once: it takes longer than a request

    @property
    def dialect(self) -> Dialect:
        """The dialect that worked, or the configured one before the first request."""
        e = self.endpoint
        return self._dialect or Dialect(limit=e.token_limit, leave_out=tuple(e.leave_out))

    @property
    def model(self) -> str:
        """The name that is asked for."""
        return self.endpoint.model

    @property
    def asked_as(self) -> str:
        """Model, sampling settings and listed log-probabilities, as a key of stored replies.

        The response format is no part of it.
        """
        e = self.endpoint
        listed = f" logprobs={e.likeliest}" if e.logprobs else ""
        return f"{e.model} temperature=0 seed={e.seed} max_tokens={e.max_tokens}{listed}"

    def ask_many(
        self, requests: Sequence[ChatQuestion], on_reply: Callable[[int, ChatReply], None]
    ) -> None:
        """Ask many questions; `on_reply` gets each one's index and its reply, in any order.

        See core.judging.judge.ChatModel. Raises EngineError when the endpoint rejects the key or
        has no such model.
        """
        asyncio.run(self._ask_many(requests, on_reply))

    async def _ask_many(
        self, requests: Sequence[ChatQuestion], on_reply: Callable[[int, ChatReply], None]
    ) -> None:
        e, places = self.endpoint, iter(range(len(requests)))
        self._trusted = trusted = self._trusted or ssl.create_default_context()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(e.in_flight, len(requests))):
                    group.create_task(self._work(trusted, requests, places, on_reply))
        except* DemurError as several:
            # Workers fail alike, for one wrong key: the caller gets the first error alone.
            inner: BaseException = several
            while isinstance(inner, BaseExceptionGroup):
                inner = inner.exceptions[0]
            raise inner from None

    async def _work(
        self,
        trusted: ssl.SSLContext,
        requests: Sequence[ChatQuestion],
        places: Iterator[int],
        on_reply: Callable[[int, ChatReply], None],
    ) -> None:
        """Ask the questions that other workers have not taken, one after another."""
        # A client of its own with one connection: httpx searches a shared pool at each request,
        # which takes time in proportion to the connections.
        key = os.environ.get(self.endpoint.key_variable)
        limits = httpx.Limits(max_connections=1)
        async with open_client(
            self.endpoint.url, key, httpx.Timeout(None), limits, trusted
        ) as http:
            for place in places:
                reply = await self._ask(http, requests[place])
                self.spent.failed += isinstance(reply, NoAnswer)
                self.spent.declined += isinstance(reply, Declined)
                on_reply(place, reply)

    async def _ask(self, http: httpx.AsyncClient, request: ChatQuestion) -> ChatReply:
        """Ask one question, with retries up to the endpoint's limit."""
        fault = ""
        for attempt in range(self.endpoint.tries):
            if over := self._over_budget():
                return NoAnswer(reason=over)
            self.spent.retries += attempt > 0
            reply = await self._try(http, request)
            if not isinstance(reply, _Failure):
                return reply
            fault = reply.fault
            # Full jitter: clients that failed together do not come back together.
            longest_s = min(LONGEST_WAIT_S, self.endpoint.first_wait_s * 2**attempt)
            await asyncio.sleep(max(reply.retry_after_s, random.uniform(0.0, longest_s)))
        return NoAnswer(reason=f"no answer in {self.endpoint.tries} tries: {fault}")

    async def _try(self, http: httpx.AsyncClient, request: ChatQuestion) -> ChatReply | _Failure:
        """One try, in the first format and dialect that the endpoint takes.

        A rejected format or field may be the fault of this request alone, so its replacement
        becomes the client's own only once it has worked.
        """
        sent_as = first = (
            (self._format or self.endpoint.format)
            if request.json_schema is not None
            else FORMATS[-1]
        )
        dialect = self.dialect
        while True:
            try:
                found = await self._send(http, request, sent_as, dialect)
            except (_FormatRefused, _OtherDialect) as e:
                if isinstance(e, _OtherDialect):
                    dialect = e.dialect
                else:
                    sent_as = FORMATS[FORMATS.index(sent_as) + 1]
                if over := self._over_budget():
                    return NoAnswer(reason=over)
                continue
            if isinstance(found, ChatAnswer):
                self._dialect = dialect
                if sent_as != first:  # max: another request may have fallen back further meanwhile
                    self._format = max(sent_as, self._format or sent_as, key=FORMATS.index)
            return found

    async def _send(
        self, http: httpx.AsyncClient, request: ChatQuestion, sent_as: Format, dialect: Dialect
    ) -> ChatReply | _Failure:
        """Send one request and read its reply; time, size and transport failures become values."""
        spent = self.spent
        spent.calls += 1
        spent.in_flight += 1
        spent.most_in_flight = max(spent.most_in_flight, spent.in_flight)
        asked = EndpointRequest(path=CHAT, body=_body(self.endpoint, request, sent_as))
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                response = await send_request(http, asked, dialect, ReadLimits())
                try:
                    data = await read_bounded(response, self.endpoint.most_bytes)
                finally:
                    await response.aclose()
        except RejectedRequest as e:
            return self._rejection(e, sent_as)
        except TimeoutError:
            return _Failure(fault=f"no answer within {self.endpoint.timeout_s:g} s")
        except ResponseTooLarge as e:  # no retry: it would be as large again
            return NoAnswer(reason=f"the endpoint sent {e}")
        except httpx.HTTPError as e:  # its message may hold bytes of the answer
            return _Failure(fault=type(e).__name__)
        finally:
            spent.in_flight -= 1
        return self._answer(data)

    def _rejection(self, rejected: RejectedRequest, sent_as: Format) -> ChatReply | _Failure:
        """The reply for a status other than 200. Only known words of its body are shown.

        Raises _OtherDialect or _FormatRefused where another form is worth a request, EngineError on
        a rejected key and a missing model.
        """
        status, error = rejected.status, rejected.error or rejected.text
        described = f"HTTP {status}{error_words(error)}"
        if (reason := declined_error(error, status)) is not None:
            return Declined(reason=reason)
        if status in AGAIN:
            return _Failure(fault=described, retry_after_s=rejected.retry_after_s)
        # The dialect comes first: its error names a field, a format's error may have any text.
        if rejected.retry_dialect is not None:
            raise _OtherDialect(rejected.retry_dialect)
        if status in REFUSED_FORMAT and sent_as != FORMATS[-1]:
            raise _FormatRefused(described)
        if status in REFUSED_KEY or status == httpx.codes.NOT_FOUND:
            hint = f"check url and model, and the key in {self.endpoint.key_variable}"
            raise EngineError(
                f"{self.endpoint.url} answers {described} for {self.endpoint.model!r}", hint
            )
        return NoAnswer(reason=described)

    def _answer(self, data: bytes) -> ChatReply | _Failure:
        """The reply in the body of a 200. A malformed body is worth a retry; a decline is not."""
        try:
            chat = read_chat(parse_json(data))
            self.spent.prompt_tokens += chat.prompt_tokens or 0
            self.spent.completion_tokens += chat.completion_tokens or 0
            if chat.error is not None:
                known = error_words(chat.error)
                return _Failure(fault=f"an error in the place of an answer{known}")
            return self._reply(chat)
        except MalformedReply as e:
            return _Failure(fault=f"a body that is no chat completion: {e}")

    def _reply(self, chat: ChatPiece) -> ChatReply:
        """The answer without its thought. Raises MalformedReply on invalid log-probabilities."""
        model = chat.model or (self.endpoint.model if chat.chosen else None)
        thought, text = split_thought(chat.text)
        if chat.declined is not None:
            return Declined(reason=chat.declined, text=chat.refusal or text, model=model)
        if not text.strip() and (thought or chat.thought):
            cut = (
                f", cut off after {self.endpoint.max_tokens} tokens"
                if chat.finish == "length"
                else ""
            )
            return NoAnswer(reason=f"a thought and no answer{cut}")
        tokens = tuple((token_at(chat, n), top_logprobs(chat, n)) for n in range(len(chat.places)))
        return ChatAnswer(text=text, model=model or self.endpoint.model, tokens=tokens)

    def _over_budget(self) -> str | None:
        """Why nothing more may be sent; None while the budget lasts."""
        e, s = self.endpoint, self.spent
        if e.most_calls is not None and s.calls >= e.most_calls:
            return f"{NOT_ASKED}: the budget of {e.most_calls} calls is spent"
        if e.most_tokens is not None and s.prompt_tokens + s.completion_tokens >= e.most_tokens:
            return f"{NOT_ASKED}: the budget of {e.most_tokens} tokens is spent"
        if e.most_price is not None and s.price(e) >= e.most_price:
            return f"{NOT_ASKED}: the budget of {e.most_price:g} in your currency is spent"
        return None


def _body(endpoint: Endpoint, request: ChatQuestion, sent_as: Format) -> dict[str, Any]:
    """The body of a request, greedy, with its response format as `sent_as` says."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "temperature": 0,
        "max_tokens": endpoint.max_tokens,
    }
    if endpoint.seed is not None:
        body["seed"] = endpoint.seed
    if endpoint.logprobs:
        body |= {"logprobs": True, "top_logprobs": endpoint.likeliest}
    if sent_as == "json_schema":
        schema = {"name": "label", "strict": True, "schema": request.json_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif sent_as == "choice":  # vLLM's name for "one of these"
        body["structured_outputs"] = {"choice": list(request.choices)}
    return body
