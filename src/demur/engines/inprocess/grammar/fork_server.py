"""A program of its own: forks one small process per schema, which compiles it and says which token
may come next.

Started by demur.engines.inprocess.grammar.pool; imports nothing of demur, so that it stays small
and starts fast.

1. The tokenizer comes on standard input, once; the host builds llguidance's view of it and waits on
   a control socket.
2. For each schema the host gets one end of a socket pair and forks: the child shares the tokenizer,
   reads the schema from its socket, and answers there until the other end is closed.
3. A child has a limit on memory, and on processor time a timer that the kernel ends it by, whatever
   the grammar library is doing: it need not cooperate. Its parent and all other schemas go on.
4. All of them run only where the server's threads leave time: its process waits for no schema, and
   others are answered.

Nothing that a schema says is written anywhere: standard error is closed, and answers carry codes,
no texts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

# on the control socket: a letter and the number of a schema; START carries a socket
START, KILL = b"S", b"K"
CONTROL = struct.Struct("<cQ")
# on a schema's socket: a letter, the number of an answer, a token
NEW, TOKEN, END = b"N", b"T", b"E"
STEP = struct.Struct("<cII")
LENGTH = struct.Struct("<I")
REPLY = struct.Struct("<IB")  # number of an answer, state; a mask follows MASK
MASK, FINISHED, FAILED = 0, 1, 2
COMPILED, UNFIT = b"\x00", b"\x01"

# One space at most between two parts: a model that may write any amount of white space may never
# come to an end.
SPACE: Any = {"whitespace_pattern": "[ ]?"}
_NICE = 10  # a ninth of the time that a thread of the server gets, where both want it
_LOOK_S = 0.5  # between two looks for children that have ended


def main() -> None:
    """Serve until the control socket is closed."""
    import resource  # not on every system; whoever only talks to this program needs neither

    from llguidance import LLTokenizer  # optional: extra "json"

    settings = json.loads(sys.stdin.buffer.read())
    control = socket.socket(fileno=int(sys.argv[1]))
    _give_way()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = LLTokenizer(
        settings["tokenizer"], n_vocab=settings["vocabulary"], eos_token=settings["stops"]
    )
    control.sendall(COMPILED)
    children: dict[int, int] = {}  # number of a schema -> process
    try:
        while (order := _next_order(control, children)) is not None:
            letter, number, descriptors = order
            if letter == KILL and number in children:
                # ours, and not yet waited for: nobody else has its number
                os.kill(children[number], signal.SIGKILL)
            if letter == START:
                children[number] = _fork(control, descriptors[0], settings, tokenizer)
                os.close(descriptors[0])
    finally:
        for pid in children.values():
            os.kill(pid, signal.SIGKILL)


def _give_way() -> None:
    """Let the server's threads go first.

    Linux groups processes by session, and niceness counts within a group only: the group has one of
    its own.
    """
    os.nice(_NICE)
    # not on every one
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as group:
        group.write(str(_NICE))


def _next_order(
    control: socket.socket, children: dict[int, int]
) -> tuple[bytes, int, list[int]] | None:
    """Wait for an order, taking leave of children that ended. None: the control socket was
    closed.
    """
    there = False
    while not there:
        for number, pid in list(children.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[number]
        there = bool(select.select([control], [], [], _LOOK_S)[0])
    data, descriptors, _, _ = socket.recv_fds(control, CONTROL.size, 1)
    if len(data) < CONTROL.size:
        return None
    letter, number = CONTROL.unpack(data)
    return letter, number, descriptors


def _fork(control: socket.socket, descriptor: int, settings: dict[str, Any], tokenizer: Any) -> int:
    """A child that serves one schema; its process id. The child itself never returns from here."""
    import resource  # see main

    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        control.close()
        in_use = _pages_in_use() * resource.getpagesize()
        if in_use:
            most = in_use + settings["memory_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        _Schema(socket.socket(fileno=descriptor), settings, tokenizer).serve()
        status = 0
    finally:
        os._exit(status)


def _pages_in_use() -> int:
    """Pages of address space; 0 where the system does not say: then memory is bounded by time
    alone.
    """
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0])
    except FileNotFoundError:
        return 0


class _Schema:
    """One schema in its process: compiled once, followed by any number of answers."""

    def __init__(self, line: socket.socket, settings: dict[str, Any], tokenizer: Any) -> None:
        self._line = line
        self._settings = settings
        self._tokenizer = tokenizer
        self._answers: dict[int, Any] = {}  # llguidance's matchers
        self._spent_s: dict[int, float] = {}

    def serve(self) -> None:
        """Compile, say so, and follow answers until the other end is closed."""
        from llguidance import LLMatcher  # see main

        with self._line.makefile("rb") as orders:
            (size,) = LENGTH.unpack(orders.read(LENGTH.size))
            schema = orders.read(size).decode()
            with _limited(self._settings["compile_s"]):
                grammar = LLMatcher.grammar_from_json_schema(schema, overrides=SPACE)
                compiled = LLMatcher(self._tokenizer, grammar, log_level=0)
            if compiled.is_error():
                self._line.sendall(UNFIT)
                return
            self._line.sendall(COMPILED)
            while len(order := orders.read(STEP.size)) == STEP.size:
                letter, answer, token = STEP.unpack(order)
                if letter == END:
                    self._answers.pop(answer, None)
                    self._spent_s.pop(answer, None)
                    continue
                if letter == NEW:
                    self._answers[answer] = compiled.deep_copy()
                self._line.sendall(self._step(answer, token if letter == TOKEN else None))

    def _step(self, answer: int, token: int | None) -> bytes:
        """The reply after a token: which may come next. None: at the start."""
        matcher, start_s = self._answers[answer], time.process_time()
        with _limited(self._settings["step_s"]):
            taken = token is None or matcher.consume_token(token)
            mask = matcher.compute_bitmask() if taken and not matcher.is_stopped() else b""
        step_s = time.process_time() - start_s
        self._spent_s[answer] = self._spent_s.get(answer, 0.0) + step_s
        if not taken or matcher.is_error() or self._is_over(answer, step_s):
            return REPLY.pack(answer, FAILED)
        if matcher.is_stopped():
            return REPLY.pack(answer, FINISHED)
        return REPLY.pack(answer, MASK) + mask if any(mask) else REPLY.pack(answer, FAILED)

    def _is_over(self, answer: int, step_s: float) -> bool:
        """Whether an answer has had its time. The kernel's timer, and its count of a short step,
        may be coarse.
        """
        limits = self._settings
        return bool(step_s >= limits["step_s"] or self._spent_s[answer] >= limits["answer_s"])


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Have the kernel end this process if the block takes more processor time: by SIGPROF, which
    nobody handles.

    Time in which others went first does not count. Whoever waits has limits of their own: SLACK_S,
    LATE_S.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


if __name__ == "__main__":
    main()
