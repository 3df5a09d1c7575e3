"""What the plug-in costs in vLLM: CPU time with a policy on every request against vLLM without the
plug-in, and with a monitor on every request against the policy alone.

    make vllm
    .venv-vllm/bin/python bench/vllm_cost.py RUN [--rounds 20] [--prompts 200] [--tokens 32]

RUN is a finished run with a calibrated policy. Four processes hold a vLLM each: without the
plug-in, with it but no policy on the requests, with a policy on every request, and with that policy
and a monitor that scores every later position and stops nothing. They work in turn, the order
turning with the rounds, on the same prompts and the same number of tokens. CPU seconds are those of
the whole process; medians are printed, and an interval for the monitor's mean ratio.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.engines.hf.engine import HfEngine
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder

ARMS = ("without", "idle", "active", "watched")
WATCHED = "watched"  # name of the policy with a monitor
WARM_UPS = 2
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}


def work(arm: str, path: str, tokens: int) -> None:
    """Answer every line of standard input with the CPU seconds of one round."""
    from vllm import LLM, SamplingParams  # the parent need not wait for it

    run = RunFolder(Path(path))
    policy = read_policy(run.stage("calibrate") / "policy.json")
    encoder = HfEngine(model=run.model, tokens=policy.taxonomy.tokens).encoder
    llm = LLM(
        model=str(run.model),
        dtype="float32",
        enforce_eager=True,
        logits_processors=[] if arm == "without" else ["demur.engines.vllm_gate:RefusalGate"],
        generation_config="vllm",
        distributed_executor_backend="uni",
        enable_prefix_caching=False,
        max_model_len=1024,
        max_num_seqs=64,
    )
    names = {"active": policy.name, "watched": WATCHED}
    extra = {"demur_policy": names[arm]} if arm in names else None
    params = SamplingParams(
        max_tokens=tokens, temperature=0.0, ignore_eos=True, detokenize=False, extra_args=extra
    )
    for line in sys.stdin:
        prompts = [e.prompt for e in read_examples(run.split("test"))[: int(line)]]
        requests = [{"prompt_token_ids": encoder.prompt(p)} for p in prompts]
        started = time.process_time()
        outputs = llm.generate(requests, params, use_tqdm=False)
        cpu_s = time.process_time() - started
        written = sum(len(o.outputs[0].token_ids) for o in outputs)
        print("ROUND", json.dumps({"cpu_s": cpu_s, "tokens": written}), flush=True)


def ask(process: subprocess.Popen[str], prompts: int) -> dict[str, Any]:
    """One round of one arm."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{prompts}\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("ROUND "):
            figures: dict[str, Any] = json.loads(line.removeprefix("ROUND "))
            return figures
    raise SystemExit("an arm has stopped: see its log above")


def main() -> None:
    """Parse the command line, take turns, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        work(given.arm, str(given.run), given.tokens)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_policies(given.run, Path(folder), given.tokens)
        environment = {**os.environ, **ENVIRONMENT, "DEMUR_POLICIES": folder}
        figures = measured(given, environment)
    rounds = {arm: [f["cpu_s"] for f in every[WARM_UPS:]] for arm, every in figures.items()}
    print(
        f"{given.prompts} prompts x {given.tokens} tokens, {given.rounds} rounds in turn; CPU "
        "seconds of a round"
    )
    for arm, cpu_s in rounds.items():
        tokens = {f["tokens"] for f in figures[arm]}
        paired = statistics.median(a / b for a, b in zip(cpu_s, rounds["without"], strict=True))
        quarters = statistics.quantiles(cpu_s, n=4)
        print(
            f"  {arm:8} median {statistics.median(cpu_s):.3f} (quartiles {quarters[0]:.3f} to "
            f"{quarters[2]:.3f}), ratio of medians "
            f"{statistics.median(cpu_s) / statistics.median(rounds['without']):.3f}, median of "
            f"paired ratios {paired:.3f}, tokens {tokens}"
        )
    low, mean, high = mean_ratio(rounds["watched"], rounds["active"])
    print(f"  watched / active: {mean:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    print("  targets: active <= 1.03 without; watched <= 1.05 active")


def write_policies(run: Path, folder: Path, tokens: int) -> None:
    """Write the run's policy, and the same one with a monitor that no answer reaches."""
    policy = read_policy(RunFolder(run).stage("calibrate") / "policy.json")
    assert policy.fingerprint is not None
    # vLLM is started in float32, whatever the weights are stored in
    model = replace(policy.fingerprint, dtype="float32")
    policy = replace(policy, promises=(), sensitivities=(), monitor=None, fingerprint=model)
    monitor = Monitor(
        thresholds=(1.0,) * len(policy.categories),
        answers=AnswerSampling(most_tokens=tokens, temperature=0.0),
        held_back=0,
    )
    categories = tuple(replace(c, override=None) for c in policy.categories)
    watched = replace(policy, name=WATCHED, categories=categories, monitor=monitor)
    write_policy(folder / "active.json", policy)
    write_policy(folder / "watched.json", watched)


def mean_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of paired ratios, between the ends of its 95 % interval by normal theory."""
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    mean = statistics.fmean(logs)
    half = 1.96 * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean - half), math.exp(mean), math.exp(mean + half)


def measured(given: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Each arm's figures, round by round, warm-ups first."""
    arms = {}
    for arm in ARMS:
        command = [
            sys.executable,
            __file__,
            str(given.run),
            "--arm",
            arm,
            "--tokens",
            str(given.tokens),
        ]
        arms[arm] = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
    figures: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for number in range(WARM_UPS + given.rounds):
        for at in range(len(ARMS)):
            arm = ARMS[(number + at) % len(ARMS)]
            figures[arm].append(ask(arms[arm], given.prompts))
    for process in arms.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    return figures


if __name__ == "__main__":
    main()
