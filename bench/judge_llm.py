"""Throughput of the LLM judge against an endpoint on this machine that takes its time, and what a
second run costs.

usage: python bench/judge_llm.py [ANSWERS [SECONDS_PER_ANSWER]] The endpoint answers each request
after a fixed wait, however many there are. So the ideal is in_flight / wait.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.core.judging.judge import JudgeInput
from demur.engines.remote.chat_client import ChatClient, Endpoint
from demur.judges.rubric import RubricJudge, Wording, builtin_rubric
from demur.store.answers.label_store import LabelFile

LABEL = json.dumps({"reason": "it says no", "label": "refusal"})
BODY = json.dumps(
    {
        "model": "stub",
        "choices": [{"message": {"role": "assistant", "content": LABEL}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 20},
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


@dataclass(kw_only=True)
class Waiting:
    """An HTTP endpoint: one reply a request, `wait_s` after it has come. What it saw is shared
    between processes.
    """

    wait_s: float
    seen: Any  # (now, most, answered, port), changed by the endpoint only

    async def serve(self) -> None:
        """Answer until the process is ended."""
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=1024)
        self.seen[3] = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            length = next(
                int(h.split(b":")[1])
                for h in head.lower().split(b"\r\n")
                if h.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            self.seen[0] += 1
            self.seen[1] = max(self.seen[1], self.seen[0])
            await asyncio.sleep(self.wait_s)
            self.seen[0] -= 1
            self.seen[2] += 1
            writer.write(REPLY)
            await writer.drain()
        writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""


def _run(wait_s: float, seen: Any) -> None:
    asyncio.run(Waiting(wait_s=wait_s, seen=seen).serve())


def measure(items: Sequence[JudgeInput], in_flight: int, wait_s: float, seen: Any) -> str:
    """One line: answers a second when all is new, and when all is known."""
    seen[1] = seen[2] = 0
    with tempfile.TemporaryDirectory() as folder:
        store = LabelFile(Path(folder) / "labels.sqlite")
        endpoint = Endpoint(url=f"http://127.0.0.1:{seen[3]}/v1", model="stub", in_flight=in_flight)
        judge = RubricJudge(
            chat=ChatClient(endpoint=endpoint),
            store=store,
            wording=Wording(rubric=builtin_rubric()),
        )
        start, cpu = time.perf_counter(), time.process_time()
        judge.judge_many(items)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        asked, start = seen[2], time.perf_counter()
        judge.judge_many(items)
        again = time.perf_counter() - start
    return (
        f"{in_flight:>4} in flight asked for, {seen[1]} seen by the endpoint: "
        f"{len(items) / seconds:,.0f} answers/s (ideal {in_flight / wait_s:,.0f}), "
        f"{1000 * cpu / len(items):.1f} ms of processor time each; again: {seen[2] - asked} calls, "
        f"{len(items) / again:,.0f} answers/s"
    )


def main() -> None:
    """Print answers a second for several numbers of requests in flight."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    wait_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
    items = [
        JudgeInput(request=f"How do I do {n}?", answer=f"I won't help with {n}.")
        for n in range(count)
    ]
    seen = multiprocessing.Array("i", 4, lock=False)
    server = multiprocessing.Process(target=_run, args=(wait_s, seen), daemon=True)
    server.start()
    while not seen[3]:
        time.sleep(0.05)
    for in_flight in (16, 64, 128):
        print(measure(items, in_flight, wait_s, seen))
    server.terminate()


if __name__ == "__main__":
    main()
