"""Do a real vLLM behind demur and decide_many on transformers' scores ever disagree? Every prompt
under every policy.

    make vllm
    .venv-vllm/bin/python bench/vllm_parity.py RUN [--prompts 1000] [--policies 20] [--by V1]

V1 and V2: the plug-in in vLLM's two model runners; V2 goes through Triton's interpreter. gateway:
TwoCallBackend before an unmodified vLLM server, every pair a request of its own: the score is read,
the decision made, and an answer begun (one token) where the policy does not refuse.

RUN is a finished run with a calibrated policy. Each policy takes its calibrator, or none, another
rule, and thresholds drawn from the scores themselves, where decisions are closest. A pair whose
margin is below 1e-4 is listed apart: vLLM and transformers add in another order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import servers
from demur.base.arrays import Floats
from demur.core.calibrator import IDENTITY
from demur.core.decision import decide_many
from demur.core.policy import CategoryPolicy, Policy, Rule
from demur.core.ports import Prompt
from demur.core.serving import Sampling, ServeRequest
from demur.engines.hf.engine import HfEngine
from demur.engines.remote.upstream import UpstreamOptions
from demur.engines.vllm.two_call_backend import TwoCallBackend
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder

RULES: tuple[Rule, ...] = (
    "heaviest",
    "sum",
    "any",
    "released",
    "heaviest",
    "bias",
    "heaviest",
    "any",
    "natural",
    "sum",
)
CLOSE = 1e-4  # |margin|, log-odds
AT_ONCE = 32  # requests to the server
SAID = "No."  # in place of a refusal of the model's own: only answers are begun


def make_policies(base: Policy, logp_NC: Floats, count: int) -> list[Policy]:
    """Policies whose thresholds are probabilities that some prompt really has."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        calibrator = base.calibrator if n % 2 else IDENTITY
        p_NC = np.exp(np.minimum(calibrator.apply(logp_NC).astype(np.float64), 0.0))
        drawn = [
            float(np.quantile(p_NC[:, k + 1], rng.uniform(0.3, 0.99)))
            for k in range(len(base.categories))
        ]
        shared = float(np.quantile(1.0 - p_NC[:, 0], rng.uniform(0.2, 0.9)))
        categories = tuple(
            CategoryPolicy(
                threshold=min(max(shared, 0.0), 1.0) if RULES[n % 10] == "sum" else min(t, 1.0),
                bias=float(rng.normal(0, 2)),
                override="suppress" if rng.random() < 0.05 else None,
            )
            for t in drawn
        )
        made.append(
            replace(
                base,
                name=f"policy-{n}",
                rule=RULES[n % 10],
                calibrator=calibrator,
                categories=categories,
            )
        )
    return [replace(p, promises=(), sensitivities=()) for p in made]


def on_v2() -> None:
    """Let vLLM believe in Triton on the CPU, whose interpreter then runs the kernels of its second
    model runner.
    """
    from triton import backends  # only there beside vLLM

    driver = SimpleNamespace(is_active=lambda: False)
    backends.backends["cpu"] = backends.Backend(compiler=None, driver=driver)


def by_plug_in(
    model: Path, encoded: list[list[int]], policies: list[Policy], by: str
) -> tuple[np.ndarray, float]:
    """The first token that vLLM emits, (policies, N), and the seconds that it took."""
    if by == "V2":
        on_v2()
    with tempfile.TemporaryDirectory() as folder:
        for policy in policies:
            write_policy(Path(folder) / f"{policy.name}.json", policy)
        os.environ |= {
            "DEMUR_POLICIES": folder,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }
        return emitted(model, encoded, policies)


def emitted(
    model: Path, encoded: list[list[int]], policies: list[Policy]
) -> tuple[np.ndarray, float]:
    """See by_plug_in; the policies are where the plug-in looks for them."""
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
    started, rows = time.monotonic(), []
    for policy in policies:
        params = SamplingParams(
            max_tokens=1, detokenize=False, extra_args={"demur_policy": policy.name}
        )
        outputs = llm.generate(
            [{"prompt_token_ids": ids} for ids in encoded], params, use_tqdm=False
        )
        rows.append([o.outputs[0].token_ids[0] for o in outputs])
    return np.array(rows), time.monotonic() - started


