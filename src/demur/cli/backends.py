"""The backend that `demur serve` was told to use, made from a run's model and the [backend] table of its settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demur.cli.workspace import Engine, Workspace
from demur.config import build
from demur.core.errors import ConfigError
from demur.core.serving import Backend
from demur.store.boundary import read_json
from demur.store.model_file import read_model_file
from demur.wiring import BACKENDS, ENGINES, find

KEY_VARIABLE = "DEMUR_BACKEND_KEY"  # of the server behind ours; never in a file or on a command line
REMOTE = ("vllm", "gateway", "openai")


def make_backend(kind: str, workspace: Workspace, url: str | None, options: Mapping[str, Any], where: str) -> Backend:
    """A backend by its name in demur.wiring.BACKENDS. Raises ConfigError for options it does not have."""
    if (url is None) == (kind in REMOTE):
        need = "needs --url" if url is None else "has no --url"
        raise ConfigError(f"backend {kind!r} {need}", f"with a url: {', '.join(REMOTE)}")
    if kind in REMOTE:
        return _remote(kind, workspace, {**options, "url": url}, where)
    made: Backend
    if kind == "hf":
        limits = build(find("demur.engines.hf_worker:Limits", {}, "record"), options, where)
        made = find(kind, BACKENDS, "backend")(Engine(workspace).loaded, limits)
    elif kind == "fake":
        made = find(kind, BACKENDS, "backend")(engine=find(kind, ENGINES, "engine")(taxonomy=workspace.config.taxonomy))
    else:
        made = find(kind, BACKENDS, "backend")(**options)
    return made


def _remote(kind: str, workspace: Workspace, options: Mapping[str, Any], where: str) -> Backend:
    """In front of another server: it holds the run's model, we hold the run's fingerprint and tokenizer."""
    workspace.folder.require("train")
    folder = workspace.folder.model
    file = read_model_file(folder)
    link_options = {name: value for name, value in options.items() if name != "model"}
    own = {
        "link": build(
            find("demur.engines.gateway_http:Link", {}, "record"),
            {**link_options, "api_key": os.environ.get(KEY_VARIABLE)},
            where,
        ),
        "model": options.get("model", workspace.config.name),
        "declared": file.fingerprint.to_core(),
        "keep_history": bool(file.details.get("keep_history", True)),
    }
    if kind == "openai":
        own["literals"] = _special_tokens(folder / "tokenizer.json")
    else:
        own["tokenizer"] = str(folder)
    backend: Backend = find(kind, BACKENDS, "backend")(**own)
    return backend


def _special_tokens(path: Path) -> tuple[str, ...]:
    """What a model's tokenizer takes for the end of a turn and the like, spelled out: nobody may type it."""
    added = read_json(path).get("added_tokens", [])
    # One of a single character could not be broken.
    return tuple(t["content"] for t in added if t.get("special") and len(t["content"]) > 1)
