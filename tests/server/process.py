"""A server in a process of its own, for signals: python -m tests.server.process FOLDER DELAY_S
SETTINGS_JSON [RUN].

With a run, the server watches it, and is its engine of tests.server.monitoring.test_promises.
"""

import json
import logging
import sys
from pathlib import Path

from demur.engines.fake.backend import FakeBackend
from demur.server.app import Service
from demur.server.monitoring.log import JsonLines, LogWriter
from demur.server.process import run_server
from demur.server.registry import Access
from demur.server.settings import ServerSettings
from demur.store.policies.folder import read_folder
from demur.store.run import RunFolder
from tests.fake_run import engine_for, examples
from tests.server.live_server import engine

if __name__ == "__main__":
    folder, delay_s, settings, *runs = sys.argv[1:]
    backend = FakeBackend(
        engine=engine_for(examples(every=4)) if runs else engine(), delay_s=float(delay_s)
    )
    service = Service(
        ServerSettings(**{"port": 0, **json.loads(settings)}),
        backend,
        Access(policies=read_folder(Path(folder))),
        [RunFolder(Path(run_folder)) for run_folder in runs],
    )
    handler = LogWriter(2, service.state.metrics.count_dropped_log_lines)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    run_server(service, lambda address: print(address, flush=True))  # noqa: T201 - its parent reads
