"""A crowd of streaming clients and a policy that keeps changing, on the in-process backend."""

import asyncio
import os

import pytest
from bench.load import LATE_S, Report, crowd

from demur.core.taxonomy import coconot
from demur.engines.hf import HfEngine
from demur.engines.hf_serve import HfBackend
from tests.engines.checkpoints import make_checkpoint
from tests.security.site import policies_for
from tests.server.house import folder_of, serving


@pytest.mark.slow
def test_64_clients_for_a_minute_and_500_reloads(tmp_path):
    engine = HfEngine(model=make_checkpoint(tmp_path / "model", "llama"), tokens=coconot().tokens)
    folder = folder_of(tmp_path / "policies", policies_for(engine)["guarded"])
    with serving(folder, backend=HfBackend(engine), reload_s=0.05) as server:
        report = asyncio.run(crowd(server.url, "demur", os.getpid(), folder / "guarded.json", (64, 60.0, 500)))
    assert report.failures() == []
    assert len(report.put) == 501
    assert report.reloads >= 100
    assert len(report.answers) >= 64
    assert len({digest for _, _, digest in report.answers}) >= 5


def report(*answers, growth=0):
    memory = [(float(at), 1000 + growth * at) for at in range(31)]
    return Report(put=[(0.0, "a"), (10.0, "b"), (20.0, "c")], answers=list(answers), memory=memory)


def test_an_answer_under_a_policy_not_in_force_is_found():
    fine = [(1.0, 2.0, "a"), (9.0, 10.5, "b"), (10.0 + LATE_S / 2, 12.0, "a"), (25.0, 26.0, "c")]
    assert report(*fine).failures() == []
    for answer in ((1.0, 2.0, "b"), (10.0 + LATE_S + 1, 15.0, "a"), (5.0, 6.0, "unknown"), (9.0, 19.0, "c")):
        assert len(report(*fine, answer).stale()) == 1


def test_memory_that_grows_and_requests_that_fail_are_found():
    assert report(growth=5).failures()
    assert not report(growth=1).failures()
    assert Report(errors=["x"], memory=[(0.0, 1), (1.0, 1), (2.0, 1)]).failures()
