"""vLLM's completions API in token ids: request fields, response schema, scores and parts.

C control tokens, column 0 = respond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from demur.base.arrays import Floats
from demur.base.errors import BackendDown, EngineError, ScoreDoubt
from demur.core.fingerprint import Fingerprint
from demur.core.serving import AnswerPart, Sampling
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.remote.answer_stream import finish_of
from demur.engines.remote.declines import printable_name
from demur.engines.remote.upstream import LOG, parse_body, stream_error
from demur.engines.tokenizer import load_tokenizer, tokenizer_digest

# Sent with every request: vLLM fills a field that is left out from the checkpoint's own defaults.
NEUTRAL = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "n": 1,
}
_BAN = -100.0  # the strongest logit bias there is


class Logprobs(BaseModel):
    """Log-probabilities by token, one mapping per generated token."""

    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    """The one choice of a completion, or of an event of its stream."""

    text: str
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    # a stop string that was written, or the id that ended the answer; None: the model's end token
    stop_reason: int | str | None = None


class Completion(BaseModel):
    """An answer of /v1/completions, or an event of its stream."""

    model: str = ""
    choices: list[CompletionChoice] = []
    error: Any = None


class ModelCard(BaseModel):
    """One served model."""

    id: str
    max_model_len: int | None = None


class ModelList(BaseModel):
    """The response of /v1/models."""

    data: list[ModelCard]


def encoder_of(
    tokenizer_name: str, declared: Fingerprint, *, keep_history: bool
) -> tuple[ChatEncoder, Any]:
    """The encoder of a declared fingerprint, and its tokenizer.

    Raises EngineError, naming the differences, when the tokenizer at hand is not the declared one.
    """
    tokenizer = load_tokenizer(tokenizer_name)
    encoder = ChatEncoder(tokenizer, declared.tokens, keep_history=keep_history)
    found = {
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "template_digest": encoder.template_digest,
        "token_ids": encoder.token_ids,
    }
    if differing := [name for name, value in found.items() if getattr(declared, name) != value]:
        raise EngineError(
            f"the tokenizer of {tokenizer_name!r} is not the one of the policies: "
            f"{', '.join(differing)} differ",
            "give the tokenizer and chat template of the model that the policies were made with, "
            "and its keep_history",
        )
    return encoder, tokenizer


def decision_body(encoder: ChatEncoder, ids: Sequence[int]) -> dict[str, Any]:
    """The request for one token and the log-probabilities of the control tokens at its position."""
    # Temperature 1, no truncation, no penalty: a server that reports log-probabilities after
    # processing then reports the raw ones too.
    return {
        **NEUTRAL,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        **logprob_fields(encoder),
    }


def logprob_fields(encoder: ChatEncoder) -> dict[str, Any]:
    """The fields of a request that make the server report control tokens by id."""
    return {
        "logprobs": 0,
        "logprob_token_ids": list(encoder.token_ids),
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }


def writing_fields(sampling: Sampling, max_tokens: int) -> dict[str, Any]:
    """The sampling fields of a streamed answer."""
    body: dict[str, Any] = {
        **NEUTRAL,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": list(sampling.stop),
        "stream": True,
        "return_token_ids": True,
    }
    return body if sampling.seed is None else {**body, "seed": sampling.seed}


def control_token_ban(token_ids: Sequence[int]) -> dict[str, float]:
    """The logit_bias that bans control tokens after the first; `read_part` checks the result."""
    return {str(i): _BAN for i in token_ids}


def score_of(choice: CompletionChoice, token_ids: Sequence[int]) -> Floats:
    """The score at the first token of `choice`, (C,), natural log.

    Raises ScoreDoubt where a control token's log-probability is missing.
    """
    by_token = choice.logprobs.top_logprobs[:1] if choice.logprobs else []
    score_C: Floats = _scores(by_token or [None], token_ids)[0]
    return score_C


def scores_of(choice: CompletionChoice, token_ids: Sequence[int]) -> Floats:
    """The position score of each token of `choice`, (T, C), natural log.

    Raises ScoreDoubt where a control token's log-probability is missing.
    """
    size = len(choice.token_ids or ())
    by_token = choice.logprobs.top_logprobs if choice.logprobs else []
    return _scores(by_token if len(by_token) == size else [None], token_ids)


def _scores(by_token: Sequence[dict[str, float] | None], token_ids: Sequence[int]) -> Floats:
    """Log-probabilities of the control tokens at some positions, (T, C)."""
    names = [f"token_id:{i}" for i in token_ids]
    missing = [name for at in by_token for name in names if name not in (at or {})]
    if missing:
        LOG.error("upstream sent no log-probability for %s", missing[: len(names)])
        raise ScoreDoubt(
            "the backend reports no control-token scores",
            "it must be vLLM 0.32 or later, unmodified",
        )
    rows = [[at[name] for name in names] for at in by_token if at is not None]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(names))


def single_choice(completion: Completion, model: str) -> CompletionChoice | None:
    """The choice of a completion or event; None where it has none.

    Raises BackendDown on an error or on the answer of another model.
    """
    if completion.error is not None:
        raise stream_error(completion.error)
    if completion.model != model:
        LOG.error(
            "upstream answers as %s, at start-up it was %r", printable_name(completion.model), model
        )
        raise BackendDown(
            "the backend serves another model than at start-up",
            "restart once the right model is back",
        )
    return completion.choices[0] if completion.choices else None


def read_part(data: bytes, model: str, banned: Sequence[int]) -> AnswerPart | None:
    """One event of a stream as a part; None where it has no choice.

    banned: control-token ids. Raises BackendDown when the event holds one of them.
    """
    choice = single_choice(parse_body(data, Completion), model)
    if choice is None:
        return None
    ids = choice.token_ids or []
    if set(ids) & set(banned):
        LOG.error("upstream wrote a control token in mid-answer: %s", ids)
        raise BackendDown("the backend wrote a control token in mid-answer", "ask again")
    return AnswerPart(text=choice.text, tokens=len(ids), finish=finish_of(choice.finish_reason))
