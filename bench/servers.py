"""Servers in processes of their own, for the benches that ask them: vLLM, and `demur serve` in
front of it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 300.0
MODEL = "m"  # the name under which both are asked
GATE = "demur.engines.vllm_gate:RefusalGate"
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def vllm(python: Path, model: Path, policies: Path | None = None) -> Iterator[str]:
    """A vLLM server; yields its address with /v1. python: of an environment with vLLM. policies:
    for the plug-in, which is left out without them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--model",
        str(model),
        "--served-model-name",
        MODEL,
        "--dtype",
        "float32",
        "--enforce-eager",
    ]
    words += [
        "--block-size",
        "32",
        "--max-model-len",
        "1024",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    words += ["--generation-config", "vllm", *(["--logits-processors", GATE] if policies else [])]
    environment = {
        **os.environ,
        **ENVIRONMENT,
        **({"DEMUR_POLICIES": str(policies)} if policies else {}),
    }
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        server = subprocess.Popen(
            [str(python), "-m", "vllm.entrypoints.openai.api_server", *words],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await(f"http://127.0.0.1:{port}/health", server, Path(log.name))
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


@contextmanager
def demur(
    words: Sequence[str], program: Sequence[str] = ("-m", "demur"), log: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`demur serve WORDS` on a free port; yields its address and its process. program: what stands
    in for `demur`.

    log: where its log lines go.
    """
    command = [sys.executable, *program, "serve", *words, "--port", "0"]
    with (
        Path(log or os.devnull).open("w") as lines,
        subprocess.Popen(command, stdout=lines, stderr=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stderr is not None
            said = ""
            while " on http" not in said:
                said = server.stderr.readline()
                assert said, "the server did not start"
            yield said.partition(" on ")[2].partition("/v1")[0], server
        finally:
            server.terminate()


def _await(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, (
            f"vLLM did not start within {START_S:g} s: {log.read_text()[-3000:]}"
        )
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
