"""A scripted OpenAI-compatible endpoint on 127.0.0.1: real HTTP, replies by a function of the
request's body.
"""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, model="stub-1", **more):
    """A chat completion body."""
    message = {"role": "assistant", "content": text}
    return {
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **more}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }


def events(*deltas, model="stub-1", finish="stop", usage=(100, 10), done=True):
    """The pieces of a streamed answer: texts or delta objects, then the finish, usage and
    [DONE].
    """
    choices = [
        {"delta": {"content": d} if isinstance(d, str) else d, "finish_reason": None}
        for d in deltas
    ]
    choices += [{"delta": {}, "finish_reason": finish}] if finish else []
    bodies = [{"model": model, "choices": [{"index": 0, **c}]} for c in choices]
    if usage:
        counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        bodies.append({"model": model, "choices": [], "usage": counted})
    return [f"data: {json.dumps(b)}\n\n".encode() for b in bodies] + [b"data: [DONE]\n\n"] * done


class Stub:
    """What was asked, and the script: a function from (number of the call, body) to (status, body)
    or a body.

    A body that is a str or bytes is sent as it is, a list of bytes as a stream, in which a number
    is a pause in seconds. `hold_s`: every answer takes so long. `models`: what it says it serves,
    `looks`: how often it was asked.
    """

    def __init__(self, script, hold_s=0.0):
        self.script, self.hold_s = script, hold_s
        self.bodies, self.headers = [], []
        self.models, self.looks = ["stub-1"], 0
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def answer(self, body, headers):
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            number = len(self.bodies)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if self.hold_s:
                time.sleep(self.hold_s)
            found = self.script(number, body)
            return found if isinstance(found, tuple) else (200, found)
        finally:
            with self.lock:
                self.now -= 1


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that gave up


@contextmanager
def serving(script, hold_s=0.0):
    """(url up to /v1, the stub) of a server that runs for the length of the block."""
    stub = Stub(script, hold_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            stub.looks += 1
            self.reply(200, {"data": [{"id": m} for m in stub.models]})

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            status, body = stub.answer(json.loads(raw), dict(self.headers))
            if isinstance(body, list):
                self.stream(body)
            else:
                self.reply(status, body)

        def stream(self, pieces):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            for piece in pieces:
                if isinstance(piece, bytes):
                    self.wfile.write(piece)
                    self.wfile.flush()
                else:
                    time.sleep(piece)
            self.close_connection = True

        def reply(self, status, body):
            data = (
                body
                if isinstance(body, bytes)
                else (body if isinstance(body, str) else json.dumps(body)).encode()
            )
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
