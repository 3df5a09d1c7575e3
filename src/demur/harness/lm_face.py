"""The model "demur" of lm-evaluation-harness: a run under a policy; and the harness's command line.

    python -m demur.harness.lm_face run --model demur --model_args run=runs/a,policy=calibrated \\
        --tasks demur_refusals --metadata '{"rows": "runs/a/data/test.jsonl"}' --include_path TASKS

The harness has no entry points: a model is registered when its module is imported. So the command
line is started through this module. TASKS is the folder `tasks` beside this file,
demur.harness.TASKS in Python.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from demur.base.errors import ConfigError, EngineError
from demur.core.example import Message
from demur.core.ports import Prompt
from demur.core.serving import Sampling, ServeRequest
from demur.harness.evaluated_model import AT_ONCE, answer_request, open_model

ANSWER_TOKENS = 256
# Marks a context that holds a conversation as JSON: the harness hands on texts only, and asks the
# model to render a conversation into one.
_CHAT = "demur chat: "
# Settings of a generation that the backend has, or that change nothing at temperature 0.
_KNOWN = {"until", "max_gen_toks", "temperature", "top_p", "do_sample", "seed"}


@register_model("demur")
class DemurLM(HFLM):
    """generate_until answers under the policy; log-likelihoods are the network's own, by the
    harness's code.

    run: a run folder. policy: see evaluated_model.open_model. respond: condition log-likelihoods on
    the respond token, where a trained model expects a control token; else the continuation follows
    the context at once.
    """

    def __init__(
        self,
        run: str,
        policy: str = "calibrated",
        respond: bool = True,
        batch_size: int | str = 1,
        **settings: Any,
    ) -> None:
        # the harness always passes these two
        unknown = sorted(set(settings) - {"device", "max_batch_size"})
        if unknown:
            raise ConfigError(
                f"model 'demur' has no setting {', '.join(unknown)}", "known: run, policy, respond"
            )
        self._evaluated = open_model(run, policy)
        engine = self._evaluated.engine
        super().__init__(
            pretrained=engine.network, tokenizer=engine.tokenizer, batch_size=batch_size
        )
        self._respond_ids = [engine.encoder.token_ids[0]] if respond else []

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns themselves, as JSON behind a mark.

        They are rendered only when they are encoded, by demur's own encoder, so that no text in
        them becomes a control token. Raises EngineError for a prefilled answer.
        """
        if not add_generation_prompt:
            raise EngineError(
                "a prefilled answer would follow no decision", "leave gen_prefix out of the task"
            )
        return _CHAT + json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """One answer or refusal per request, decided by the policy.

        Raises EngineError on unknown settings.
        """
        return asyncio.run(self._generate([self._request(*request.args) for request in requests]))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of context and continuation, the respond token at the end of the context.

        The token goes in as an id, so neither text is tokenised differently for its presence.
        """
        if context.startswith(_CHAT):
            encoder = self._evaluated.engine.encoder
            context_ids = list(encoder.prompt(_turns(context)))
            ids = self.tok_encode(continuation.lstrip(), add_special_tokens=False)
        else:
            context_ids, ids = super()._encode_pair(context, continuation)
        return [*context_ids, *self._respond_ids], ids

    def _request(self, context: str, settings: Mapping[str, Any]) -> ServeRequest:
        """One request of the harness as ours. Raises EngineError on unknown settings."""
        if unknown := sorted(set(settings) - _KNOWN):
            raise EngineError(
                f"cannot honour {', '.join(unknown)}", f"known: {', '.join(sorted(_KNOWN))}"
            )
        sampled = settings.get("do_sample", True)
        until = settings.get("until") or []
        sampling = Sampling(
            max_tokens=int(settings.get("max_gen_toks", ANSWER_TOKENS)),
            temperature=float(settings.get("temperature", 0.0)) if sampled else 0.0,
            top_p=float(settings.get("top_p", 1.0)),
            seed=settings.get("seed"),
            stop=tuple([until] if isinstance(until, str) else until),
        )
        return self._evaluated.request(_turns(context), sampling)

    async def _generate(self, requests: Sequence[ServeRequest]) -> list[str]:
        """The texts of all answers, in order."""
        # A backend per call: it owns the network while it runs, and between two calls the harness
        # computes log-likelihoods with that network.
        backend = self._evaluated.backend()
        in_flight = asyncio.Semaphore(AT_ONCE)

        async def answered(request: ServeRequest) -> str:
            async with in_flight:
                return (await answer_request(backend, request)).text

        try:
            return list(await asyncio.gather(*map(answered, requests)))
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
