"""The backend that `demur serve` was told to use, made from a run's model and the [backend] table of its settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demur.assembly.config import build
from demur.assembly.predictors import PREDICTORS
from demur.assembly.run import Engine, Workspace
from demur.assembly.wiring import BACKENDS, CASCADES, ENGINES, find
from demur.base.arrays import Floats
from demur.base.boundary import read_json
from demur.base.errors import ConfigError
from demur.core.policy import Fingerprint
from demur.core.ports import Prompt
from demur.core.serving import Backend
from demur.store.answers.blackbox_file import BlackboxFolder, read_summary
from demur.store.models.front_file import front_of
from demur.store.models.upgrade import brought_up_to_date
from demur.store.policies.folder import PolicySet
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

KEY_VARIABLE = "DEMUR_BACKEND_KEY"  # of the server behind ours; never in a file or on a command line
GATE = "gate"
REMOTE = ("vllm", "gateway", "openai", GATE)
_GATE_OPTIONS = ("model", "answers_as", "refusal", "reads")  # demur.engines.remote.pre_answer.GateSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Served:
    """What [backend] says of the model behind, apart from the way to it."""

    model: str
    references: int = 4  # test prompts whose scores the server must reproduce; 0: its weights are taken on trust

    def __post_init__(self) -> None:
        if self.references < 0:
            raise ConfigError(f"references = {self.references} is below 0", "0: none is asked for")


def default_backend(workspace: Workspace) -> str:
    """The backend of a run that was told none: its own model in this process, or a gate where it has none."""
    return GATE if workspace.config.engine in PREDICTORS else "hf"


def make_backend(kind: str, workspace: Workspace, url: str | None, options: Mapping[str, Any], where: str) -> Backend:
    """A backend by its name in demur.assembly.wiring.BACKENDS.

    Raises ConfigError for options that it does not have, and for a backend that cannot serve this run.
    """
    _check_fits(kind, workspace)
    if (url is None) == (kind in REMOTE):
        need = "needs --url" if url is None else "has no --url"
        raise ConfigError(f"backend {kind!r} {need}", f"with a url: {', '.join(REMOTE)}")
    if kind == GATE:
        return _gate(workspace, {**options, "url": url}, where)
    made: Backend
    if kind in REMOTE:
        made = _remote(kind, workspace, {**options, "url": url}, where)
    elif kind == "hf":
        limits = build(find("demur.engines.inprocess.worker:Limits", {}, "record"), options, where)
        # Whatever engine scored the run: a model of the same fingerprint is the same model.
        in_process = Workspace(workspace.folder, replace(workspace.config, engine="hf"))
        made = find(kind, BACKENDS, "backend")(Engine(in_process).loaded, limits)
    elif kind == "fake":
        made = find(kind, BACKENDS, "backend")(engine=find(kind, ENGINES, "engine")(taxonomy=workspace.config.taxonomy))
    else:
        made = find(kind, BACKENDS, "backend")(**options)
    return made if workspace.front is None else _cascade(workspace, made, workspace.front)


def front_of_policies(policies: PolicySet) -> str | None:
    """The digest of the front that policies were calibrated with; None: of the model alone.

    Raises ConfigError where they disagree: one server has one cascade, or none.
    """
    fronts = {p.policy.fingerprint.front for p in policies.policies.values() if p.policy.fingerprint}
    if len(fronts) > 1:
        names = ", ".join(sorted(policies.policies))
        raise ConfigError(
            f"policies {names} were calibrated with {len(fronts)} fronts, or some with none",
            "serve those of one cascade, or those of the model alone: one server each",
        )
    return next(iter(fronts), None)


def _cascade(workspace: Workspace, behind: Backend, digest: str) -> Backend:
    """A backend behind the run's front. Raises ArtifactError if the run has no front of this digest."""
    front, _ = front_of(workspace.folder, behind.fingerprint, digest)
    made: Backend = find("backend", CASCADES, "cascade")(front=front, digest=digest, behind=behind)
    return made


