"""demur for lm-evaluation-harness: the model "demur", a run under a policy, and the harness's own
command line.

    python -m demur.harness.lm_face run --model demur --model_args run=runs/a,policy=calibrated \\
        --tasks demur_refusals --metadata '{"rows": "runs/a/data/test.jsonl"}' --include_path TASKS

The harness has no entry points: a model is known once its module was imported, which this module
does. TASKS is the folder `tasks` beside this file, demur.harness.TASKS in Python.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from demur.assembly.wiring import BACKENDS, import_by_name
from demur.base.errors import ConfigError, EngineError
from demur.core.example import Message
from demur.core.ports import Prompt
from demur.core.serving import Sampling, ServeRequest
from demur.harness.evaluated_model import answer_request, open_model
from demur.store.policies.policy_file import policy_digest

AT_ONCE = 64  # requests in flight: as many as the backend writes together
ANSWER_TOKENS = 256
_CHAT = "demur chat: "  # before a conversation that the harness's chat template was applied to
# Settings of a generation that the policy's backend has, or that change nothing beside temperature
# 0.
_KNOWN = {"until", "max_gen_toks", "temperature", "top_p", "do_sample", "seed"}


@register_model("demur")
class DemurLM(HFLM):
    """generate_until answers under the policy; log-likelihoods are the network's own, by the
    harness's code.

    run: a run folder. policy: see evaluated_model.open_model. respond: condition
    log-likelihoods on the respond token, where a trained model expects a control token; else the
    continuation follows the context at once.
    """

    def __init__(
        self,
        run: str,
        policy: str = "calibrated",
        respond: bool = True,
        batch_size: int | str = 1,
        **settings: Any,
    ) -> None:
        # the harness's own, always passed
        unknown = sorted(set(settings) - {"device", "max_batch_size"})
        if unknown:
            raise ConfigError(
                f"model 'demur' has no setting {', '.join(unknown)}", "known: run, policy, respond"
            )
        self._subject = open_model(run, policy)
        engine = self._subject.engine
        super().__init__(
            pretrained=engine.network, tokenizer=engine.tokenizer, batch_size=batch_size
        )
        self._respond_ids = [engine.encoder.token_ids[0]] if respond else []

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns themselves: demur encodes a conversation so that no text in it becomes a
        control token.
        """
        if not add_generation_prompt:
            raise EngineError(
                "a prefilled answer would follow no decision", "leave gen_prefix out of the task"
            )
        return _CHAT + json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """One answer or refusal per request, decided by the policy. Raises EngineError on unknown
        settings.
        """
        return asyncio.run(self._generate([self._ask(*request.args) for request in requests]))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of context and continuation; the respond token stands between them, which
        re-tokenises neither.
        """
        if context.startswith(_CHAT):
            context_ids = list(self._subject.engine.encoder.prompt(_turns(context)))
            ids = self.tok_encode(continuation.lstrip(), add_special_tokens=False)
        else:
            context_ids, ids = super()._encode_pair(context, continuation)
        return [*context_ids, *self._respond_ids], ids

    def _ask(self, context: str, settings: Mapping[str, Any]) -> ServeRequest:
        if unknown := sorted(set(settings) - _KNOWN):
            raise EngineError(
                f"cannot honour {', '.join(unknown)}", f"known: {', '.join(sorted(_KNOWN))}"
            )
        sampled = settings.get("do_sample", True)
        until = settings.get("until") or []
        policy = self._subject.policy
        return ServeRequest(
            messages=_turns(context),
            policy=policy,
            policy_digest=policy_digest(policy),
            sampling=Sampling(
                max_tokens=int(settings.get("max_gen_toks", ANSWER_TOKENS)),
                temperature=float(settings.get("temperature", 0.0)) if sampled else 0.0,
                top_p=float(settings.get("top_p", 1.0)),
                seed=settings.get("seed"),
                stop=tuple([until] if isinstance(until, str) else until),
            ),
        )

    async def _generate(self, asks: Sequence[ServeRequest]) -> list[str]:
        """All answers, in order. The backend owns the network while it runs, and no longer."""
        backend = import_by_name("hf", BACKENDS, "backend")(self._subject.engine)
        places = asyncio.Semaphore(AT_ONCE)

        async def one(ask: ServeRequest) -> str:
            async with places:
                return (await answer_request(backend, ask)).text

        try:
            return list(await asyncio.gather(*map(one, asks)))
        finally:
            await backend.close()


def _turns(context: str) -> Prompt:
    """The conversation behind a context of the harness; a plain text is one user message."""
    if not context.startswith(_CHAT):
        return (Message(role="user", content=context),)
    return tuple(
        Message(role=t["role"], content=t["content"])
        for t in json.loads(context.removeprefix(_CHAT))
    )


if __name__ == "__main__":
    cli_evaluate()
