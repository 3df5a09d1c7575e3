"""A real vLLM for tests: each run is a process of its own, since vLLM can be set up once per
process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from demur.core.fingerprint import Fingerprint
from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.store.policies.policy_file import write_policy

needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed: make vllm"),
]
GATE = "demur.engines.vllm_gate:RefusalGate"
TINY_LLM = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 192,
    "block_size": 32,
    "max_num_seqs": 32,
}
# One process does everything: a tiny model spends its time on starting processes otherwise.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


def policies(fingerprint: Fingerprint) -> dict[str, Policy]:
    """Policies that decide differently on the scores of a random model, whose probabilities are all
    small.
    """
    taxonomy = coconot()

    def policy(name: str, rule: Any, threshold: float, **fields: Any) -> Policy:
        categories = tuple(CategoryPolicy(threshold=threshold, **fields) for _ in taxonomy.names)
        return Policy(
            name=name, taxonomy=taxonomy, rule=rule, categories=categories, fingerprint=fingerprint
        )

    made = [policy(f"heaviest-{t:g}", "heaviest", t) for t in (0.0, 0.001, 0.003, 0.01, NEVER)]
    made += [
        policy("sum", "sum", 0.01),
        policy("any", "any", 0.004),
        policy("natural", "natural", NEVER),
    ]
    made.append(policy("bias", "bias", NEVER, bias=0.3))
    return {p.name: p for p in made}


def write_policies(folder: Path, found: Mapping[str, Policy]) -> Path:
    """A folder of policies."""
    for name, policy in found.items():
        write_policy(folder / f"{name}.json", policy)
    return folder


def run_python(code: str, argument: Any, **environment: str) -> Any:
    """Run `code` in a fresh interpreter: it finds `argument` and leaves `result`, both JSON values.

    Raises AssertionError with the end of its log if it fails.
    """
    lines = [
        "import json, sys",
        "argument = json.loads(sys.argv[1])",
        code,
        "print('RESULT', json.dumps(result))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), json.dumps(argument)],
        env={**os.environ, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


# Generates for each request; says what vLLM did meanwhile.
GENERATE = """
from vllm import LLM, SamplingParams
always = {"distributed_executor_backend": "uni", "disable_log_stats": False}
always["generation_config"] = "vllm"
llm = LLM(**always, **argument["llm"])
requests = argument["requests"]
outputs = llm.generate(
    [{"prompt_token_ids": r["ids"]} for r in requests],
    [SamplingParams(**r["params"]) for r in requests],
    use_tqdm=False,
)
counts = {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}
result = {
    "ids": [[list(one.token_ids) for one in o.outputs] for o in outputs],
    "cached": sum(o.num_cached_tokens for o in outputs),
    "preemptions": counts["vllm:num_preemptions"],
    "v2": llm.llm_engine.vllm_config.use_v2_model_runner,
}
"""

# vLLM's second model runner wants Triton; Triton's interpreter runs its kernels on the CPU, slowly.
ON_V2 = """
import triton.backends
class Driver:
    @staticmethod
    def is_active():
        return False
triton.backends.backends["cpu"] = triton.backends.Backend(compiler=None, driver=Driver)
"""
V2 = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}


def requests(
    prompts: Sequence[Sequence[int]], params: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The argument of GENERATE."""
    return [{"ids": list(ids), "params": dict(p)} for ids, p in zip(prompts, params, strict=True)]


def generate_crowded(
    runner: str, model: Path, folder: Path, asked: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What GENERATE makes of requests in a crowded vLLM with the plug-in, on one of its runners.

    Prompts come in chunks, prefixes are cached, and there are too few blocks for all sequences:
    some are thrown out and read anew.
    """
    llm = {
        **TINY_LLM,
        "model": str(model),
        "logits_processors": [GATE],
        "max_num_batched_tokens": 64,
        "enable_chunked_prefill": True,
        "enable_prefix_caching": True,
        "num_gpu_blocks_override": 24,
    }
    on_v2 = runner == "V2"
    done: dict[str, Any] = run_python(
        (ON_V2 if on_v2 else "") + GENERATE,
        {"llm": llm, "requests": asked},
        DEMUR_POLICIES=str(folder),
        **(V2 if on_v2 else {}),
    )
    return done
