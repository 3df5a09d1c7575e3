"""Chat clients of OpenAI-compatible endpoints, made from flags and --set endpoint.KEY=VALUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from demur.assembly.config import build, override
from demur.assembly.wiring import explain_missing_extra
from demur.base.errors import ConfigError

if TYPE_CHECKING:
    from demur.engines.remote.chat_client import ChatClient

ENDPOINT = "endpoint."  # prefix of the endpoint's settings in --set


def open_chat(given: Mapping[str, Any], overrides: Sequence[str]) -> ChatClient:
    """Make a client from flags and overrides; a flag counts less than an override.

    given: flags by setting, None where one was left out. Raises ConfigError on an unknown setting,
    and on an override of anything but the endpoint.
    """
    table: dict[str, Any] = {}
    for text in overrides:
        if not text.startswith(ENDPOINT):
            raise ConfigError(
                f"cannot use --set {text!r}", "write endpoint.KEY=VALUE, e.g. endpoint.tries=2"
            )
        override(table, text)
    options = {**{k: v for k, v in given.items() if v is not None}, **table.get("endpoint", {})}
    return chat_client(options, "--set: endpoint")


def chat_client(options: Mapping[str, Any], where: str) -> ChatClient:
    """Make a client of an OpenAI-compatible endpoint from its settings.

    where: names the settings in errors. Raises ConfigError on an unknown setting or a wrong value.
    """
    with explain_missing_extra("a chat endpoint"):
        from demur.engines.remote.chat_client import ChatClient, Endpoint

    return ChatClient(endpoint=build(Endpoint, options, where))
