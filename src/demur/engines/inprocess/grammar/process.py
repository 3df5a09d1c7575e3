"""An answer under a schema, seen from the decoding thread: masks that another process finds out.

See demur.engines.inprocess.grammar.pool for the whole.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterable
from itertools import count
from time import monotonic
from typing import Literal

import numpy as np
import torch

from demur.engines.inprocess.grammar import fork_server

State = Literal["waiting", "ready", "finished", "failed"]


class Grammar:
    """Where one answer stands in its schema. Used up by one answer, on the decoding thread."""

    def __init__(self, process: SchemaProcess, number: int) -> None:
        self.process = process
        self._number = number
        self._mask = b""
        self.state: State = "waiting"  # ready: the mask is there. finished: nothing may follow

    def mask(self, logits_V: torch.Tensor) -> None:
        """Set the logits of ids that may not come next to -inf, in place. The state must be
        ready.
        """
        bits = np.frombuffer(self._mask, dtype=np.uint8)
        allowed_V = np.unpackbits(bits, bitorder="little", count=len(logits_V)).astype(bool)
        logits_V[torch.from_numpy(~allowed_V).to(logits_V.device)] = -torch.inf

    def take(self, token_id: int) -> None:
        """Note that this id was written: the next mask is awaited from now on."""
        self.state = "waiting"
        self.process.order(fork_server.TOKEN, self._number, token_id)

    def close(self) -> None:
        """Let go of it, at any time and more than once."""
        self.process.end(self._number)

    def reply(self, state: int, mask: bytes) -> None:
        """What the process says."""
        self._mask = mask
        self.state = (
            "ready"
            if state == fork_server.MASK
            else "finished"
            if state == fork_server.FINISHED
            else "failed"
        )


class SchemaProcess:
    """The other end of one schema's process. Orders come from any thread; replies are read by the
    decoding thread.
    """

    def __init__(self, line: socket.socket, mask_bytes: int, tenant: str) -> None:
        self.tenant = tenant  # whose schema it was first
        self._line = line
        self._mask_bytes = mask_bytes
        self._lock = threading.Lock()
        self._answers: dict[int, Grammar] = {}
        self._numbers = count()
        self._rest = b""
        self.alive = True
        self.died = False  # by itself, in the middle of an answer: it took more than it may

    @property
    def in_use(self) -> int:
        """Answers under this schema."""
        return len(self._answers)

    def begin(self) -> Grammar:
        """Another answer."""
        with self._lock:
            number = next(self._numbers) % 2**32
            grammar = self._answers[number] = Grammar(self, number)
        self.order(fork_server.NEW, number, 0)
        return grammar

    def order(self, letter: bytes, answer: int, token: int) -> None:
        """Tell the process something. What it does not take any more it never will: its answers
        fail.
        """
        with self._lock:
            if self.alive:
                try:
                    self._line.sendall(
                        fork_server.STEP.pack(letter, answer, token), socket.MSG_DONTWAIT
                    )
                except OSError:
                    self._fail()
            elif answer in self._answers:
                self._answers[answer].reply(fork_server.FAILED, b"")

    def end(self, answer: int) -> None:
        """Forget an answer."""
        with self._lock:
            known = self._answers.pop(answer, None)
        if known is not None:
            self.order(fork_server.END, answer, 0)

    def fileno(self) -> int:
        """For select; -1 once it is closed."""
        return self._line.fileno()

    def read(self) -> None:
        """Take in the replies that are there, without waiting."""
        with self._lock:
            try:
                while self.alive and (data := self._line.recv(2**16, socket.MSG_DONTWAIT)):
                    self._rest += data
                if self.alive:
                    self.died = True
                    self._fail()
            except BlockingIOError:
                pass
            except OSError:
                self._fail()
            self._hand_out()

    def close(self) -> None:
        """Hang up: the process ends by itself."""
        with self._lock:
            self._fail()

    def _hand_out(self) -> None:
        size = fork_server.REPLY.size
        while len(self._rest) >= size:
            number, state = fork_server.REPLY.unpack_from(self._rest)
            whole = size + (self._mask_bytes if state == fork_server.MASK else 0)
            if len(self._rest) < whole:
                return
            if number in self._answers:
                self._answers[number].reply(state, self._rest[size:whole])
            self._rest = self._rest[whole:]

    def _fail(self) -> None:
        self.alive = False
        self._line.close()
        for grammar in self._answers.values():
            grammar.reply(fork_server.FAILED, b"")


def wait(grammars: Iterable[Grammar], seconds: float) -> None:
    """Take in what their processes say, until none of them is waited for any more or the time is
    over.
    """
    end_s = monotonic() + seconds
    waiting = list(grammars)
    while waiting := [g for g in waiting if g.state == "waiting"]:
        poll = select.poll()
        by_number = {g.process.fileno(): g.process for g in waiting}
        for number in by_number.keys() - {-1}:
            poll.register(number, select.POLLIN)
        there = poll.poll(max(0.0, end_s - monotonic()) * 1000)
        for number, _ in there:
            by_number[number].read()
        if not there:
            return
