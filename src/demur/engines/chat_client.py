"""Any OpenAI-compatible chat endpoint, asked many things at once: retries, a budget, and a record of what was spent.

Implements demur.core.judging.Chat.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from demur.core.errors import ConfigError, DemurError, EngineError
from demur.core.judging import NOT_ASKED, ChatRequest, Reply, Said, Unsaid

Format = Literal["json_schema", "choice", "text"]
FORMATS: tuple[Format, ...] = ("json_schema", "choice", "text")

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # worth another try
REFUSED_FORMAT = (400, 422, 501)  # what servers say to a response format that they do not know
REFUSED_KEY = (401, 403)
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where to ask, and how much. Raises ConfigError on a number that cannot be."""

    url: str  # up to and with /v1
    model: str
    key_variable: str = "OPENAI_API_KEY"  # environment variable of the key; unset: no key is sent
    format: Format = "json_schema"  # falls back to the next one where the endpoint refuses it
    max_tokens: int = 300
    seed: int | None = 0
    logprobs: bool = False  # asks for the likeliest tokens, from which a label's probability is read
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
        for name in ("max_tokens", "in_flight", "timeout_s", "tries"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} = {getattr(self, name)} must be above 0", "correct it, or leave it out")
        if self.most_price is not None and not self.price_in + self.price_out > 0:
            raise ConfigError(f"most_price = {self.most_price:g} without a price", "set price_in and price_out")
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url {self.url!r} is no HTTP address", "such as http://localhost:8000/v1")


@dataclass(kw_only=True, slots=True)
class Spent:
    """What was asked so far. Changes while requests are under way."""

    calls: int = 0  # requests sent, each try counted
    retries: int = 0
    failed: int = 0  # questions that got no answer
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def price(self, endpoint: Endpoint) -> float:
        """In the caller's currency."""
        return (self.prompt_tokens * endpoint.price_in + self.completion_tokens * endpoint.price_out) / 1e6


class _Refused(Exception):
    """The endpoint does not take the response format."""


