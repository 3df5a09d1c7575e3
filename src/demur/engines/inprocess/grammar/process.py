"""Answers under a JSON schema, whose masks a schema's process computes: the server's side.

See demur.engines.inprocess.grammar.pool for the mechanism.
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
    """State of one answer under a schema. For one answer, on the decoding thread."""

    def __init__(self, process: SchemaProcess, number: int) -> None:
        self.process = process
        self._number = number
        self._mask = b""  # a bit per token id: whether it may come next
        # waiting: for a mask. ready: the mask has come. finished: the JSON is complete
        self.state: State = "waiting"

    def mask(self, logits_V: torch.Tensor) -> None:
        """Set the logits (V,) of ids that may not come next to -inf, in place, in state "ready"."""
        bits = np.frombuffer(self._mask, dtype=np.uint8)
        allowed_V = np.unpackbits(bits, bitorder="little", count=len(logits_V)).astype(bool)
        logits_V[torch.from_numpy(~allowed_V).to(logits_V.device)] = -torch.inf

    def take(self, token_id: int) -> None:
        """Send the id that was written; the state is "waiting" until the next mask comes."""
        self.state = "waiting"
        self.process.order(fork_server.TOKEN, self._number, token_id)

    def close(self) -> None:
        """End the answer; may be called at any time and more than once."""
        self.process.end(self._number)

    def reply(self, state: int, mask: bytes) -> None:
        """Take in a reply of the process."""
        self._mask = mask
        self.state = (
            "ready"
            if state == fork_server.MASK
            else "finished"
            if state == fork_server.FINISHED
            else "failed"
        )


class SchemaProcess:
    """Connection to one schema's process.

    Any thread sends orders; the decoding thread reads replies.
    """

    def __init__(self, line: socket.socket, mask_bytes: int, tenant: str) -> None:
        self.tenant = tenant  # whose request had the process made
        self._line = line
        self._mask_bytes = mask_bytes
        self._lock = threading.Lock()  # guards everything below
        self._answers: dict[int, Grammar] = {}  # by number
        self._numbers = count()
        self._rest = b""  # received bytes of an incomplete reply
        self.alive = True
        self.died = False  # ended by the kernel: it exceeded a limit of time or memory

    @property
    def in_use(self) -> int:
        """Number of answers under this schema."""
        return len(self._answers)

    def begin(self) -> Grammar:
        """Begin another answer."""
        with self._lock:
            number = next(self._numbers) % 2**32  # four bytes in a message
            grammar = self._answers[number] = Grammar(self, number)
        self.order(fork_server.NEW, number, 0)
        return grammar

    def order(self, letter: bytes, answer: int, token: int) -> None:
        """Send a message to the process; all its answers fail if it takes no more."""
        with self._lock:
            if self.alive:
                try:
                    # A full socket raises too: a process that is that far behind is given up.
                    self._line.sendall(
                        fork_server.STEP.pack(letter, answer, token), socket.MSG_DONTWAIT
                    )
                except OSError:
                    self._fail()
            elif answer in self._answers:
                self._answers[answer].reply(fork_server.FAILED, b"")

    def end(self, answer: int) -> None:
        """End an answer: the process forgets its state."""
        with self._lock:
            known = self._answers.pop(answer, None)
        if known is not None:
            self.order(fork_server.END, answer, 0)

    def fileno(self) -> int:
        """File descriptor for poll; -1 once it is closed."""
        return self._line.fileno()

    def read(self) -> None:
        """Take in the replies that have come, without waiting."""
        with self._lock:
            try:
                while self.alive and (data := self._line.recv(2**16, socket.MSG_DONTWAIT)):
                    self._rest += data
                if self.alive:  # recv returned nothing: the process has ended
                    self.died = True
                    self._fail()
            except BlockingIOError:
                pass
            except OSError:
                self._fail()
            self._hand_out()

    def close(self) -> None:
        """Close the connection, by which the process ends."""
        with self._lock:
            self._fail()

    def _hand_out(self) -> None:
        """Give complete replies to their answers. The lock is held."""
        size = fork_server.REPLY.size
        while len(self._rest) >= size:
            number, state = fork_server.REPLY.unpack_from(self._rest)
            whole = size + (self._mask_bytes if state == fork_server.MASK else 0)
            if len(self._rest) < whole:  # the rest of the mask comes with the next read
                return
            if number in self._answers:
                self._answers[number].reply(state, self._rest[size:whole])
            self._rest = self._rest[whole:]

    def _fail(self) -> None:
        """Close the connection; all answers fail. The lock is held."""
        self.alive = False
        self._line.close()
        for grammar in self._answers.values():
            grammar.reply(fork_server.FAILED, b"")


def wait(grammars: Iterable[Grammar], seconds: float) -> None:
    """Read the replies to these answers until none is waiting or `seconds` are over."""
    end_s = monotonic() + seconds
    waiting = list(grammars)
    while waiting := [g for g in waiting if g.state == "waiting"]:
        poll = select.poll()
        by_number = {g.process.fileno(): g.process for g in waiting}
        for number in by_number.keys() - {-1}:  # -1: closed meanwhile by another thread
            poll.register(number, select.POLLIN)
        there = poll.poll(max(0.0, end_s - monotonic()) * 1000)
        for number, _ in there:
            by_number[number].read()
        if not there:
            return
