"""The report's sliders decide as decide_many does, in numbers and in a real browser."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.browsing import opened
from tests.fake_run import finished

from demur.core.decision import decide_many
from demur.core.threshold import NEVER
from demur.stages import report
from demur.stages.report.explorer import explorer
from demur.stages.report.finished_run import read_finished_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, _ = finished(tmp_path_factory.mktemp("explorer") / "run", every=4)
    return read_finished_run(folder), report.run(report.Config(examples=3), folder)


def chosen(page, position):
    """The columns that the page shows with its sliders at these positions, by column."""
    return [
        row.column if row.rank and position[row.column] >= row.rank else row.below
        for row in page.rows
    ]


def with_policy(m, policy):
    return replace(m, policies=(m.policies[0], policy, *m.policies[2:]))


def test_at_the_start_the_page_decides_as_the_policy_does(made):
    m, _ = made
    page = explorer(m, "run")
    position = {s.column: s.start for s in page.sliders}
    decided = decide_many(m.calibrated, m.rows.table.logp_NC).choice_N
    assert chosen(page, position) == decided.tolist()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_position_decides_as_its_thresholds_do(made, data):
    m, _ = made
    locked_K = data.draw(st.lists(st.booleans(), min_size=5, max_size=5))
    categories = tuple(
        replace(c, locked=locked, threshold=0.3 if locked else c.threshold)
        for c, locked in zip(m.calibrated.categories, locked_K, strict=True)
    )
    policy = replace(m.calibrated, categories=categories)
    page = explorer(with_policy(m, policy), "run")
    assert len(page.sliders) == locked_K.count(False)
    position, thresholds = {}, {}
    for s in page.sliders:
        at = data.draw(st.integers(0, len(s.thresholds)))
        position[s.column] = at
        thresholds[page.choices[s.column]] = s.thresholds[at - 1] if at else NEVER
    decided = decide_many(policy.with_thresholds(thresholds), m.rows.table.logp_NC).choice_N
    assert chosen(page, position) == decided.tolist()


def test_rules_that_compare_several_thresholds_have_no_slider(made):
    m, _ = made
    page = explorer(with_policy(m, m.policies[0]), "run")
    assert page.sliders == ()
    assert {row.rank for row in page.rows} == {0}


def test_a_moved_slider_shows_the_rates_that_its_threshold_has(made, browser):
    m, path = made
    page, logged, _ = opened(browser, path)
    slider = page.locator(".slider").first
    slider.locator("input").evaluate("(r) => { r.value = 0; r.dispatchEvent(new Event('input')); }")
    name = m.evaluation.choices[1]
    choice_N = decide_many(
        m.calibrated.with_thresholds({name: NEVER}), m.rows.table.logp_NC
    ).choice_N
    before_N = decide_many(m.calibrated, m.rows.table.logp_NC).choice_N
    caught = int(((choice_N > 0) & m.should_N).sum())
    rates = page.locator(".rates dd").all_inner_texts()
    assert rates[1].endswith(f"({caught} of {int(m.should_N.sum())})")
    assert rates[2] == f"{int(np.sum(choice_N != before_N))} of {len(choice_N)}"
    assert slider.locator("output").inner_text() == "never"
    assert f"--threshold {name}=never" in page.locator(".explorer pre").inner_text()
    assert logged == []


def test_search_finds_prompts_and_says_how_many(made, browser):
    m, path = made
    page, _, _ = opened(browser, path)
    words = m.examples[0].text[:40]
    page.locator("input[type=search]").fill(words)
    hits = sum(words.lower() in e.text[:600].lower() for e in m.examples)
    assert page.locator(".found > p").inner_text().startswith(f"{hits} prompts")
    page.locator("input[type=search]").fill("no prompt says this, surely")
    assert page.locator(".found > p").inner_text().startswith("0 prompts")
