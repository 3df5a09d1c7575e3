"""Servers in processes of their own, for the benches that ask them: vLLM, llama-server, `demur
serve`.
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
from collections.abc import Iterator, Mapping, Sequence
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


Running = tuple[str, "subprocess.Popen[bytes]"]  # the address with /v1, the server's process


def serve_words(run: Path, policies: Path, config: Path, more: str = "") -> list[str]:
    """Words of `demur serve` for a run, with a configuration that looks at no other file.

    config: where to write it. more: further keys of [server], then further tables.
    """
    config.write_text(f'[files]\nwatch = []\n[server]\nmodel = "{MODEL}"\n{more}', encoding="utf-8")
    return [str(run), "--config", str(config), "--policies", str(policies)]


@contextmanager
def vllm(
    python: Path, model: Path, policies: Path | None = None, dtype: str = "float32"
) -> Iterator[Running]:
    """A vLLM server. python: of an environment with vLLM. policies: for the plug-in, which is left
    out without them."""
    port = free_port()
    words = ["--model", str(model), "--served-model-name", MODEL, "--dtype", dtype]
    words += ["--enforce-eager", "--block-size", "32", "--max-model-len", "1024"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"]
    words += ["--logits-processors", GATE] if policies else []
    more = {"DEMUR_POLICIES": str(policies)} if policies else {}
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", *words]
    with _started(command, port, ENVIRONMENT | more) as server:
        yield f"http://127.0.0.1:{port}/v1", server


@contextmanager
def llama(program: Path, gguf: Path, streams: int, threads: int) -> Iterator[Running]:
    """A llama-server with a slot for each stream."""
    port = free_port()
    words = ["--model", str(gguf), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--parallel", str(streams), "--ctx-size", str(1024 * streams)]
    words += ["--threads", str(threads), "--threads-batch", str(threads)]
    with _started([str(program), *words], port, {}) as server:
        yield f"http://127.0.0.1:{port}/v1", server


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _started(
    command: Sequence[str], port: int, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that has answered /health; it ends with its children."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await(f"http://127.0.0.1:{port}/health", server, Path(log.name))
            yield server
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
            said, all_said = "", ""
            while " on http" not in said:
                said = server.stderr.readline()
                all_said += said
                assert said, f"the server did not start: {all_said}"
            yield said.partition(" on ")[2].partition("/v1")[0], server
        finally:
            server.terminate()


def _await(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, (
            f"the server did not start within {START_S:g} s: {log.read_text()[-3000:]}"
        )
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
