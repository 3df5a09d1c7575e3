"""Fork server: a program that forks one small process per JSON schema to compute token masks.

Started by demur.engines.inprocess.grammar.pool; imports nothing of demur, so that it stays small
and starts fast.

1. The tokenizer comes on standard input, once. The fork server builds llguidance's form of it and
   waits on a control socket.
2. For each schema it receives one end of a socket pair and forks. The child shares the tokenizer,
   reads the schema from its socket, and sends masks there until the other end is closed.
3. A child has a limit of memory, and a timer of processor time with which the kernel ends it. The
   grammar library need not cooperate, and parent and other children go on.
4. All these processes have a low priority, so that they run in time that the server leaves.

No part of a schema is written anywhere: standard error is closed, and replies are codes, not texts.
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

# Messages on the control socket: a letter and the number of a schema; START carries a socket.
START, KILL = b"S", b"K"
CONTROL = struct.Struct("<cQ")
# Messages on a schema's socket: a letter, the number of an answer, a token.
NEW, TOKEN, END = b"N", b"T", b"E"
STEP = struct.Struct("<cII")
LENGTH = struct.Struct("<I")  # bytes of the schema, before it
REPLY = struct.Struct("<IB")  # number of an answer, state; a mask follows the state MASK
MASK, FINISHED, FAILED = 0, 1, 2
COMPILED, UNFIT = b"\x00", b"\x01"

# At most one space between two tokens of JSON: a model that may write any amount of white space may
# never end its answer.
SPACE: Any = {"whitespace_pattern": "[ ]?"}
_NICE = 10  # a ninth of the processor time of a server's thread that competes for it
_LOOK_S = 0.5  # interval of looks for children that have ended


def main() -> None:
    """Serve until the control socket is closed."""
    # Imported here: the client imports this module for its constants, without either package.
    import resource  # not on every system

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
                # A child that was not waited for keeps its process id: no other process has it.
                os.kill(children[number], signal.SIGKILL)
            if letter == START:
                children[number] = _fork(control, descriptors[0], settings, tokenizer)
                os.close(descriptors[0])
    finally:
        for pid in children.values():
            os.kill(pid, signal.SIGKILL)


def _give_way() -> None:
    """Lower the priority of this process and its session's group.

    Linux groups processes by session (autogroup), and niceness counts within a group only; a group
    has a niceness of its own.
    """
    os.nice(_NICE)
    # not on every kernel
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as group:
        group.write(str(_NICE))


def _next_order(
    control: socket.socket, children: dict[int, int]
) -> tuple[bytes, int, list[int]] | None:
    """Wait for an order and reap children meanwhile; None when the control socket is closed."""
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
    """Fork a child that serves one schema; returns its process id. The child never returns."""
    import resource  # see main

    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        control.close()
        # The limit counts the whole address space, and the tokenizer is in it already.
        in_use = _pages_in_use() * resource.getpagesize()
        if in_use:
            most = in_use + settings["memory_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        _Schema(socket.socket(fileno=descriptor), settings, tokenizer).serve()
        status = 0
    finally:
        os._exit(status)


def _pages_in_use() -> int:
    """Pages of address space; 0 where the system does not tell, and only time is limited."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0])
    except FileNotFoundError:
        return 0


class _Schema:
    """One schema in its child process: compiled once, for any number of answers."""

    def __init__(self, line: socket.socket, settings: dict[str, Any], tokenizer: Any) -> None:
        self._line = line
        self._settings = settings
        self._tokenizer = tokenizer
        self._answers: dict[int, Any] = {}  # number of an answer -> llguidance's matcher
        self._spent_s: dict[int, float] = {}  # processor time by answer

    def serve(self) -> None:
        """Compile the schema, report it, and send masks until the other end is closed."""
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
        """The reply with the mask after a token; None: at the start of an answer."""
        matcher, start_s = self._answers[answer], time.process_time()
        with _limited(self._settings["step_s"]):
            taken = token is None or matcher.consume_token(token)
            mask = matcher.compute_bitmask() if taken and not matcher.is_stopped() else b""
        step_s = time.process_time() - start_s
        self._spent_s[answer] = self._spent_s.get(answer, 0.0) + step_s
        # Checked here too: the kernel's timer may be coarse.
        limits = self._settings
        costly = step_s >= limits["step_s"] or self._spent_s[answer] >= limits["answer_s"]
        if not taken or matcher.is_error() or costly:
            return REPLY.pack(answer, FAILED)
        if matcher.is_stopped():
            return REPLY.pack(answer, FINISHED)
        # A mask without any bit: the answer can neither go on nor end.
        return REPLY.pack(answer, MASK) + mask if any(mask) else REPLY.pack(answer, FAILED)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Have the kernel end this process if the block takes more processor time.

    The timer sends SIGPROF, which has no handler here. Time of other processes does not count; the
    server has limits of waiting time of its own (SLACK_S, LATE_S).
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


if __name__ == "__main__":
    main()
