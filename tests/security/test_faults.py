"""Servers behind that misbehave, through gate and gateways: nothing of it reaches callers, log or
other requests.
"""

import pytest

from tests.security.faulty import FRONTS, Faulty, front


@pytest.fixture(scope="module", params=FRONTS)
def faulty(request, tmp_path_factory):
    with front(request.param, tmp_path_factory.mktemp("faults")) as made:
        yield made


def test_no_fault_succeeds(faulty: Faulty):
    # tests.security.table makes all of them
    half = faulty.names[FRONTS.index(faulty.name) % 2 :: 2]
    achieved = {name: what for name in half if (what := faulty.verdict(name))}
    assert achieved == {}


def test_a_server_behind_that_behaves_is_served(faulty: Faulty):
    assert faulty.plain() is None
