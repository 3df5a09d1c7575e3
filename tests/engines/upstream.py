"""A small server that speaks vLLM's and OpenAI's dialects over a tiny model, unguarded like the
real ones, and fails on request. It runs in a thread of its own, on a free port of this machine."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from demur.engines.hf.engine import HfEngine

STALL_S = 6.0


class Upstream:
    """The server. `failure` names what goes wrong from now on; `requests` holds the bodies that
    came in.
    """

    def __init__(self, engine: HfEngine) -> None:
        self.network, self.tokenizer = engine.network, engine.tokenizer
        self.model = "tiny"
        self.failure: str | None = None
        self.failures_left = 10**9
        self.context = 192  # tokens that it says it reads
        self.pause_s = 0.0  # between the tokens of a stream
        self.prefill = True  # chat: whether an assistant message can be continued
        self.script: list[str] | None = None  # texts to stream instead of the model's own
        self.requests: list[dict] = []
        self.streams_cut = 0  # by the client, before their end
        self.together = 1  # tokens in one event of a completion's stream
        self.says: str | None = None  # text of every token, in place of its own
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host="127.0.0.1", port=0, log_level="critical"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Upstream:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.failure = None
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1"

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": self.model, "max_model_len": self.context}]})

    async def completions(self, request: Request) -> Response:
        body = await self._received(request)
        if (failed := await self._fail(body)) is not None:
            return failed
        if body.get("stream"):
            return StreamingResponse(self._stream(body, body["prompt"], chat=False))
        logp_V = self._logp(body["prompt"])
        choice = {"text": "", "finish_reason": "length", "token_ids": [int(logp_V.argmax())]}
        if self.failure != "no logprobs":
            wanted = (
                body["logprob_token_ids"][1:]
                if self.failure == "one missing"
                else body["logprob_token_ids"]
            )
            shift = {"logits": 10.0, "nan": float("nan")}.get(self.failure or "", 0.0)
            bias = self._reported_bias(body)
            top = {f"token_id:{i}": float(logp_V[i]) + shift + bias.get(i, 0.0) for i in wanted}
            choice["logprobs"] = {"top_logprobs": [top]}
        return _json({"model": self._answers_as, "choices": [choice]})

    async def chat(self, request: Request) -> Response:
        body = await self._received(request)
        if (failed := await self._fail(body)) is not None:
            return failed
        continues = self.prefill and bool(body.get("continue_final_message"))
        ids = self._rendered(body["messages"], continues=continues)
        if body.get("stream"):
            return StreamingResponse(self._stream(body, ids, chat=True))
        logp_V = self._logp(ids)
        top = torch.topk(logp_V, body.get("top_logprobs", 1))
        listed = [
            {
                "token": self.tokenizer.decode([int(i)]),
                "logprob": float("nan") if self.failure == "nan" else float(p),
            }
            for p, i in zip(top.values, top.indices, strict=True)
        ]
        position = {**listed[0], "top_logprobs": listed}
        logprobs = None if self.failure == "no logprobs" else {"content": [position]}
        choice = {"message": {"content": ""}, "finish_reason": "length", "logprobs": logprobs}
        usage = {"prompt_tokens": len(ids)}
        return _json({"model": self._answers_as, "choices": [choice], "usage": usage})

    def _reported_bias(self, body: dict) -> dict[int, float]:
        """What is added to reported log-probabilities: vLLM's mode processed_logprobs."""
        bias = body.get("logit_bias", {}) if self.failure == "processed" else {}
        return {int(i): b for i, b in bias.items()}

    async def _received(self, request: Request) -> dict:
        self.requests.append(body := await request.json())
        return body

    async def _fail(self, body: dict) -> Response | None:
        failure = self.failure
        if failure is None or self.failures_left <= 0:
            return None
        self.failures_left -= 1
        if failure in ("400", "401", "404", "429", "500", "503", "504"):
            return JSONResponse(
                {"error": {"message": "secret upstream words"}}, status_code=int(failure)
            )
        if failure == "stall":
            await asyncio.sleep(STALL_S)
        return PlainTextResponse("<html>not JSON") if failure == "malformed" else None

    @property
    def _answers_as(self) -> str:
        return "another" if self.failure == "renamed" else self.model

    def _rendered(self, messages: list[dict], *, continues: bool) -> list[int]:
        """As an unguarded server does it: whatever people typed is tokenised with all its special
        tokens.
        """
        shown = messages[:-1] if continues else messages
        text = self.tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(
            text + (messages[-1]["content"] if continues else ""), add_special_tokens=False
        )["input_ids"]

    @torch.no_grad()
    def _logp(self, ids: list[int]) -> torch.Tensor:
        return torch.log_softmax(self.network(torch.tensor([ids])).logits[0, -1].float(), dim=-1)

    async def _stream(self, body: dict, ids: list[int], *, chat: bool) -> AsyncIterator[str]:
        ended = False
        try:
            async for event in self._events(body, list(ids), chat=chat):
                yield f"data: {event}\n\n"
            if self.failure not in ("break", "no end"):
                yield "data: [DONE]\n\n"
            ended = True
        finally:
            self.streams_cut += not ended

    async def _events(self, body: dict, ids: list[int], *, chat: bool) -> AsyncIterator[str]:
        waiting: list[dict] = []  # completions' choices that go into one event
        for n, (text, at, finish, logp_V) in enumerate(self._written(body, ids)):
            if n == 2 and self.failure == "break":
                return
            if n == 2 and self.failure == "error event":
                yield json.dumps({"error": {"message": "secret upstream words"}})
                return
            if n == 2 and self.failure == "stall in mid-stream":
                await asyncio.sleep(STALL_S)
            await asyncio.sleep(self.pause_s)
            reason = {"abort": "abort", "no finish": None}.get(self.failure or "", finish)
            said = text if self.says is None else self.says
            content = {"delta": {"content": said}} if chat else {"text": said, "token_ids": [at]}
            choice = {**content, "finish_reason": reason}
            if (wanted := body.get("logprob_token_ids")) and self.failure != "no logprobs":
                shift = float("nan") if self.failure == "nan" else 0.0
                bias = self._reported_bias(body)
                top = {f"token_id:{i}": float(logp_V[i]) + shift + bias.get(i, 0.0) for i in wanted}
                choice["logprobs"] = {"top_logprobs": [top]}
            if finish == "stop" and at in body.get("stop_token_ids", ()):
                choice["stop_reason"] = at
            waiting.append(choice)
            if chat or finish or len(waiting) == self.together:
                event = {"model": self._answers_as, "choices": [_merged(waiting)]}
                yield json.dumps(event, ensure_ascii=False)
                waiting = []

    def _written(
        self, body: dict, ids: list[int]
    ) -> Iterator[tuple[str, int, str | None, torch.Tensor]]:
        """(text, id, finish reason, raw log-probabilities) of each token: from the script if there
        is one, else greedy.
        """
        if self.script is not None:
            nothing = torch.zeros(0)
            yield from (
                (text, 0, "stop" if text is self.script[-1] else None, nothing)
                for text in self.script
            )
            return
        bias = {int(i): b for i, b in body.get("logit_bias", {}).items()}
        stops = {self.tokenizer.eos_token_id, *body.get("stop_token_ids", ())}
        written, shown = [], ""
        while True:
            raw_V = self._logp([*ids, *written])
            logp_V = raw_V.clone()
            for i, b in bias.items():
                logp_V[i] += b if self.failure != "ignores the ban" else -b
            written.append(int(logp_V.argmax()))
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            finish = (
                "stop"
                if written[-1] in stops
                else "length"
                if len(written) == body["max_tokens"]
                else None
            )
            # bytes of a character that is not whole yet
            held = text.endswith("\ufffd") and finish is None
            new, shown = ("", shown) if held else (text[len(shown) :], text)
            yield new, written[-1], finish, raw_V
            if finish:
                return


def _merged(choices: list[dict]) -> dict:
    """Successive choices as one, as vLLM merges them when nobody reads for a while."""
    *others, last = choices
    if not others:
        return last
    whole = {**last, "text": "".join(c["text"] for c in choices)}
    whole["token_ids"] = [i for c in choices for i in c["token_ids"]]
    if "logprobs" in last:
        whole["logprobs"] = {
            "top_logprobs": [at for c in choices for at in c["logprobs"]["top_logprobs"]]
        }
    return whole


def _json(value: dict) -> Response:
    """JSON as servers write it: with NaN, which the standard does not know."""
    return Response(json.dumps(value), media_type="application/json")