async def asked(
    backend: TwoCallBackend, prompts: list[Prompt], policies: list[Policy]
) -> tuple[np.ndarray, Floats]:
    """The columns that the gateway decides on, (policies, N), and the scores that it read for the
    first policy.
    """
    columns_PN = np.zeros((len(policies), len(prompts)), dtype=int)
    logp_NC = np.zeros((len(prompts), len(backend.fingerprint.token_ids)), dtype=np.float32)
    pairs = ((p, n) for p in range(len(policies)) for n in range(len(prompts)))

    async def client() -> None:
        for p, n in pairs:
            ask = ServeRequest(
                messages=prompts[n],
                policy=policies[p],
                policy_digest="",
                sampling=Sampling(max_tokens=1),
            )
            reply = await backend.open(ask)
            async for _ in reply.parts:
                pass
            columns_PN[p, n] = reply.decision.column
            if p == 0:
                logp_NC[n] = reply.logp_C

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await backend.close()
    return columns_PN, logp_NC


def by_gateway(
    model: Path, prompts: list[Prompt], policies: list[Policy], logp_NC: Floats
) -> tuple[np.ndarray, float]:
    """The control token of each of the gateway's decisions, (policies, N), and the seconds that
    they took.
    """
    fingerprint = policies[0].fingerprint
    assert fingerprint is not None
    spoken = [
        replace(p, categories=tuple(replace(c, on_refuse=SAID) for c in p.categories))
        for p in policies
    ]
    with servers.vllm(Path(sys.executable), model) as (url, _):
        backend = TwoCallBackend(
            upstream=UpstreamOptions(url=url, decide_s=600.0),
            model=servers.MODEL,
            tokenizer=str(model),
            declared=fingerprint,
        )
        started = time.monotonic()
        columns_PN, read_NC = asyncio.run(asked(backend, prompts, spoken))
        seconds = time.monotonic() - started
    apart = [
        int((decide_many(p, read_NC).choice_N != decide_many(p, logp_NC).choice_N).sum())
        for p in policies
    ]
    print(f"largest difference of a score {np.abs(read_NC - logp_NC).max():.1e}")
    print(
        f"decide_many on the gateway's scores against transformers': {sum(apart)} of "
        f"{columns_PN.size} differ"
    )
    return np.array(fingerprint.token_ids)[columns_PN], seconds


def prompts_of(run: RunFolder, count: int) -> list[Prompt]:
    """Held-out prompts of a run."""
    rows = [e for split in ("test", "calibrate") for e in read_examples(run.split(split))]  # type: ignore[arg-type]
    return [e.prompt for e in rows[:count]]


def main() -> None:
    """Parse the command line, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--policies", type=int, default=20)
    parser.add_argument("--by", choices=("V1", "V2", "gateway"), default="V1")
    given = parser.parse_args()
    # read by Triton when torch imports it
    if given.by == "V2" and "TRITON_INTERPRET" not in os.environ:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    run = RunFolder(given.run)
    base = read_policy(run.stage("calibrate") / "policy.json")
    engine = HfEngine(model=run.model, tokens=base.taxonomy.tokens)
    prompts = prompts_of(run, given.prompts)
    logp_NC = engine.logp(prompts)
    policies = make_policies(replace(base, fingerprint=engine.fingerprint), logp_NC, given.policies)
    ids_C = np.array(engine.encoder.token_ids)
    if given.by == "gateway":
        emitted_PN, seconds = by_gateway(run.model, prompts, policies, logp_NC)
    else:
        emitted_PN, seconds = by_plug_in(
            run.model, [engine.encoder.prompt(p) for p in prompts], policies, given.by
        )
    decided = [decide_many(policy, logp_NC) for policy in policies]
    different_PN = emitted_PN != np.array([ids_C[d.choice_N] for d in decided])
    close_PN = np.abs(np.array([d.margin_N for d in decided])) < CLOSE
    rates = [float(d.refuses_N.mean()) for d in decided]
    print(
        f"{len(prompts)} prompts x {len(policies)} policies by {given.by}: {emitted_PN.size} pairs"
    )
    print(f"  refused, per policy      {min(rates):.2f} to {max(rates):.2f}")
    print(f"  disagreements            {int((different_PN & ~close_PN).sum())}   target 0")
    print(
        f"  closer than {CLOSE:g}       {int(close_PN.sum())}, of which differ "
        f"{int((different_PN & close_PN).sum())}"
    )
    print(f"  seconds in vLLM          {seconds:.0f}")


if __name__ == "__main__":
    main()
