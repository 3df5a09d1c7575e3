"""demur serve: a run's model behind OpenAI's chat protocol, under the run's policy or a folder of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.assembly.backends import default_backend, front_of_policies, make_backend
from demur.assembly.config import build
from demur.assembly.run import Workspace, reopen
from demur.base.boundary import read_toml
from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.show import note
from demur.server.app import Service
from demur.server.log import JsonLines, LogWriter
from demur.server.policies import Access
from demur.server.run import run as run_until_told
from demur.server.settings import Limits, Settings
from demur.store.policy_folder import read_folder
from demur.store.run import RunFolder, run_of
from demur.store.tenants_file import read_tenants

STDOUT = 1  # the descriptor: Python's buffered stream would be waited for at exit


def _policies(folder: RunFolder, named: Path | None) -> Path:
    """The policies to serve: a folder, a file, or the name of one that the run keeps. None: the run's own."""
    if named is not None and named.name in folder.policy_names and not named.exists():
        return folder.named(named.name).policy
    return named or folder.policy


TABLES = ("server", "limits", "files", "backend")


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """[files] of the settings; relative paths start at the settings file."""

    policies: Path | None = None  # None: the run's own policy
    tenants: Path | None = None  # None: no keys, and nobody but this machine
    watch: tuple[Path, ...] | None = None  # runs whose promises are watched; None: this run
    live: Path | None = None  # a folder for the scores of served requests; None: they are not written


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """Everything that flags and settings say."""

    settings: Settings
    files: Files
    backend: dict[str, Any]


def command(
    run: options.Run,
    *,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML with [server], [limits], [files], [backend].")
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Policies, reloaded while serving. Default: the run's.")
    ] = None,
    tenants: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tenants and keys. Default: this machine only, no key.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="hf (in this process), vllm, gateway, openai or gate.")
    ] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Of the server behind, for all but hf.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind to. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: 8000; 0: any.")] = None,
) -> None:
    """Serve until SIGTERM. Logs go to stdout, a JSON object a line."""
    workspace = reopen(run)
    flags = {"host": host, "port": port}, {"policies": policies, "tenants": tenants}, {"kind": backend, "url": url}
    told = _told(config, workspace, *[{k: v for k, v in part.items() if v is not None} for part in flags])
    path = _policies(workspace.folder, told.files.policies)
    if (of := run_of(path)) is not None:  # of this run or of another
        of.require_fresh("calibrate")
    tenants_read = read_tenants(told.files.tenants) if told.files.tenants else None
    kind, at = told.backend.pop("kind", default_backend(workspace)), told.backend.pop("url", None)
    workspace = replace(workspace, front=front_of_policies(read_folder(path)))
    made = make_backend(kind, workspace, at, told.backend, f"{config}: backend")
    access = Access(
        policies=read_folder(path, made.fingerprint, told.settings.trust),
        tenants=tenants_read,
        tenants_file=told.files.tenants,
    )
    service = Service(told.settings, made, access, _watched_runs(workspace, told.files.watch), told.files.live)
    _log_to_stdout(service)
    keys = "no key needed" if tenants_read is None else f"{len(tenants_read.keys)} keys"
    run_until_told(service, lambda address: _say(f"serving {told.settings.model!r} on {address}/v1, {keys}"))


def _told(
    path: Path | None, workspace: Workspace, server: dict[str, Any], files: dict[str, Any], backend: dict[str, Any]
) -> _Told:
    """Flags over the settings file over defaults. Raises ConfigError naming the key."""
    table = read_toml(path) if path else {}
    for name in table:
        if name not in TABLES:
            raise ConfigError(f"{path}: {name}: unknown table", f"known tables: {', '.join(TABLES)}")
    base = path.parent if path else Path()
    settings = build(Settings, {"model": workspace.config.name, **table.get("server", {}), **server}, f"{path}: server")
    limits = build(Limits, table.get("limits", {}), f"{path}: limits")
    listed = _anchored(build(Files, table.get("files", {}), f"{path}: files"), base)
    return _Told(
        settings=replace(settings, limits=limits),
        files=replace(listed, **files),
        backend={**table.get("backend", {}), **backend},
    )


def _anchored(files: Files, base: Path) -> Files:
    return Files(
        policies=base / files.policies if files.policies else None,
        tenants=base / files.tenants if files.tenants else None,
        watch=None if files.watch is None else tuple(base / w for w in files.watch),
        live=base / files.live if files.live else None,
    )


def _watched_runs(workspace: Workspace, named: Sequence[Path] | None) -> list[RunFolder]:
    """The runs that policies are watched from. Raises ArtifactError if one that was named holds no scores."""
    if named is None:
        return [workspace.folder]
    for root in named:
        RunFolder(root).require("score")
    return [RunFolder(root) for root in named]


def _say(text: str) -> None:
    """A note on stderr; a closed or full stderr is no reason not to serve."""
    with suppress(OSError):
        note(text)


def _log_to_stdout(service: Service) -> None:
    handler = LogWriter(STDOUT, service.house.metrics.log_dropped)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("demur").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)  # else they go to stderr, which may have no reader either