@dataclass(kw_only=True, slots=True)
class ChatClient:
    """One endpoint. `spent` may be read at any time, from a progress callback too."""

    endpoint: Endpoint
    spent: Spent = field(default_factory=Spent)
    _format: Format | None = None  # the best one that the endpoint takes, once that is known
    _trusted: ssl.SSLContext | None = None  # made once: it takes longer than a request

    @property
    def asked_as(self) -> str:
        """Model and sampling settings, and whether probabilities come with the answers. Not the form it is held to."""
        e = self.endpoint
        told = f" logprobs={e.likeliest}" if e.logprobs else ""
        return f"{e.model} temperature=0 seed={e.seed} max_tokens={e.max_tokens}{told}"

    def ask_many(self, requests: Sequence[ChatRequest], on_reply: Callable[[int, Reply], None]) -> None:
        """See core.judging.Chat. Raises EngineError when the endpoint refuses the key, or has no such model."""
        asyncio.run(self._ask_many(requests, on_reply))

    async def _ask_many(self, requests: Sequence[ChatRequest], on_reply: Callable[[int, Reply], None]) -> None:
        e, places = self.endpoint, iter(range(len(requests)))
        self._trusted = trusted = self._trusted or ssl.create_default_context()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(e.in_flight, len(requests))):
                    group.create_task(self._work(trusted, requests, places, on_reply))
        except* DemurError as several:
            raise _first(several) from None

    async def _work(
        self,
        trusted: ssl.SSLContext,
        requests: Sequence[ChatRequest],
        places: Iterator[int],
        on_reply: Callable[[int, Reply], None],
    ) -> None:
        """One request after another, on a connection of its own: httpx looks through a shared pool at each request."""
        key = os.environ.get(self.endpoint.key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(
            timeout=None, limits=limits, headers=headers, trust_env=False, verify=trusted
        ) as http:
            for place in places:
                reply = await self._ask(http, requests[place])
                self.spent.failed += isinstance(reply, Unsaid)
                on_reply(place, reply)

    async def _ask(self, http: httpx.AsyncClient, request: ChatRequest) -> Reply:
        """One question, with all its tries."""
        fault = ""
        for attempt in range(self.endpoint.tries):
            if over := self._over_budget():
                return Unsaid(reason=over)
            self.spent.retries += attempt > 0
            reply, wait_s = await self._try(http, request)
            if reply is not None:
                return reply
            fault, pause_s = wait_s
            await asyncio.sleep(max(pause_s, self._pause_s(attempt)))
        return Unsaid(reason=f"no answer in {self.endpoint.tries} tries: {fault}")

    async def _try(self, http: httpx.AsyncClient, request: ChatRequest) -> tuple[Reply | None, tuple[str, float]]:
        """(reply, ...) or (None, (what went wrong, seconds that the endpoint asks to wait)).

        A format that is refused may be the request's own fault: the next one becomes the client's once it has worked.
        """
        sent_as = first = (self._format or self.endpoint.format) if request.json_schema is not None else FORMATS[-1]
        while True:
            try:
                found = await self._send(http, request, sent_as)
            except _Refused:
                sent_as = FORMATS[FORMATS.index(sent_as) + 1]
                if over := self._over_budget():
                    return Unsaid(reason=over), ("", 0.0)
                continue
            if sent_as != first and isinstance(found[0], Said):  # another request may have got further meanwhile
                self._format = max(sent_as, self._format or sent_as, key=FORMATS.index)
            return found

    async def _send(
        self, http: httpx.AsyncClient, request: ChatRequest, sent_as: Format
    ) -> tuple[Reply | None, tuple[str, float]]:
        spent = self.spent
        spent.calls += 1
        spent.in_flight += 1
        spent.most_in_flight = max(spent.most_in_flight, spent.in_flight)
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                url = f"{self.endpoint.url.rstrip('/')}/chat/completions"
                response = await http.post(url, json=_body(self.endpoint, request, sent_as))
        except TimeoutError:
            return None, (f"no answer within {self.endpoint.timeout_s:g} s", 0.0)
        except httpx.HTTPError as e:
            return None, (f"{type(e).__name__}: {e}", 0.0)
        finally:
            spent.in_flight -= 1
        return self._read(response, sent_as)

    def _read(self, response: httpx.Response, sent_as: Format) -> tuple[Reply | None, tuple[str, float]]:
        status, start = response.status_code, " ".join(response.text[:200].split())
        if status in AGAIN:
            return None, (f"HTTP {status}: {start}", _retry_after_s(response))
        if status in REFUSED_FORMAT and sent_as != FORMATS[-1]:
            raise _Refused(f"HTTP {status}: {start}")
        if status in REFUSED_KEY or status == httpx.codes.NOT_FOUND:
            hint = f"check url and model, and the key in {self.endpoint.key_variable}"
            raise EngineError(f"{self.endpoint.url} answers HTTP {status} for {self.endpoint.model!r}: {start}", hint)
        if status != httpx.codes.OK:
            return Unsaid(reason=f"HTTP {status}: {start}"), ("", 0.0)
        try:
            return self._said(response.json()), ("", 0.0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
            return None, (f"a body that is no chat completion ({type(e).__name__}): {start}", 0.0)

    def _said(self, body: Any) -> Said:
        usage = body.get("usage") or {}
        self.spent.prompt_tokens += int(usage.get("prompt_tokens", 0))
        self.spent.completion_tokens += int(usage.get("completion_tokens", 0))
        choice = body["choices"][0]
        text = choice["message"].get("content") or choice["message"].get("refusal") or ""
        return Said(text=str(text), model=str(body.get("model") or self.endpoint.model), tokens=_tokens(choice))

    def _over_budget(self) -> str | None:
        e, s = self.endpoint, self.spent
        if e.most_calls is not None and s.calls >= e.most_calls:
            return f"{NOT_ASKED}: the budget of {e.most_calls} calls is spent"
        if e.most_tokens is not None and s.prompt_tokens + s.completion_tokens >= e.most_tokens:
            return f"{NOT_ASKED}: the budget of {e.most_tokens} tokens is spent"
        if e.most_price is not None and s.price(e) >= e.most_price:
            return f"{NOT_ASKED}: the budget of {e.most_price:g} in your currency is spent"
        return None

    def _pause_s(self, attempt: int) -> float:
        """Full jitter: clients that failed together do not come back together."""
        return random.uniform(0.0, min(LONGEST_WAIT_S, self.endpoint.first_wait_s * 2**attempt))


def _body(endpoint: Endpoint, request: ChatRequest, sent_as: Format) -> dict[str, Any]:
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


def _tokens(choice: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    content = (choice.get("logprobs") or {}).get("content") or ()
    return tuple(
        (str(t["token"]), tuple((str(o["token"]), float(o["logprob"])) for o in t.get("top_logprobs", ())))
        for t in content
    )


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds of a Retry-After header; 0 where there is none, or a date."""
    try:
        return min(max(float(response.headers.get("retry-after", 0.0)), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return 0.0


def _first(several: BaseExceptionGroup[Any]) -> BaseException:
    inner: BaseException = several
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
