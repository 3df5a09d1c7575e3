"""Monitors in a real vLLM on the CPU: each answer stops where MonitorState stops its scores, which
transformers reads off the same tokens.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from demur.core.midway.monitor import AnswerSampling, Monitor, excess, first_stop, statistics
from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.heads import control_scores
from demur.engines.hf.engine import HfEngine
from tests.builders import undoubted
from tests.engines.checkpoints import TEXT, make_checkpoint, user
from tests.engines.vllm_parts import (
    generate_crowded,
    needs_vllm,
    requests,
    write_policies,
)

pytestmark = needs_vllm
CLOSE = 1e-4  # log-odds


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("midway") / "model", "llama-wide")
    return HfEngine(model=checkpoint, tokens=coconot().tokens)


def position_scores(engine, prompt, written):
    """Scores (T, C) at the positions of an answer's tokens, by one forward pass over them all.

    written: with the control token ahead.
    """
    with torch.inference_mode():
        logits_TV = engine.network(torch.tensor([[*prompt, *written]])).logits[0]
    return control_scores(logits_TV[len(prompt) : -1], engine.encoder.token_ids)


def encoded(engine, count, seed=0):
    """Encoded prompts of 5 to 60 tokens that share beginnings."""
    rng = np.random.default_rng(seed)
    words = TEXT.split()
    texts = [
        " ".join(words[: rng.integers(1, 12)] + list(rng.choice(words, rng.integers(1, 6))))
        for _ in range(count)
    ]
    return [engine.encoder.prompt(user(text)) for text in texts]


def with_monitors(engine, prompts, hows):
    """Ten policies that answer, or refuse few, and whose monitors stop some answers, at thresholds
    that a random model's scores have. hows: sampling of their answers, in turn.
    """
    rng = np.random.default_rng(1)
    vocabulary = len(engine.tokenizer)
    drawn = [[engine.encoder.token_ids[0], *rng.integers(0, vocabulary, 24)] for _ in prompts]
    pool_NC = np.concatenate(
        [position_scores(engine, p, d) for p, d in zip(prompts, drawn, strict=True)]
    )
    made = {}
    for n in range(10):
        levels = rng.uniform(0.9, 0.999, 5)
        thresholds = [
            float(np.exp(np.quantile(pool_NC[:, k + 1].astype(np.float64), level)))
            for k, level in enumerate(levels)
        ]
        for k in rng.choice(5, n % 5, replace=False):
            thresholds[k] = NEVER
        made[f"m{n}"] = undoubted(
            Policy(
                name=f"m{n}",
                taxonomy=coconot(),
                rule="heaviest",
                categories=tuple(CategoryPolicy(threshold=0.05) for _ in thresholds),
                fingerprint=engine.fingerprint,
                monitor=Monitor(
                    thresholds=tuple(thresholds),
                    answers=AnswerSampling(most_tokens=64, **hows[n % len(hows)]),
                ),
            )
        )
    return made


def check_answer(engine, policy, prompt, written, ends):
    """Check one answer's tokens; returns "refused", "whole", "stopped" or "close"."""
    control = engine.encoder.token_ids
    refusals = [at for at, token in enumerate(written) if token in control[1:]]
    assert written[0] in control
    assert not set(written[1:]) & {control[0]}
    assert len(refusals) <= 1, "after a refusal token nothing is stopped any more"
    if refusals == [0]:
        return "refused"
    logp_TC = position_scores(engine, prompt, written)
    # Positions where a token was written: the last one may be the end of the answer.
    counted = len(logp_TC) - (written[-1] in ends)
    if refusals:
        counted = refusals[0]  # the control token ahead takes the first place
    stop = first_stop(policy.monitor, logp_TC[:counted])
    value_TK = statistics(policy.monitor, logp_TC)
    if np.abs(excess(policy.monitor, value_TK)).min(initial=np.inf) < CLOSE:
        return "close"
    if not refusals:
        assert stop is None
        return "whole"
    assert stop is not None
    assert stop.position == refusals[0] - 1
    assert control[stop.column] == written[refusals[0]]
    return "stopped"


@pytest.mark.parametrize("runner", ["V1", "V2"])
def test_answers_stop_where_their_scores_do_whatever_vllm_does_with_the_batch(
    engine, tmp_path, runner
):
    many, longest = (60, 32) if runner == "V1" else (24, 16)  # Triton's interpreter is slow
    prompts = encoded(engine, many)
    # No seeds: on the CPU vLLM fails on one beside chunked prefill.
    hows = [
        {"temperature": 0.0},
        {"temperature": 1.5},
        # Triton's interpreter cannot run V2's kernel of top_p.
        {"temperature": 1.0, "top_p": 0.8 if runner == "V1" else 1.0},
    ]
    found = with_monitors(engine, prompts[:20], hows)
    folder = write_policies(tmp_path / "policies", found)
    rng = np.random.default_rng(2)
    names = [list(found)[n % len(found)] for n in range(many)]
    params, ends = [], []
    for n, name in enumerate(names):
        how = hows[n % len(found) % len(hows)]
        several = {"n": 2} if how["temperature"] == 1.5 else {}
        # Some answers end at frequent tokens, so that ends and stops meet.
        ends.append(rng.integers(0, len(engine.tokenizer), 30 * (n % 2)).tolist())
        params.append(
            {"max_tokens": longest, "ignore_eos": True, "detokenize": False, **how, **several}
            | {"stop_token_ids": ends[-1], "extra_args": {"demur_policy": name}}
        )
    done = generate_crowded(runner, engine.model, folder, requests(prompts, params))
    assert done["v2"] == (runner == "V2")
    assert done["preemptions"] > 0
    seen = [
        check_answer(engine, found[name], prompt, written, stops)
        for name, prompt, stops, answers in zip(names, prompts, ends, done["ids"], strict=True)
        for written in answers
    ]
    counts = {kind: seen.count(kind) for kind in ("refused", "whole", "stopped", "close")}
    assert counts["stopped"] > len(seen) / 8, counts
    assert counts["whole"] > len(seen) / 8, counts
    assert counts["close"] < len(seen) / 50, counts