def _check_fits(kind: str, workspace: Workspace) -> None:
    engine = workspace.config.engine
    if kind == "vllm" and workspace.front is not None:
        raise ConfigError(
            "the plug-in of backend 'vllm' decides on the model's scores alone, and the policy is of a cascade",
            "serve it with hf, gateway or openai; or give --policies of the model alone",
        )
    if engine in PREDICTORS and kind != GATE:
        raise ConfigError(
            f"backend {kind!r} writes with the run's model, and a run with engine {engine!r} has none",
            "leave --backend out, and give the --url of the model behind",
        )
    if kind == GATE and engine not in PREDICTORS:
        raise ConfigError(
            f"backend {GATE!r} decides by a predictor, and the run's engine is {engine!r}",
            f"engines that predict: {', '.join(PREDICTORS)}; this run is served by hf, vllm, gateway or openai",
        )


def _gate(workspace: Workspace, options: Mapping[str, Any], where: str) -> Backend:
    """In front of any chat endpoint: the run's predictor decides, the model behind is asked for answers only."""
    own = {name: options[name] for name in _GATE_OPTIONS if name in options}
    if workspace.config.engine == "guard-chat" and own.get("reads") == "all":
        raise ConfigError(
            f'{where}: reads = "all": guard-chat reads the whole conversation, roles and all', "leave it out"
        )
    summary = BlackboxFolder(workspace.folder).summary
    found = read_summary(summary) if summary.exists() else None  # of the model that the predictor was fitted on
    # An endpoint may be asked by an alias and answer by the name behind it.
    defaults = {
        "model": found.asked_for if found else workspace.config.name,
        "answers_as": found.model if found else None,
    }
    engine = Engine(workspace)
    loaded = engine.loaded  # now: a scorer that cannot be loaded serves nothing
    backend: Backend = find(GATE, BACKENDS, "backend")(
        link=_link({name: value for name, value in options.items() if name not in own}, where),
        settings=build(find("demur.engines.remote.pre_answer:GateSettings", {}, "record"), {**defaults, **own}, where),
        scorer=loaded if workspace.front is None else engine.cascade(workspace.front),
    )
    return backend


def _link(options: Mapping[str, Any], where: str) -> Any:
    link = find("demur.engines.remote.link:Link", {}, "record")
    return build(link, {**options, "api_key": os.environ.get(KEY_VARIABLE)}, where)


def _remote(kind: str, workspace: Workspace, options: Mapping[str, Any], where: str) -> Backend:
    """In front of another server: it holds the run's model, we hold the run's fingerprint and tokenizer."""
    folder = workspace.folder.model
    file = brought_up_to_date(workspace.folder)
    declared = file.fingerprint.to_core()
    mine = ("model",) if kind == "openai" else ("model", "references")
    given = {name: options[name] for name in mine if name in options}
    served = build(_Served, {"model": workspace.config.name, **given}, where)
    own = {
        "link": _link({name: value for name, value in options.items() if name not in mine}, where),
        "model": served.model,
        "declared": declared,
        "keep_history": bool(file.details.get("keep_history", True)),
    }
    if kind == "openai":
        own["literals"] = _special_tokens(folder / "tokenizer.json")
    else:
        own["tokenizer"] = str(folder)
        own["reference"] = _references(workspace.folder, declared, served.references)
    backend: Backend = find(kind, BACKENDS, "backend")(**own)
    return backend


def _references(folder: RunFolder, declared: Fingerprint, wanted: int) -> tuple[tuple[Prompt, Floats], ...]:
    """Test prompts with the scores that this very model gave them, as many as wanted; none where there are none.

    Every so-manieth of the shorter half by length: a server may read less than the model that scored them.
    """
    scores = folder.scores("test")
    if not wanted or not scores.exists() or not folder.split("test").exists():
        return ()
    table, model = read_scores(scores)
    if model != declared:
        return ()
    rows = sorted(read_examples(folder.split("test")), key=lambda e: sum(len(m.content) for m in e.prompt))
    shorter = rows[: max(wanted, len(rows) // 2)]
    chosen = shorter[:: max(1, len(shorter) // wanted)][:wanted]
    logp_NC = table.select(tuple(e.id for e in chosen)).logp_NC
    return tuple((e.prompt, logp_C) for e, logp_C in zip(chosen, logp_NC, strict=True))


def _special_tokens(path: Path) -> tuple[str, ...]:
    """What a model's tokenizer takes for the end of a turn and the like, spelled out: nobody may type it."""
    added = read_json(path).get("added_tokens", [])
    # One of a single character could not be broken.
    return tuple(t["content"] for t in added if t.get("special") and len(t["content"]) > 1)
