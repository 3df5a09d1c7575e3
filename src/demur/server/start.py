"""Open a run as a service: its settings, backend and policies put together.

1. Settings come from a TOML file with the tables [server], [limits], [files] and [backend]; what a
   caller passes beside the file overrides it.
2. Policies are read once without a model, to find the cascade that they were calibrated with.
3. The backend is made, then policies are read again, checked against the model that it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.assembly.backends import default_backend, front_of_policies, make_backend
from demur.assembly.config import build
from demur.assembly.run import Workspace, reopen
from demur.base.boundary import read_toml
from demur.base.errors import ConfigError
from demur.core.training.summary import taught_to_turn_back
from demur.server.settings import RequestLimits, ServerSettings
from demur.store.models.model_file import FILE_NAME, read_model_file
from demur.store.policies.folder import read_folder
from demur.store.policies.tenants_file import read_tenants
from demur.store.run import RunFolder, run_of

if TYPE_CHECKING:
    from demur.assembly.opened_run import Run
    from demur.server.app import Service

TABLES = ("server", "limits", "files", "backend")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeFiles:
    """[files] of the settings; relative paths start at the settings file."""

    policies: Path | None = None  # None: the run's own policy
    tenants: Path | None = None  # None: no keys, and nobody but this machine
    watch: tuple[Path, ...] | None = None  # runs whose promises are watched; None: this run
    # a folder for the scores of served requests; None: they are not written
    live: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """The settings of `demur serve`, from its settings file and its caller."""

    settings: ServerSettings
    files: ServeFiles
    # kind, url, and the options of that kind
    backend: Mapping[str, Any] = field(default_factory=dict)
    where: str = "settings"  # names the file in errors


def read_serve_config(
    path: Path | None, workspace: Workspace, given: Mapping[str, Mapping[str, Any]]
) -> ServeConfig:
    """Read the settings file and override it. path: the file; None: defaults.

    given: the caller's values by table, None where it passed none. Raises ConfigError naming the
    unknown table or key.
    """
    table = read_toml(path) if path else {}
    for name in (*table, *given):
        if name not in TABLES:
            raise ConfigError(
                f"{path}: {name}: unknown table", f"known tables: {', '.join(TABLES)}"
            )
    own: dict[str, dict[str, Any]] = {}
    for name in TABLES:
        own[name] = {k: v for k, v in given.get(name, {}).items() if v is not None}
    server = {"model": workspace.config.name, **table.get("server", {}), **own["server"]}
    limits = build(RequestLimits, {**table.get("limits", {}), **own["limits"]}, f"{path}: limits")
    listed = _anchored(
        build(ServeFiles, table.get("files", {}), f"{path}: files"), path.parent if path else Path()
    )
    return ServeConfig(
        settings=replace(build(ServerSettings, server, f"{path}: server"), limits=limits),
        files=replace(listed, **own["files"]),
        backend={**table.get("backend", {}), **own["backend"]},
        where=str(path),
    )


def open_service(workspace: Workspace, config: ServeConfig) -> Service:
    """Open the service of a run: load its model, or connect to the server behind; read policies.

    Raises ArtifactError on policies that are out of date, PolicyError on those of another model,
    ConfigError on settings that contradict each other or the run.
    """
    from demur.server.app import Service
    from demur.server.registry import Access

    # the run's own policy, or a folder, a file or the name of a policy that the run keeps
    folder, named = workspace.folder, config.files.policies
    path = named or folder.policy
    if named is not None and named.name in folder.policy_names and not named.exists():
        path = folder.named(named.name).policy
    if (of := run_of(path)) is not None:  # of this run or of another
        of.require_fresh("calibrate")
    tenants = read_tenants(config.files.tenants) if config.files.tenants else None
    options = dict(config.backend)
    kind, url = options.pop("kind", default_backend(workspace)), options.pop("url", None)
    workspace = replace(workspace, front=front_of_policies(read_folder(path)))
    backend = make_backend(kind, workspace, url, options, f"{config.where}: backend")
    taught = _taught_to_turn_back(workspace.folder.model)
    policies = read_folder(path, backend.fingerprint, config.settings.trust, taught=taught)
    access = Access(policies=policies, tenants=tenants, tenants_file=config.files.tenants)
    watched = _watched_runs(workspace, config.files.watch)
    return Service(config.settings, backend, access, watched, config.files.live)


def _taught_to_turn_back(model: Path) -> bool:
    """Whether the record beside a checkpoint says so; one without a record was not."""
    record = model / FILE_NAME
    return record.exists() and taught_to_turn_back(read_model_file(model).to_core().details)


def serve(
    run: Run | str | Path,
    settings: str | Path | None = None,
    *,
    started: Callable[[str], None] | None = None,
    **tables: Mapping[str, Any],
) -> None:
    """Serve OpenAI's chat protocol under the run's policy until SIGTERM or SIGINT. Blocks.

    settings: a TOML file as for `demur serve --config`. started: called with the address once it
    accepts connections, by default on this machine only. tables: override the file, such as
    server={"port": 0}, backend={"kind": "fake"}. Raises what open_service raises, and OSError if
    the address cannot be bound.
    """
    from demur.server.process import run_server

    workspace = reopen(Path(run)) if isinstance(run, str | Path) else run.workspace
    config = read_serve_config(Path(settings) if settings is not None else None, workspace, tables)
    run_server(open_service(workspace, config), started or (lambda _: None))


def _anchored(files: ServeFiles, base: Path) -> ServeFiles:
    """Resolve relative paths from the folder of the settings file."""
    return ServeFiles(
        policies=base / files.policies if files.policies else None,
        tenants=base / files.tenants if files.tenants else None,
        watch=None if files.watch is None else tuple(base / w for w in files.watch),
        live=base / files.live if files.live else None,
    )


def _watched_runs(workspace: Workspace, named: Sequence[Path] | None) -> list[RunFolder]:
    """Return the runs whose calibration scores live scores are compared with; None: this run.

    Raises ArtifactError if a named one holds no scores.
    """
    if named is None:
        return [workspace.folder]
    for root in named:
        RunFolder(root).require("score")
    return [RunFolder(root) for root in named]
