"""A server in a process of its own, for signals: python -m tests.server.process FOLDER DELAY_S
SETTINGS_JSON [RUN].

With a run, the server watches it, and is its engine of tests.server.monitoring.test_drift.
"""

import json
import logging
import sys
from pathlib import Path

from demur.engines.fake.backend import FakeBackend
from demur.server.app import Service
from demur.server.monitoring.log import JsonLines, LogWriter
from demur.server.policies import Access
from demur.server.run import run
from demur.server.settings import Settings
from demur.store.policies.folder import read_folder
from demur.store.run import RunFolder
from tests.fake_run import engine_for, examples
from tests.server.house import engine

if __name__ == "__main__":
    folder, delay_s, settings, *runs = sys.argv[1:]
    backend = FakeBackend(
        engine=engine_for(examples(every=4)) if runs else engine(), delay_s=float(delay_s)
    )
    service = Service(
        Settings(**{"port": 0, **json.loads(settings)}),
        backend,
        Access(policies=read_folder(Path(folder))),
        [RunFolder(Path(run_folder)) for run_folder in runs],
    )
    handler = LogWriter(2, service.house.metrics.log_dropped)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    run(service, lambda address: print(address, flush=True))  # noqa: T201 - its parent reads it
