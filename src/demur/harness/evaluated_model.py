"""What a harness evaluates: the model of a run, under a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.assembly.wiring import ENGINES, import_by_name
from demur.base.errors import ConfigError
from demur.core.conversation.languages import refusal_text
from demur.core.policy import CategoryPolicy, Policy, natural
from demur.core.serving import Backend, Finish, ServeRequest
from demur.core.threshold import ALWAYS, NEVER
from demur.store.models.model_file import read_model_file
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder

# Subjects that every evaluator of refusals must tell apart: what the model is made to do whatever
# it is asked.
FIXED = {"always-refuse": ALWAYS, "never-refuse": NEVER}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedModel:
    """A loaded model and what decides for it."""

    engine: Any  # demur.engines.hf.engine.HfEngine
    policy: Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessAnswer:
    """What came back for one request."""

    text: str  # the answer, the model's own refusal, or the policy's text
    refused_with: str | None  # category; None: answered
    prompt_tokens: int
    tokens: int  # written after the control token
    finish: Finish


def open_model(run: str | Path, policy: str = "calibrated") -> EvaluatedModel:
    """Load the model of a run folder.

    policy: "calibrated" (the run's own), "natural" (the most probable control token),
    "always-refuse", "never-refuse", or a policy file. Raises ArtifactError without a finished run,
    PolicyError on a policy of another model.
    """
    folder = RunFolder(Path(run))
    folder.require("train")
    file = read_model_file(folder.model)
    chosen = _policy(folder, policy)
    chosen.require_model(file.fingerprint)
    engine = import_by_name("hf", ENGINES, "engine")(
        model=folder.model,
        tokens=chosen.taxonomy.tokens,
        keep_history=bool(file.details.get("keep_history", True)),
    )
    chosen.require_model(engine.fingerprint)
    return EvaluatedModel(engine=engine, policy=chosen)


async def answer_request(backend: Backend, ask: ServeRequest) -> HarnessAnswer:
    """Decide and write one answer. Raises what Backend.open and the answer's parts raise."""
    reply = await backend.open(ask)
    text, tokens = "", 0
    finish: Finish = "stop"
    async for part in reply.parts:
        text, tokens, finish = (
            text + part.text + part.refusal,
            tokens + part.tokens,
            part.finish or finish,
        )
    refused_with = reply.decision.choice if reply.decision.refuses else None
    own = None if refused_with is None else refusal_text(ask.policy.category(refused_with))
    return HarnessAnswer(
        text=text if own is None else own,
        refused_with=refused_with,
        prompt_tokens=reply.prompt_tokens,
        tokens=tokens,
        finish=finish,
    )


def _policy(folder: RunFolder, name: str) -> Policy:
    """A policy of a run by name, or from a file. Raises ConfigError if there is none of that
    name.
    """
    if name == "calibrated":
        folder.require_fresh("calibrate")
        return read_policy(folder.policy)
    if name in ("natural", *FIXED):
        file = read_model_file(folder.model)
        taxonomy, fingerprint = file.taxonomy, file.fingerprint
        if name == "natural":
            return natural(taxonomy, fingerprint)
        category = CategoryPolicy(threshold=FIXED[name])
        categories = (category,) * len(taxonomy.categories)
        return Policy(
            name=name,
            taxonomy=taxonomy,
            rule="heaviest",
            categories=categories,
            fingerprint=fingerprint,
        )
    if not Path(name).is_file():
        raise ConfigError(
            f"no policy {name!r}",
            f"known: calibrated, natural, {', '.join(FIXED)}; or the path of a policy file",
        )
    return read_policy(Path(name))
