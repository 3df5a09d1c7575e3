"""A server over a small model in a process of its own: -m tests.load.server CHECKPOINT POLICIES
RELOAD_S [TENANTS].
"""

import sys
from pathlib import Path

from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess.backend import HfBackend
from demur.server.app import Service
from demur.server.process import run_server
from demur.server.registry import Access
from demur.server.settings import ServerSettings
from demur.store.policies.folder import read_folder
from demur.store.policies.tenants_file import read_tenants

if __name__ == "__main__":
    checkpoint, folder, reload_s, *tenants = sys.argv[1:]
    backend = HfBackend(HfEngine(model=checkpoint, tokens=coconot().tokens))
    settings = ServerSettings(port=0, reload_s=float(reload_s))
    file = Path(tenants[0]) if tenants else None
    access = Access(
        policies=read_folder(Path(folder), backend.fingerprint),
        tenants=read_tenants(file) if file else None,
        tenants_file=file,
    )
    service = Service(settings, backend, access)
    run_server(service, lambda address: print(address, flush=True))  # noqa: T201 - its parent reads
