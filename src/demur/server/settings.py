"""The server's settings: the tables [server] and [limits]; backends have their own options."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

from demur.base.errors import ConfigError
from demur.core.midway.monitor import AnswerSampling
from demur.store.policies.trust import Otherwise, Trust

OnDoubt = Literal["refuse", "error"]
DecidesOn = Literal["conversation", "latest turn"]
RefusalFinish = Literal["stop", "content_filter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """Limits of one request. Rates and concurrency are the tenant's: demur.core.access.Tenant."""

    body_bytes: int = 1 << 20
    body_s: float = 30.0  # until the whole body is here
    write_s: float = 30.0  # for which a client may leave a piece of its answer unread
    request_s: float = 600.0  # from a request's headers to the end of its answer
    messages: int = 256
    choices: int = 4  # n
    answer_tokens: int = 512  # where the request does not say
    most_answer_tokens: int = 4096
    in_flight: int = 512  # requests of all callers together
    # different schemas and sets of tools of one key at a time; further requests wait for their turn
    schemas: int = 4

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"limits.{name} = {getattr(self, name)} is not above 0",
                    "leave it out: it has a default",
                )
        if self.answer_tokens > self.most_answer_tokens:
            raise ConfigError(
                "limits.answer_tokens is above limits.most_answer_tokens", "raise the second one"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Settings of the server. Raises ConfigError on values that contradict each other."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    model: str = "demur"  # the name under which clients ask for it
    # without a tenants file; None: the only policy, or the first by name
    default_policy: str | None = None
    # "latest turn": the messages since the last answer decide; the whole conversation is answered
    decides_on: DecidesOn = "conversation"
    # categories that text in tools and schemas can be refused with; none named: all of them
    declared_categories: tuple[str, ...] = ()
    on_doubt: OnDoubt = "refuse"  # no decision can be made: refuse, or answer with an error
    # sent then, and behind a stop where no token is left to write a refusal with
    doubt_text: str = "I can't help with that right now."
    # finish_reason of a refusal; OpenAI's own refusals end with "stop"
    refusal_finish: RefusalFinish = "stop"
    # finish_reason of an answer that a policy's monitor stopped: its text is not whole
    stop_finish: RefusalFinish = "content_filter"
    # how answers are sampled where the request does not say
    temperature: float = 1.0
    top_p: float = 1.0
    reload_s: float = 2.0  # between two looks at the policies and the tenants file
    shutdown_s: float = 30.0  # for which answers may go on being written after SIGTERM
    # between SIGTERM and no new connections: time for a load balancer to see /readyz
    linger_s: float = 0.0
    open_metrics: bool = False  # /metrics without a key, on a loopback address only
    describe: bool = False  # serve /openapi.json
    # public keys; if there are any, a promise counts only in a policy signed by one of them
    trusted_keys: tuple[str, ...] = ()
    # what becomes of a policy whose promises do not count: it decides; "error": it is not used
    unproven: Otherwise = "not certified"
    watch_rows: int = 64  # live scores that a promise's monitor takes in at a time
    limits: RequestLimits = field(default_factory=RequestLimits)

    def __post_init__(self) -> None:
        Trust(keys=self.trusted_keys, otherwise=self.unproven)  # raises on an invalid key
        for name, value, most in (
            ("temperature", self.temperature, 2.0),
            ("top_p", self.top_p, 1.0),
        ):
            if not 0.0 <= value <= most or (name == "top_p" and value == 0.0):
                raise ConfigError(
                    f"server.{name} = {value} is not in [0, {most:g}]", "leave it out: 1 is usual"
                )
        if self.open_metrics and not self.is_local:
            raise ConfigError(
                f"open_metrics beside host {self.host!r} would show tenants and decisions to "
                "anybody",
                "scrape with an operator's key, or bind to 127.0.0.1",
            )

    @property
    def trust(self) -> Trust:
        """The rule for which policies' promises count. Raises ConfigError on an invalid key."""
        return Trust(keys=self.trusted_keys, otherwise=self.unproven)

    @property
    def usual_answers(self) -> AnswerSampling:
        """How answers are written to a request that asks for nothing else."""
        return AnswerSampling(
            most_tokens=self.limits.answer_tokens, temperature=self.temperature, top_p=self.top_p
        )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
