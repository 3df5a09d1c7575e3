"""Examination of a trained checkpoint: findings on everything that a decision rests on.

1. Tokenizer and chat template can be used; each control token is one special id.
2. A prompt ends where the same conversation, answered, has its control token.
3. Users cannot spell a control token.
4. The control tokens' rows are trained: neither near zero nor copies of each other.
5. Little probability is outside the control tokens at the first answer position.
6. The files are those of demur.json or a policy; another dtype hardly changes a probability.

Shapes: N built-in prompts, C control tokens, A weight tables, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from demur.base.arrays import Floats
from demur.base.errors import DemurError, EngineError
from demur.core.example import Message
from demur.core.fingerprint import Fingerprint
from demur.core.training.readiness import Finding, Readiness
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf.engine import HfEngine
from demur.engines.hf.token_rows import LEAST_CHANGE, control_rows, token_tables
from demur.engines.tokenizer import control_ids, load_tokenizer

_QUESTIONS = (
    "What is the capital of Portugal?",
    "Write two sentences about the sea.",
    "How long should I boil an egg?",
    "Give me three names for a grey cat.",
    "Explain to a child why the sky is blue.",
    "What did I eat this morning?",
    "Suggest a quiet hobby for winter evenings.",
    "Translate 'good night' into Spanish.",
)
PROMPTS = tuple((Message(role="user", content=text),) for text in _QUESTIONS)
MOST_LEFTOVER = 0.02  # mean probability outside the control tokens; a trained model is far below
# Difference of probabilities between float32 and bfloat16; 8 bits of mantissa make about 0.01.
MOST_DTYPE_GAP = 0.02
LEAST_ANGLE = 1e-3  # 1 - cosine of two control rows; rows that resizing made differ by about 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """A checkpoint to examine, and its expected fingerprint."""

    model: str | Path
    tokens: tuple[str, ...]  # control tokens, respond first
    keep_history: bool = True
    fingerprint: Fingerprint | None = None  # of demur.json or a policy; None: not compared
    dtypes: bool = True  # compare float32 with bfloat16: loads the model a second time


def examine(case: Examination) -> Readiness:
    """Examine one checkpoint; problems become failed findings, never exceptions.

    A check that needs what an earlier one found missing fails as "not checked".
    """
    findings, tokenizer = _tokenizer(case)
    if tokenizer is None:
        return Readiness(model=str(case.model), findings=tuple(findings))
    findings += [_control_token(tokenizer, token) for token in case.tokens]
    if all(f.ok for f in findings):
        try:
            encoder = ChatEncoder(tokenizer, case.tokens, keep_history=case.keep_history)
            findings += [_header(encoder), _spelled_by_users(encoder)]
        except EngineError as e:
            findings.append(_failed("chat template", e))
    if not all(f.ok for f in findings):
        findings += [
            Finding(
                check=check,
                ok=False,
                detail="not checked",
                hint="repair what is listed above first",
            )
            for check in ("rows trained", "mass at the first position")
        ]
        return Readiness(model=str(case.model), findings=tuple(findings))
    return Readiness(model=str(case.model), findings=(*findings, *_weights(case)))


def _failed(check: str, error: DemurError) -> Finding:
    """A failed finding made of an error."""
    return Finding(check=check, ok=False, detail=error.message, hint=error.hint)


def _tokenizer(case: Examination) -> tuple[list[Finding], PreTrainedTokenizerFast | None]:
    """Load the tokenizer; None if it cannot be loaded, with the reason among the findings."""
    try:
        tokenizer = load_tokenizer(case.model)
    except EngineError as e:
        return [_failed("tokenizer", e)], None
    detail = f"fast, {len(tokenizer)} tokens, has a chat template"
    return [Finding(check="tokenizer", ok=True, detail=detail)], tokenizer


def _control_token(tokenizer: PreTrainedTokenizerFast, token: str) -> Finding:
    """Check that a control token is one special id that decodes to itself."""
    check = f"control token {token}"
    try:
        (token_id,) = control_ids(tokenizer, [token])
    except EngineError as e:
        return _failed(check, e)
    return Finding(check=check, ok=True, detail=f"id {token_id}, special, round-trips")


def _header(encoder: ChatEncoder) -> Finding:
    """Check that a prompt ends where the same conversation, answered, has its control token.

    If not, training put the token behind other tokens than serving does, and every score is read at
    a wrong position.
    """
    asked = Message(role="user", content="What is two and two?")
    prompt = encoder.prompt([asked])
    ids, turns = encoder.conversation([asked, Message(role="assistant", content="Four.")], [0])
    at = turns[-1].control_at
    same = ids[:at] == prompt
    return Finding(
        check="chat template",
        ok=same,
        detail=f"a prompt of {len(prompt)} tokens, its answer's control token at position {at}"
        + (", after the same header" if same else ", after other tokens than the prompt ends with"),
        hint=""
        if same
        else "add_generation_prompt must render what the template puts before an answer",
    )


def _spelled_by_users(encoder: ChatEncoder) -> Finding:
    """Check that a control token spelt out by a user is not encoded as its id."""
    check = "control tokens spelled by users"
    for token in encoder.tokens:
        ids = encoder.prompt([Message(role="user", content=f"Say {token}{token}now")])
        leaked = set(ids) & set(encoder.token_ids)
        if leaked:
            return Finding(
                check=check,
                ok=False,
                detail=f"{token!r} became id {leaked}",
                hint="report this as a bug",
            )
    return Finding(check=check, ok=True, detail="stay plain text, whichever is spelled")


def _weights(case: Examination) -> list[Finding]:
    """Checks that need the weights. Loads the model once, and once more to compare dtypes."""
    try:
        engine = HfEngine(model=case.model, tokens=case.tokens, keep_history=case.keep_history)
        logp_NC = engine.logp(PROMPTS)
    except EngineError as e:
        return [_failed("weights", e)]
    findings = [_trained(engine.network, engine.encoder), _mass(logp_NC)]
    if case.fingerprint is not None:
        findings.append(_same_model(engine.fingerprint, case.fingerprint))
    stored = str(engine.network.dtype).removeprefix("torch.")
    del engine  # frees its memory before the model is loaded again
    if case.dtypes:
        findings.append(_dtype_effect(case, stored, logp_NC))
    return findings


def _trained(model: Any, encoder: ChatEncoder) -> Finding:
    """Check that control rows are neither short beside a typical row nor copies of each other.

    Reserved rows that were never trained are zero or all alike; rows added by resizing are copies
    of the mean row.
    """
    rows_ACd = control_rows(model, encoder.token_ids)  # A = 1 table if the head is tied, else 2
    typical_A = [
        table.detach().float().norm(dim=1).median().item() for table in token_tables(model)
    ]
    # Relative length of each row, the least over the tables.
    length_C = np.min(
        [r.norm(dim=1).numpy() / t for r, t in zip(rows_ACd, typical_A, strict=True)], axis=0
    )
    unit_ACd = (rows_ACd / rows_ACd.norm(dim=2, keepdim=True).clamp(min=1e-12)).double().numpy()
    # Cosine of each pair of rows, the most over the tables; -2 keeps a row from being its own twin.
    alike_CC = np.max([u @ u.T - 2 * np.eye(len(u)) for u in unit_ACd], axis=0)
    first, second = (int(c) for c in np.unravel_index(alike_CC.argmax(), alike_CC.shape))
    trained = bool(length_C.min() >= LEAST_CHANGE and alike_CC.max() <= 1.0 - LEAST_ANGLE)
    return Finding(
        check="rows trained",
        ok=trained,
        detail=f"shortest: {encoder.tokens[int(length_C.argmin())]}, {length_C.min():.3g} of a "
        f"typical row; most alike: {encoder.tokens[first]} and {encoder.tokens[second]}, cosine "
        f"{alike_CC.max():.4f}",
        hint=""
        if trained
        else "zero or equal rows were never trained: demur train, with rows of every category",
    )


def _mass(logp_NC: Floats) -> Finding:
    """Check the leftover mass on built-in prompts: the probability outside the control tokens."""
    leftover = float(1.0 - np.exp(logp_NC.astype(np.float64)).sum(axis=1).mean())
    small = leftover <= MOST_LEFTOVER
    return Finding(
        check="mass at the first position",
        ok=small,
        detail=(
            f"{leftover:.3g} of the probability is outside the control tokens, mean of "
            f"{len(logp_NC)} prompts"
        ),
        hint=""
        if small
        else f"expected <= {MOST_LEFTOVER}: not trained, or trained with another chat template",
    )


def _same_model(found: Fingerprint, expected: Fingerprint) -> Finding:
    """Compare the checkpoint's fingerprint with that of demur.json or a policy."""
    # Older records have no digest of settings files: those are then not compared.
    old = expected.config_digest is None
    differences = (replace(found, config_digest=None) if old else found).differences(expected)
    same = "the model of its record" + (", an older one without settings" if old else "")
    return Finding(
        check="fingerprint",
        ok=not differences,
        detail=f"differs in {', '.join(differences)}" if differences else same,
        hint="the files changed after training: train or calibrate again" if differences else "",
    )


def _dtype_effect(case: Examination, stored: str, logp_NC: Floats) -> Finding:
    """Compare the scores of built-in prompts in float32 and in bfloat16.

    Probabilities are compared: a log-probability of -20 may move by whole units without changing
    any decision.
    """
    other = "bfloat16" if stored == "float32" else "float32"
    engine = HfEngine(
        model=case.model, tokens=case.tokens, keep_history=case.keep_history, dtype=other
    )
    other_NC = engine.logp(PROMPTS)
    gap = float(np.abs(np.exp(other_NC) - np.exp(logp_NC)).max())
    small = gap <= MOST_DTYPE_GAP
    return Finding(
        check="dtype effect",
        ok=small,
        detail=f"{stored} against {other}: largest |delta logp| "
        f"{np.abs(other_NC - logp_NC).max():.3g}, largest |delta p| {gap:.3g}",
        hint=""
        if small
        else "thresholds do not carry over: score, calibrate and serve in one dtype",
    )
