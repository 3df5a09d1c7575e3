"""Do a real vLLM behind demur and first_stop on transformers' scores ever stop an answer elsewhere?
Every answer under every monitor, first position and category of a stop.

    make vllm
    .venv-vllm/bin/python bench/stops_parity.py RUN [--answers 1000] [--policies 10] [--by V1]

V1 and V2: the plug-in in vLLM's two model runners; V2 goes through Triton's interpreter. gateway:
TwoCallBackend before an unmodified vLLM server, half of its monitors with the statistic "cusum",
which the plug-in refuses. tests/contract/test_stops.py does the same for the engines of
transformers.

RUN is a run with a trained model of the categories of "coconot". Thresholds are drawn from the
peaks of answers that transformers writes greedily, as vLLM then does. Expected is first_stop on the
scores that transformers reads off the tokens as vLLM wrote them; of the gateway, which shows none,
off its own. Stops that a change of every log-probability by 1e-4 moves are listed apart.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import servers
from demur.base.arrays import Floats
from demur.core.midway.monitor import AnswerSampling, Monitor, Statistic, Stop, first_stop, peaks
from demur.core.policy import CategoryPolicy, Policy
from demur.core.ports import Prompt
from demur.core.score import ENGINE_TOLERANCE
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.heads import control_scores
from demur.engines.hf.engine import HfEngine
from demur.engines.remote.upstream import UpstreamOptions
from demur.engines.vllm.two_call_backend import TwoCallBackend
from demur.store.policies.policy_file import write_policy
from demur.store.run import RunFolder
from vllm_parity import on_v2, prompts_of

AT_ONCE = 32  # requests to the server
SAID = "No."  # in place of a refusal of the model's own


def watching(engine: HfEngine, name: str, monitor: Monitor) -> Policy:
    """A policy that answers every request and stops answers by a monitor."""
    taxonomy = coconot()
    made = Policy(
        name=name,
        taxonomy=taxonomy,
        rule="any",
        categories=tuple(CategoryPolicy(on_refuse=SAID) for _ in taxonomy.names),
        fingerprint=engine.fingerprint,
        monitor=monitor,
    )
    return replace(made, doubt=replace(made.doubt, most_leftover=1.0))


def monitors(traces: Sequence[Floats], count: int, tokens: int, *, sums: bool) -> list[Monitor]:
    """Monitors whose thresholds are drawn from the peaks of answers; every other one sums."""
    rng, made = np.random.default_rng(0), []
    size = traces[0].shape[1] - 1
    for n in range(count):
        statistic: Statistic = "cusum" if sums and n % 2 else "maximum"
        shape = Monitor(
            thresholds=(1.0,) * size,
            answers=AnswerSampling(most_tokens=tokens, temperature=0.0),
            statistic=statistic,
            reference=0.003,
            held_back=0,
        )
        peak_NK = np.array([peaks(shape, trace)[0] for trace in traces])
        level_K = np.array(
            [np.quantile(peak_NK[:, k], rng.uniform(0.6, 0.98)) for k in range(size)]
        )
        drawn_K = np.exp(level_K) if statistic == "maximum" else np.maximum(level_K, 0.1)
        drawn_K[n % size] = NEVER
        made.append(replace(shape, thresholds=tuple(drawn_K.tolist())))
    return made


class Scores:
    """Transformers' scores at the positions of answers, read once for all that begin alike."""

    def __init__(self, engine: HfEngine, encoded: Sequence[Sequence[int]]) -> None:
        self._engine, self._encoded = engine, encoded
        self._known: dict[int, tuple[list[int], Floats]] = {}

    def of(self, n: int, written: list[int]) -> Floats:
        """Scores (T, C) where each id of an answer was written, the control token ahead of it."""
        read = written[:-1]
        known, logp_TC = self._known.get(n, ([], None))
        if logp_TC is None or known[: len(read)] != read:
            ids = torch.tensor([[*self._encoded[n], *read]])
            with torch.inference_mode():
                logits_TV = self._engine.network(ids).logits[0, len(self._encoded[n]) :]
            logp_TC = control_scores(logits_TV, self._engine.encoder.token_ids)
            self._known[n] = read, logp_TC
        # Where the model ends its answer there is no stop.
        return logp_TC[: len(read) - (written[-1] in self._engine.rules.stops)]


def written_by(
    model: Path, encoded: list[list[int]], policies: Sequence[Policy], tokens: int
) -> dict[str, list[list[int]]]:
    """The ids that vLLM writes for each prompt, by policy; the plug-in has been told of these."""
    from vllm import LLM, SamplingParams  # reads the environment when it is imported

    llm = LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        logits_processors=[servers.GATE],
        generation_config="vllm",
        distributed_executor_backend="uni",
        block_size=32,
        max_model_len=1024,
    )
    found = {}
    assert policies[0].fingerprint is not None
    refusals = list(policies[0].fingerprint.token_ids[1:])
    for policy in policies:
        params = SamplingParams(
            max_tokens=tokens + 1,
            temperature=0.0,
            detokenize=False,
            stop_token_ids=refusals,
            extra_args={"demur_policy": policy.name},
        )
        asked = [{"prompt_token_ids": ids} for ids in encoded]
        outputs = llm.generate(asked, params, use_tqdm=False)
        found[policy.name] = [list(o.outputs[0].token_ids) for o in outputs]
    return found


