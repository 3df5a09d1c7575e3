"""A real server on a loopback port in a thread, over the fake backend, and what its tests share."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue

import httpx

from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.engines.fake.backend import FakeBackend
from demur.engines.fake.engine import FakeEngine
from demur.server.app import Service
from demur.server.process import ServerProcess
from demur.server.registry import Access
from demur.server.settings import ServerSettings
from demur.store.policies.folder import read_folder
from demur.store.policies.policy_file import write_policy
from demur.store.policies.tenants_file import read_tenants

ANSWERED = "Please name a river in Europe."
# the fake engine's cue: the category's name as a word
REFUSED = "This is about safety and nothing else."
TEMPLATE = "This is about humanizing and nothing else."
ASKED_IN_THE_DOCS = "How do you feel today?"
LABELS = {
    ANSWERED: None,
    REFUSED: "safety",
    TEMPLATE: "humanizing",
    ASKED_IN_THE_DOCS: "humanizing",
}
CANNED = "I am a program and have no feelings."
KEY, OPERATOR_KEY, OTHER_KEY = "demur_alice", "demur_operator", "demur_other"


def engine() -> FakeEngine:
    return FakeEngine(taxonomy=coconot(), labels=LABELS, sharpness=4.0)


def policy(name: str = "default", threshold: float = 0.5, **safety) -> Policy:
    """Humanizing has a text of the operator's, in two languages; safety may be given limits and the
    like.
    """
    categories = {n: CategoryPolicy(threshold=threshold) for n in coconot().names}
    categories["humanizing"] = CategoryPolicy(
        threshold=threshold, on_refuse=CANNED, translations=(("de", "Ich bin ein Programm."),)
    )
    categories["safety"] = replace(categories["safety"], **safety)
    return Policy(
        name=name,
        taxonomy=coconot(),
        rule="heaviest",
        categories=tuple(categories.values()),
        fingerprint=engine().fingerprint,
    )


def folder_of(root: Path, *policies: Policy) -> Path:
    for p in policies:
        write_policy(root / f"{p.name}.json", p)
    return root


def tenants_file(path: Path, **settings: str) -> Path:
    """Alice may override; the operator sees scores; the other has but one policy. settings: TOML
    lines by tenant.
    """
    rows = {
        "alice": (KEY, '["default", "strict"]', "may_override = true"),
        "operator": (OPERATOR_KEY, '["default"]', "sees_scores = true"),
        "other": (OTHER_KEY, '["strict"]', ""),
    }
    text = ""
    for name, (key, names, more) in rows.items():
        text += f"[tenants.{name}]\npolicies = {names}\n{more}\n{settings.get(name, '')}\n"
        text += (
            f'[[tenants.{name}.keys]]\nlabel = "test"\nsha256 = '
            f'"{hashlib.sha256(key.encode()).hexdigest()}"\n'
        )
        text += f"{settings.get(name + '_key', '')}\n"
    path.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Running:
    """A server that can be asked, and the parts inside it."""

    url: str
    service: Service
    backend: FakeBackend
    process: ServerProcess

    def client(self, key: str | None = None, **options) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=60.0, trust_env=False, **options
        )

    def chat(
        self, text: str = ANSWERED, key: str | None = None, headers=None, **fields
    ) -> httpx.Response:
        with self.client(key) as client:
            return client.post(
                "/v1/chat/completions", json=request(text, **fields), headers=headers
            )

    def metric(self, line: str) -> float | None:
        """A sample of /metrics by its name and labels."""
        for row in self.service.state.metrics.render().decode().splitlines():
            if row.startswith(f"{line} "):
                return float(row.rpartition(" ")[2])
        return None


def request(text: str = ANSWERED, **fields):
    return {"model": "demur", "messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def serving(
    folder: Path,
    tenants: Path | None = None,
    watched_runs=(),
    backend=None,
    live=None,
    *,
    taught=True,
    **settings,
):
    """A running server over a folder of policies. taught: whether its model turns back."""
    backend = backend or FakeBackend(engine=engine())
    told = ServerSettings(port=0, **{"reload_s": 0.05, **settings})
    access = Access(
        policies=read_folder(folder, backend.fingerprint, told.trust, taught=taught),
        tenants=read_tenants(tenants) if tenants else None,
        tenants_file=tenants,
    )
    service = Service(told, backend, access, watched_runs, live)
    with in_thread(service) as (url, process):
        yield Running(url=url, service=service, backend=backend, process=process)


@contextmanager
def in_thread(service: Service):
    """A service on a free loopback port; ended in an orderly way."""
    told: Queue[str] = Queue()
    process = ServerProcess(service, told.put)
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=lambda: asyncio.run(process.serve(sockets=[door])))
        thread.start()
        try:
            yield told.get(timeout=60), process
        finally:
            process.start_shutdown()
            thread.join(timeout=60)
            assert not thread.is_alive()
