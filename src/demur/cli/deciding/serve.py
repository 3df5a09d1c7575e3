"""demur serve: a run's model behind OpenAI's chat protocol, under the run's policy or a folder of
them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.cli import options
from demur.cli.terminal import note
from demur.server.monitoring.log import JsonLines, LogWriter

if TYPE_CHECKING:
    from demur.server.app import Service

STDOUT = 1  # the descriptor: Python's buffered stream would be waited for at exit


ConfigFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TOML with [server], [limits], [files], [backend]."),
]
PoliciesFlag = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Policies, reloaded while serving. Default: the run's."),
]
TenantsFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Tenants and keys. Default: this machine only, no key."),
]
BackendFlag = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="hf (in this process), vllm, gateway, openai or gate."),
]
UrlFlag = Annotated[
    str | None, typer.Option(metavar="URL", help="Of the server behind, for all but hf.")
]
HostFlag = Annotated[str | None, typer.Option(help="Address to bind to. Default: 127.0.0.1.")]
PortFlag = Annotated[int | None, typer.Option(min=0, max=65535, help="Default: 8000; 0: any.")]


def command(
    run: options.Run,
    *,
    config: ConfigFlag = None,
    policies: PoliciesFlag = None,
    tenants: TenantsFlag = None,
    backend: BackendFlag = None,
    url: UrlFlag = None,
    host: HostFlag = None,
    port: PortFlag = None,
) -> None:
    """Serve until SIGTERM. Logs go to stdout, a JSON object a line."""
    from demur.assembly.run import reopen
    from demur.server.process import run_server
    from demur.server.start import open_service, read_serve_config

    workspace = reopen(run)
    # Flags win over the settings file, and that over the run's defaults. None: a flag not given.
    given: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port},
        "files": {"policies": policies, "tenants": tenants},
        "backend": {"kind": backend, "url": url},
    }
    found = read_serve_config(config, workspace, given)
    service = open_service(workspace, found)
    _log_to_stdout(service)
    # None: there is no tenants file, so that only this machine may ask, and needs no key
    served = service.state.registry.current.tenants
    keys = "no key needed" if served is None else f"{len(served.keys)} keys"
    run_server(
        service,
        lambda address: _note_or_nothing(
            f"serving {found.settings.model!r} on {address}/v1, {keys}"
        ),
    )


def _note_or_nothing(text: str) -> None:
    """Print a note on stderr; a closed or full stderr must not keep the server from starting."""
    with suppress(OSError):
        note(text)


def _log_to_stdout(service: Service) -> None:
    """Write logs to stdout, a JSON object a line. Lines that nobody reads are dropped and counted:
    a server must not wait for its log.
    """
    handler = LogWriter(STDOUT, service.state.metrics.count_dropped_log_lines)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("demur").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)  # else they go to stderr, which may have no reader either
