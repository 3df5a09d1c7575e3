"""Throughput of the LLM judge against an endpoint on this machine that takes its time, and what a second run costs.

usage: python bench/judge_llm.py [ANSWERS [SECONDS_PER_ANSWER]]
The endpoint answers each request after a fixed wait, however many there are. So the ideal is in_flight / wait.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from demur.core.judging import Item
from demur.engines.chat_client import ChatClient, Endpoint
from demur.judges.rubric import RubricJudge, Wording, builtin_rubric
from demur.store.label_store import LabelFile

LABEL = json.dumps({"reason": "it says no", "label": "refusal"})
BODY = json.dumps(
    {
        "model": "stub",
        "choices": [{"message": {"role": "assistant", "content": LABEL}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 20},
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Waiting:
    """An HTTP endpoint in a thread of its own: one reply a request, `wait_s` after it has come."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s, self.now, self.most, self.answered = wait_s, 0, 0, 0
        self.port, self._up = 0, threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._up.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            length = next(
                int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(self.wait_s)
            self.now -= 1
            self.answered += 1
            writer.write(REPLY)
            await writer.drain()
        writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""


def main() -> None:
    """Print answers a second for several numbers of requests in flight."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    wait_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
    items = [Item(request=f"How do I do {n}?", answer=f"I won't help with {n}.") for n in range(count)]
    stub = Waiting(wait_s)
    for in_flight in (16, 64, 128):
        stub.most = stub.answered = 0
        with tempfile.TemporaryDirectory() as folder:
            store = LabelFile(Path(folder) / "labels.sqlite")
            endpoint = Endpoint(url=f"http://127.0.0.1:{stub.port}/v1", model="stub", in_flight=in_flight)
            judge = RubricJudge(
                chat=ChatClient(endpoint=endpoint), store=store, wording=Wording(rubric=builtin_rubric())
            )
            start = time.perf_counter()
            judge.judge_many(items)
            seconds = time.perf_counter() - start
            asked, start = stub.answered, time.perf_counter()
            judge.judge_many(items)
            again = time.perf_counter() - start
        print(
            f"{in_flight:>4} in flight asked for, {stub.most} seen by the endpoint: {count / seconds:,.0f} answers/s "
            f"(ideal {in_flight / wait_s:,.0f}); again: {stub.answered - asked} calls, {count / again:,.0f} answers/s"
        )


if __name__ == "__main__":
    main()
