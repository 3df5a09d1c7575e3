import asyncio
from dataclasses import dataclass, replace

import numpy as np
import pytest

from demur.assembly.backends import default_backend, make_backend
from demur.assembly.run import Workspace, reopen
from demur.base.errors import BackendDown, ConfigError
from demur.core.score import ScoreTable
from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores, write_scores
from tests.engines.upstream import Upstream


@pytest.fixture(scope="module")
def run(tiny):
    return tiny


@pytest.fixture(scope="module")
def upstream(run):
    with Upstream(run[0]) as server:
        yield server


def gateway(folder, upstream, **options):
    return make_backend(
        "gateway", reopen(folder.root), upstream.url, {"model": "tiny", **options}, "test"
    )


def look(backend):
    """Ask a backend whether it is ready, then close it."""

    async def ready():
        try:
            await backend.ready()
        finally:
            await backend.close()

    asyncio.run(ready())


@pytest.fixture
def scored_otherwise(run):
    """The run with scores that its model never gave, until the end of the test."""
    folder = run[1]
    kept = folder.scores("test").read_bytes()
    table, model = read_scores(folder.scores("test"))
    write_scores(
        folder.scores("test"),
        ScoreTable(ids=table.ids, logp_NC=np.roll(table.logp_NC, 1, axis=1)),
        model,
    )
    yield folder
    folder.scores("test").write_bytes(kept)


def test_a_gateway_is_ready_once_the_server_reproduces_scores_of_the_run(run, upstream):
    backend = gateway(run[1], upstream)
    known = {e.prompt for e in read_examples(run[1].split("test"))}
    assert len({prompt for prompt, _ in backend.reference}) == 4
    assert {prompt for prompt, _ in backend.reference} <= known
    look(backend)


def test_other_scores_than_the_runs_keep_a_gateway_from_being_ready(scored_otherwise, upstream):
    with pytest.raises(BackendDown, match="not the one of the policies"):
        look(gateway(scored_otherwise, upstream))
    look(gateway(scored_otherwise, upstream, references=0))


def test_scores_of_another_model_are_no_reference(run, upstream):
    folder = run[1]
    kept, (table, model) = folder.scores("test").read_bytes(), read_scores(folder.scores("test"))
    write_scores(folder.scores("test"), table, replace(model, model_digest="sha256:0"))
    try:
        assert gateway(folder, upstream).reference == ()
    finally:
        folder.scores("test").write_bytes(kept)


@pytest.mark.parametrize(
    ("kind", "references", "message"),
    [("gateway", -1, "below 0"), ("gateway", "all", "references"), ("openai", 4, "")],
)
def test_a_number_of_references_that_is_none_is_named(run, upstream, kind, references, message):
    with pytest.raises(ConfigError, match=message or "references"):
        make_backend(kind, reopen(run[1].root), upstream.url, {"references": references}, "test")


def test_a_run_scored_by_another_engine_is_served_by_transformers(run):
    workspace = reopen(run[1].root)
    by_vllm = Workspace(workspace.folder, replace(workspace.config, engine="vllm"))
    assert default_backend(by_vllm) == "hf"
    backend = make_backend("hf", by_vllm, None, {}, "test")
    try:
        assert backend.fingerprint == run[0].fingerprint
    finally:
        asyncio.run(backend.close())


@dataclass(frozen=True, kw_only=True)
class OwnOptions:
    """[backend] of somebody else's backend."""

    speed: int = 1


class OwnBackend:
    """Somebody else's backend: it keeps what it was made from."""

    Options = OwnOptions

    def __init__(self, run, options):
        self.run, self.options = run, options
        self.fingerprint = run.declared

    @classmethod
    def from_run(cls, run, options):
        return cls(run, options)


def test_somebody_elses_backend_is_made_as_ours_are(run):
    folder = run[1]
    name = f"{__name__}:OwnBackend"
    made = make_backend(name, reopen(folder.root), None, {"speed": 3}, "test")
    assert (made.options.speed, made.run.name, made.run.model) == (3, "tiny", folder.model)
    assert made.run.references(2)
    with pytest.raises(ConfigError, match="speeed"):
        make_backend(name, reopen(folder.root), None, {"speeed": 3}, "test")
    with pytest.raises(ConfigError, match="has no --url"):
        make_backend(name, reopen(folder.root), "http://127.0.0.1:1/v1", {}, "test")
    with pytest.raises(ConfigError, match="has no from_run"):
        make_backend("collections:Counter", reopen(folder.root), None, {}, "test")
