"""Attempts on files, pages and keys: none may succeed. docs/security.md has the counts."""

from collections import defaultdict

import pytest

from tests.security import fronts
from tests.security.trials import CHROMIUM, MARKUP, opened, trials

BY_KIND = defaultdict(list)
for trial in trials():
    BY_KIND[trial.kind].append(trial)


@pytest.mark.parametrize("kind", BY_KIND)
def test_no_attempt_succeeds(kind, tmp_path):
    if kind == "markup in a browser" and CHROMIUM is None:
        pytest.skip("no Chromium here")
    achieved = {}
    for n, trial in enumerate(BY_KIND[kind]):
        folder = tmp_path / str(n)
        folder.mkdir()
        if what := trial.run(folder):
            achieved[trial.name] = what
    assert achieved == {}


def test_no_attempt_is_made_twice():
    assert all(len({t.name for t in made}) == len(made) for made in BY_KIND.values())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_page_that_does_not_escape_is_hit():
    assert (
        'data-hit="1"'
        in opened("<html><body>" + MARKUP[0] + "</body></html>").partition("<body")[0]
    )


def test_the_requests_are_refused_and_a_front_without_stretches_would_answer_some():
    """Else no dress could succeed: nothing would be there to hide, or nothing to hide it from."""
    made = fronts.learnt()
    assert not any(fronts.answers(made, fronts.user(core)) for core in fronts.CORES)
    assert fronts.answers(made, fronts.user("moner ralat tidom luvis."))
    padded = [made.read(f"{fronts.PLAINER} " * 4 + core) for core in fronts.CORES]
    assert any(reading.odds <= made.edges.answer < reading.risk for reading in padded)
