"""Client of the fork server of demur.engines.inprocess.grammar.fork_server: starts it, has it fork,
ends children.
"""

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

# for the host to read the tokenizer: seconds where there are a quarter of a million tokens
START_S = 60.0
_END_S = 2.0  # for the host to end by itself


class ForkServer:
    """The host process. settings: what fork_server reads on its standard input. Raises BackendDown
    if it fails.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(fork_server.__file__)), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a panic in there would say what is in a schema
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
        """Whether it can still be told something."""
        return self._process.poll() is None

    def start(self) -> tuple[socket.socket, int]:
        """A new child: our end of its socket, and its number. Raises BackendDown."""
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
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
        """End a child now."""
        with self._lock:
            try:
                self._control.sendall(fork_server.CONTROL.pack(fork_server.KILL, number))
            except OSError:
                return  # the host has ended, and its children with it

    def close(self) -> None:
        """End it and all its children: it does so by itself when its socket is closed."""
        self._control.close()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def tokenizer_text(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer as llguidance reads it, without padding and truncation."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return str(backend.to_str())
