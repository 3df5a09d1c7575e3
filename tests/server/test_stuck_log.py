"""A log that nobody reads, that is closed or full: answers and the end of the process never wait
for it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from demur.server.monitoring import log
from demur.server.monitoring.log import JsonLines, LogWriter
from tests.server.live_server import ANSWERED, folder_of, policy, request
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PIPE_BYTES = 4096  # the smallest pipe there is, so that a few dozen lines fill it
REQUESTS = 300


@contextmanager
def server(folder: Path, stderr: int):
    """(the process, its address) of a server whose log goes to a descriptor."""
    command = [
        sys.executable,
        "-m",
        "tests.server.process",
        str(folder),
        "0",
        '{"open_metrics": true}',
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
    ) as running:
        try:
            yield running, running.stdout.readline().strip()
        finally:
            if running.poll() is None:
                running.kill()


def dropped(client) -> float:
    return float(
        re.search(
            r"^demur_log_lines_dropped_total (\S+)$", client.get("/metrics").text, re.MULTILINE
        )[1]
    )


def answers_and_ends(running, url) -> float:
    """Ask many things, end the server by a signal; the number of log lines that it says it lost."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        for _ in range(REQUESTS):
            assert client.post("/v1/chat/completions", json=request(ANSWERED)).status_code == 200
        lost = dropped(client)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 0
    return lost


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "policies", policy())


def test_with_a_reader_that_stopped_reading_every_request_is_answered_and_sigterm_ends_it(folder):
    end, start = os.pipe()
    fcntl.fcntl(start, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with server(folder, start) as (running, url):
        answers_and_ends(running, url)
    os.close(end)
    os.close(start)


def test_a_pipe_whose_reader_has_gone_costs_lines_only(folder):
    end, start = os.pipe()
    with server(folder, start) as (running, url):
        os.close(start)
        os.close(end)
        assert answers_and_ends(running, url) > REQUESTS - 20  # the writer may be a few behind


def test_a_full_disk_costs_lines_only(folder):
    with open("/dev/full", "wb") as full, server(folder, full.fileno()) as (running, url):
        assert answers_and_ends(running, url) > REQUESTS - 20  # the writer may be a few behind


def logger_to(descriptor: int, counted: list[int]) -> tuple[logging.Logger, LogWriter]:
    writer = LogWriter(descriptor, counted.append)
    writer.setFormatter(JsonLines())
    logger = logging.Logger("demur.test")
    logger.addHandler(writer)
    return logger, writer


def test_lines_beyond_the_queue_are_dropped_counted_and_told_once_there_is_a_reader(monkeypatch):
    monkeypatch.setattr(log, "MOST_LINES", 10)
    end, start = os.pipe()
    fcntl.fcntl(start, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    counted: list[int] = []
    logger, writer = logger_to(start, counted)
    for n in range(500):
        logger.warning("line %d", n)
    wait_until(lambda: len(counted) > 300)
    reader = os.fdopen(end, encoding="utf-8")
    accounted = 0
    while accounted < 500:
        line = json.loads(reader.readline())
        accounted += (
            line["lines"] if line["event"] == "log lines dropped" else line["event"] != "go on"
        )
        logger.warning("go on")  # what was lost is told with the next line
    assert accounted <= 500 + len(counted)
    assert len(counted) > 300
    writer.close()
    os.close(start)
    reader.close()


def test_every_line_is_written_before_the_end_and_a_bad_record_is_counted(tmp_path):
    path = tmp_path / "log"
    counted: list[int] = []
    with path.open("wb") as file:
        logger, writer = logger_to(file.fileno(), counted)
        for n in range(1000):
            logger.warning("line %d", n)
        logger.warning("%d", "no number")
        writer.close()
    lines = [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [e for e in lines if e != "log lines dropped"] == [f"line {n}" for n in range(1000)]
    assert counted == [1]


def test_a_descriptor_that_does_not_block_is_waited_for():
    end, start = os.pipe()
    fcntl.fcntl(start, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(start, False)
    logger, writer = logger_to(start, [])
    for n in range(200):
        logger.warning("line %d", n)
    with os.fdopen(end, encoding="utf-8") as reader:
        assert [json.loads(reader.readline())["event"] for _ in range(200)] == [
            f"line {n}" for n in range(200)
        ]
    writer.close()
    os.close(start)
