"""The model of a run under a policy, as both harnesses evaluate it.

1. `open_model` opens the run by the front door (demur.assembly.opened_run) and loads its network.
2. `EvaluatedModel.backend` puts the in-process serving backend around that network, so that a
   harness measures the answers that `demur serve` would give.
3. `answer_request` collects one answer of that backend as a text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demur.assembly.opened_run import Run, open_run
from demur.assembly.wiring import BACKENDS, import_by_name
from demur.base.errors import ConfigError
from demur.core.conversation.languages import operators_text
from demur.core.policy import CategoryPolicy, Policy, natural
from demur.core.ports import Prompt
from demur.core.serving import Backend, Finish, Sampling, ServeRequest
from demur.core.threshold import ALWAYS, NEVER
from demur.store.policies.policy_file import policy_digest, read_policy

AT_ONCE = 64  # requests in flight: as many as the backend writes together
# The threshold of every category under a constant policy. Each evaluator of refusals must tell
# these two from a real policy and from each other.
FIXED = {"always-refuse": ALWAYS, "never-refuse": NEVER}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedModel:
    """A loaded model and the policy that decides for it."""

    engine: Any  # demur.engines.hf.engine.HfEngine
    policy: Policy

    def backend(self) -> Backend:
        """A serving backend around the loaded network, which it owns until it is closed."""
        backend: Backend = import_by_name("hf", BACKENDS, "backend")(self.engine)
        return backend

    def request(self, messages: Prompt, sampling: Sampling) -> ServeRequest:
        """A request for one answer under the policy."""
        return ServeRequest(
            messages=messages,
            policy=self.policy,
            policy_digest=policy_digest(self.policy),
            sampling=sampling,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessAnswer:
    """The answer to one request, refusals among them."""

    text: str  # the answer, the model's own refusal, or the policy's text
    refused_with: str | None  # category; None: answered, or deferred with the policy's text
    prompt_tokens: int
    tokens: int  # written after the control token
    finish: Finish


def open_model(run: str | Path, policy: str = "calibrated") -> EvaluatedModel:
    """Load the model of a run folder.

    policy: "calibrated" (the run's own), "natural" (the most probable control token),
    "always-refuse", "never-refuse", or a policy file. Raises ArtifactError without a finished run
    and where the model is not the one that its demur.json describes, PolicyError on a policy of
    another model, ConfigError on an unknown policy name.
    """
    workspace = open_run(run).workspace
    # Log-likelihoods need the network itself, so the model runs in this process whichever engine
    # scored it in the run.
    opened = Run(replace(workspace, config=replace(workspace.config, engine="hf")))
    chosen = _policy(opened, policy)
    # before the weights are loaded, which takes minutes for a large model
    chosen.require_model(opened.engine.fingerprint)
    return EvaluatedModel(engine=opened.engine.loaded, policy=chosen)


async def answer_request(backend: Backend, ask: ServeRequest) -> HarnessAnswer:
    """Decide and write one answer. Raises what Backend.open and the answer's parts raise."""
    reply = await backend.open(ask)
    text, tokens = "", 0
    finish: Finish = "stop"
    async for part in reply.parts:
        text += part.text + part.refusal
        tokens += part.tokens
        finish = part.finish or finish
    refused_with = reply.decision.choice if reply.decision.refuses else None
    # A policy's text of a refusal or a deferral; None: the model writes it.
    own = operators_text(ask.policy, reply.decision)
    return HarnessAnswer(
        text=text if own is None else own,
        refused_with=refused_with,
        prompt_tokens=reply.prompt_tokens,
        tokens=tokens,
        finish=finish,
    )


def _policy(run: Run, name: str) -> Policy:
    """A policy of a run by name, or from a file. Raises ConfigError on an unknown name."""
    if name == "calibrated":
        return run.policy
    if name == "natural":
        return natural(run.taxonomy, run.engine.fingerprint)
    if name in FIXED:
        category = CategoryPolicy(threshold=FIXED[name])
        return Policy(
            name=name,
            taxonomy=run.taxonomy,
            rule="heaviest",
            categories=(category,) * len(run.taxonomy.categories),
            fingerprint=run.engine.fingerprint,
        )
    if not Path(name).is_file():
        raise ConfigError(
            f"no policy {name!r}",
            f"known: calibrated, natural, {', '.join(FIXED)}; or the path of a policy file",
        )
    return read_policy(Path(name))
