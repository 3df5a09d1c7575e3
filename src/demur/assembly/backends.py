"""Backends of `demur serve`, made from a run and the [backend] table of the settings.

1. The kind, the run's engine and the policies' front are checked against each other.
2. The backend's class is imported by name, and its options are checked.
3. The class makes the backend from a ServedRun, which loads the model or its scores on demand.
4. Where policies are of a cascade, the run's front is put before it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from demur.assembly.config import build
from demur.assembly.predictors import PREDICTORS
from demur.assembly.run import RunEngine, Workspace
from demur.assembly.wiring import BACKENDS, import_by_name
from demur.base.arrays import Floats
from demur.base.errors import ConfigError
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Prompt, Scorer
from demur.core.serving import Backend, BackendKind, ServedRun
from demur.store.answers.blackbox_file import BlackboxFolder, read_summary
from demur.store.models.front_file import front_of
from demur.store.models.upgrade import upgrade_model_file
from demur.store.policies.folder import PolicySet
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

# environment variable with the API key of the server behind: a key stands in no file of a run
KEY_VARIABLE = "DEMUR_BACKEND_KEY"
GATE = "gate"
REMOTE = ("vllm", "gateway", "openai", GATE)


def default_backend(workspace: Workspace) -> str:
    """Return the backend to use where none is named: in process, or a gate for a predictor."""
    return GATE if workspace.config.engine in PREDICTORS else "hf"


def make_backend(
    kind: str, workspace: Workspace, url: str | None, options: Mapping[str, Any], where: str
) -> Backend:
    """Make a backend.

    kind: a name of demur.assembly.wiring.BACKENDS, or "package.module:Class" of a class like
    demur.core.serving.BackendKind. url: of the server behind, for kinds that have one. options:
    fields of the class's Options. where: names the options in errors. Raises ConfigError for
    unknown options, a missing or needless url, and a backend that cannot serve this run.
    """
    _check_fits(kind, workspace, options, where)
    maker: BackendKind = import_by_name(kind, BACKENDS, "backend")
    if not (hasattr(maker, "from_run") and hasattr(maker, "Options")):
        raise ConfigError(
            f"backend {kind!r} has no from_run and Options, so it cannot be made from a run",
            "docs/serve.md#a-backend-of-your-own says what they are",
        )
    # a kind with a url needs one, and a kind without must not be given one
    names = {f.name for f in fields(maker.Options)}
    if (url is None) == ("url" in names):
        need = "needs --url" if url is None else "has no --url"
        raise ConfigError(f"backend {kind!r} {need}", f"with a url: {', '.join(REMOTE)}")
    given = {**options, **({} if url is None else {"url": url})}
    if "api_key" in names:
        given["api_key"] = os.environ.get(KEY_VARIABLE)
    made = maker.from_run(_served_run(workspace), build(maker.Options, given, where))
    # a gate has no model behind that could be scored: its scorer has the front in it already
    if workspace.front is None or kind == GATE:
        return made
    from demur.engines.cascade.backend import CascadeBackend

    front, digest = front_of(workspace.folder, made.fingerprint, workspace.front)
    return CascadeBackend(front=front, digest=digest, behind=made)


def _served_run(workspace: Workspace) -> ServedRun:
    """Return the run in the form that backends take, with functions that load its parts."""
    folder, file = workspace.folder, upgrade_model_file(workspace.folder)
    declared = file.fingerprint
    summary = BlackboxFolder(folder).summary
    fitted_on = read_summary(summary) if summary.exists() else None

    # the checkpoint in this process, whatever engine scored it
    def load() -> Any:
        return RunEngine(Workspace(folder, replace(workspace.config, engine="hf"))).loaded

    def scorer() -> Scorer:
        engine = RunEngine(workspace)
        loaded: Scorer = engine.loaded  # loaded at once: an error should come before serving
        return loaded if workspace.front is None else engine.cascade(workspace.front)

    return ServedRun(
        # an endpoint may be called by an alias, and state the model's own name in its answers
        name=fitted_on.asked_for if fitted_on else workspace.config.name,
        behind=fitted_on.model if fitted_on else None,
        taxonomy=workspace.config.taxonomy,
        model=folder.model,
        declared=declared,
        keep_history=bool(file.details.get("keep_history", True)),
        load=load,
        scorer=scorer,
        references=lambda wanted: _references(folder, declared, wanted),
    )


def front_of_policies(policies: PolicySet) -> str | None:
    """Return the digest of the front that policies were calibrated with; None: without one.

    Raises ConfigError if they differ: one server has one cascade, or none.
    """
    fronts = {
        p.policy.fingerprint.front for p in policies.policies.values() if p.policy.fingerprint
    }
    if len(fronts) > 1:
        names = ", ".join(sorted(policies.policies))
        raise ConfigError(
            f"policies {names} were calibrated with {len(fronts)} fronts, or some with none",
            "serve those of one cascade, or those of the model alone: one server each",
        )
    return next(iter(fronts), None)


def _check_fits(kind: str, workspace: Workspace, options: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if a kind of backend cannot serve the run's engine or its cascade."""
    engine = workspace.config.engine
    if kind == GATE and engine == "guard-chat" and options.get("reads") == "all":
        raise ConfigError(
            f'{where}: reads = "all": guard-chat reads the whole conversation, roles and all',
            "leave it out",
        )
    if kind == "vllm" and workspace.front is not None:
        raise ConfigError(
            "the plug-in of backend 'vllm' decides on the model's scores alone, and the policy is "
            "of a cascade",
            "serve it with hf, gateway or openai; or give --policies of the model alone",
        )
    if engine in PREDICTORS and kind != GATE:
        raise ConfigError(
            f"backend {kind!r} writes with the run's model, and a run with engine {engine!r} has "
            "none",
            "leave --backend out, and give the --url of the model behind",
        )
    if kind == GATE and engine not in PREDICTORS:
        raise ConfigError(
            f"backend {GATE!r} decides by a predictor, and the run's engine is {engine!r}",
            f"engines that predict: {', '.join(PREDICTORS)}; this run is served by hf, vllm, "
            "gateway or openai",
        )


def _references(
    folder: RunFolder, declared: Fingerprint, wanted: int
) -> tuple[tuple[Prompt, Floats], ...]:
    """Return up to `wanted` test prompts with the scores that this very model gave them.

    A backend compares its own scores with them. They are spread over the shorter half of the
    prompts, because a server may have a shorter context than the model that scored them.
    """
    scores = folder.scores("test")
    if not wanted or not scores.exists() or not folder.split("test").exists():
        return ()
    # scores of an earlier model are of no use; the run is out of date then
    table, model = read_scores(scores)
    if model != declared:
        return ()
    rows = sorted(
        read_examples(folder.split("test")), key=lambda e: sum(len(m.content) for m in e.prompt)
    )
    shorter = rows[: max(wanted, len(rows) // 2)]
    # every k-th row, for the whole range of lengths
    chosen = shorter[:: max(1, len(shorter) // wanted)][:wanted]
    logp_NC = table.select(tuple(e.id for e in chosen)).logp_NC
    return tuple((e.prompt, logp_C) for e, logp_C in zip(chosen, logp_NC, strict=True))