def by_plug_in(
    model: Path, encoded: list[list[int]], policies: Sequence[Policy], tokens: int
) -> dict[str, list[list[int]]]:
    """See written_by; the policies are put where the plug-in looks for them."""
    with tempfile.TemporaryDirectory() as folder:
        for policy in policies:
            write_policy(Path(folder) / f"{policy.name}.json", policy)
        os.environ |= {
            "DEMUR_POLICIES": folder,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }
        return written_by(model, encoded, policies, tokens)


async def asked(
    backend: TwoCallBackend, prompts: list[Prompt], policies: Sequence[Policy], tokens: int
) -> list[list[Stop | None]]:
    """The stops of the gateway's answers, by policy and prompt."""
    found: list[list[Stop | None]] = [[None] * len(prompts) for _ in policies]
    pairs = ((p, n) for p in range(len(policies)) for n in range(len(prompts)))

    async def client() -> None:
        for p, n in pairs:
            ask = ServeRequest(
                messages=prompts[n],
                policy=policies[p],
                policy_digest="",
                sampling=Sampling(max_tokens=tokens, temperature=0.0),
            )
            reply = await backend.open(ask)
            found[p][n] = next((part.stop async for part in reply.parts if part.stop), None)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await backend.close()
    return found


def by_gateway(
    model: Path, prompts: list[Prompt], policies: Sequence[Policy], tokens: int
) -> list[list[Stop | None]]:
    """See asked, before an unmodified vLLM server."""
    assert policies[0].fingerprint is not None
    with servers.vllm(Path(sys.executable), model) as (url, _):
        backend = TwoCallBackend(
            upstream=UpstreamOptions(url=url, decide_s=600.0),
            model=servers.MODEL,
            tokenizer=str(model),
            declared=policies[0].fingerprint,
        )
        return asyncio.run(asked(backend, prompts, policies, tokens))


def stop_in(written: Sequence[int], ids: Sequence[int]) -> Stop | None:
    """The stop in an answer's ids, the control token ahead of it first."""
    at = next((n for n, token in enumerate(written[1:]) if token in ids[1:]), None)
    return None if at is None else Stop(column=ids.index(written[at + 1]), position=at)


def is_close(monitor: Monitor, trace: Floats) -> bool:
    """Whether the tolerance of engines moves the stop of an answer."""
    stop = first_stop(monitor, trace)
    shifted = (
        np.minimum(trace + np.float32(by), np.float32(0.0))
        for by in (-ENGINE_TOLERANCE, ENGINE_TOLERANCE)
    )
    return any(first_stop(monitor, logp_TC) != stop for logp_TC in shifted)


def expected_and_found(
    given: argparse.Namespace, engine: HfEngine, prompts: list[Prompt], traces: Sequence[Floats]
) -> Iterator[tuple[Monitor, Floats, Stop | None]]:
    """Each answer under each monitor: its scores, and where vLLM stopped it."""
    sums = given.by == "gateway"
    made = monitors(traces, given.policies, given.tokens, sums=sums)
    policies = [watching(engine, f"m{n}", monitor) for n, monitor in enumerate(made)]
    model = RunFolder(given.run).model
    if given.by == "gateway":
        stops = by_gateway(model, prompts, policies, given.tokens)
        for monitor, of_policy in zip(made, stops, strict=True):
            for trace, stop in zip(traces, of_policy, strict=True):
                yield monitor, trace, stop
        return
    # First the answers that nothing stops: the others begin like them.
    never = replace(made[0], thresholds=(1.0,) * len(made[0].thresholds))
    whole = watching(engine, "whole", never)
    encoded, ids = [engine.encoder.prompt(p) for p in prompts], engine.encoder.token_ids
    written = by_plug_in(model, encoded, [whole, *policies], given.tokens)
    scores = Scores(engine, encoded)
    for policy in (whole, *policies):
        assert policy.monitor is not None
        for n, one in enumerate(written[policy.name]):
            logp_TC = scores.of(n, one)
            if policy is not whole:
                yield policy.monitor, logp_TC, stop_in(one, ids)


def main() -> None:
    """Parse the command line, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--policies", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--by", choices=("V1", "V2", "gateway"), default="V1")
    given = parser.parse_args()
    # read by Triton when torch imports it
    if given.by == "V2" and "TRITON_INTERPRET" not in os.environ:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    if given.by == "V2":
        on_v2()
    run, started = RunFolder(given.run), time.process_time()
    engine = HfEngine(model=run.model, tokens=coconot().tokens, dtype="float32")
    prompts = prompts_of(run, given.answers)
    sampling = AnswerSampling(most_tokens=given.tokens, temperature=0.0)
    traces = [w.logp_TC for w in engine.watched(prompts, sampling)]
    count: Counter[str] = Counter()
    for monitor, logp_TC, stop in expected_and_found(given, engine, prompts, traces):
        differs, close = first_stop(monitor, logp_TC) != stop, is_close(monitor, logp_TC)
        count["stopped"] += stop is not None
        count["disagreements"] += differs and not close
        count["close"] += close
        count["close and differ"] += close and differs
    pairs = len(prompts) * given.policies
    print(f"{len(prompts)} answers x {given.policies} policies by {given.by}: {pairs} pairs")
    print(f"  stopped             {count['stopped'] / pairs:.2f}")
    print(f"  disagreements       {count['disagreements']}   target 0")
    print(f"  within {ENGINE_TOLERANCE:g}       {count['close']}, of which differ ", end="")
    print(count["close and differ"])
    print(f"  CPU seconds here    {time.process_time() - started:.0f}")


if __name__ == "__main__":
    main()
