"""Client of the fork server (fork_server.py): starts its process, has it fork, ends children."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from copy import copy
from itertools import count
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from demur.base.errors import BackendDown
from demur.engines.inprocess.grammar import fork_server

# Longest time for the server to read the tokenizer: a quarter of a million tokens take seconds.
START_S = 60.0
_END_S = 2.0  # longest time for the server to end by itself


class ForkServer:
    """A fork server's process, started on construction. Safe to use from any thread.

    settings: the JSON that fork_server reads on its standard input. Raises BackendDown if the
    process does not start.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(fork_server.__file__)), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a panic of the library would print parts of a schema
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # it ends with its socket, not by the terminal's interrupt
            )
        self._control = ours
        self._lock = threading.Lock()
        self._numbers = count()
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stdin:
                stdin.write(json.dumps(settings).encode())
            ours.settimeout(START_S)
            ready = ours.recv(1)
        except OSError:
            ready = b""
        if ready != fork_server.COMPILED:
            self.close()
            raise BackendDown(
                "the process that prepares JSON schemas does not start", "is llguidance whole?"
            )
        ours.settimeout(None)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def start(self) -> tuple[socket.socket, int]:
        """Fork a child; returns this end of its socket, and its number. Raises BackendDown."""
        ours, theirs = socket.socketpair()
        with self._lock, theirs:  # the server's copy of `theirs` is the child's
            number = next(self._numbers)
            try:
                socket.send_fds(
                    self._control,
                    [fork_server.CONTROL.pack(fork_server.START, number)],
                    [theirs.fileno()],
                )
            except OSError:
                ours.close()
                raise BackendDown(
                    "the process that prepares JSON schemas has ended", "ask again"
                ) from None
        return ours, number

    def kill(self, number: int) -> None:
        """End a child at once."""
        with self._lock:
            try:
                self._control.sendall(fork_server.CONTROL.pack(fork_server.KILL, number))
            except OSError:
                return  # the server has ended, and its children with it

    def close(self) -> None:
        """End the process and its children, which it does by itself when its socket is closed."""
        self._control.close()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def tokenizer_text(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer's JSON as llguidance reads it, without padding and truncation."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return str(backend.to_str())
