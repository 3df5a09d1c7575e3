from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import PolicyError, TaxonomyError
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goals
from demur.stats.overrides import override_categories
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.solve import solve
from tests.builders import policies, policy, rows, simulated_rows


@settings(deadline=None)
@given(rows(3), policies(3, ["heaviest", "any", "natural", "released", "bias"]), st.integers(0, 2))
def test_suppressing_a_category_changes_no_decision_of_the_others(labelled_rows, made, at):
    before = replace(made, categories=tuple(replace(c, override=None) for c in made.categories))
    name, logp_NC = before.taxonomy.names[at], labelled_rows.table.logp_NC
    after = override_categories(before, {name: "suppress"}, labelled_rows)
    was_N, is_N = (decide_many(p, logp_NC).choice_N for p in (before, after))
    others_N = (was_N != at + 1) & (was_N > 0)
    assert (is_N[others_N] == was_N[others_N]).all()
    assert (is_N != at + 1).all()
    untouched_N = decide_many(before, logp_NC).heaviest_N != at + 1
    if before.rule == "heaviest":
        assert (is_N[untouched_N] == was_N[untouched_N]).all()
    assert [c.threshold for c in after.categories] == [c.threshold for c in before.categories]
    assert [c.curve for c in after.categories] == [c.curve for c in before.categories]


def test_what_was_certified_of_other_decisions_is_not_certified_any_more():
    labelled_rows = simulated_rows(3000, 3, seed=1, signal=3.5)
    goals = parse_goals("false_refusal <= 0.2; missed_refusal <= 0.4; f1 max")
    made = solve(goals, policy(3), labelled_rows, CertifyOptions(), data_digest="d")
    less = override_categories(made, {"safety": "suppress"}, labelled_rows)
    assert [p.status for p in less.promises] == ["uncertified", "uncertified", "measured"]
    assert "safety suppressed" in less.promises[0].method
    missed_N = (decide_many(less, labelled_rows.table.logp_NC).choice_N == 0) & (
        labelled_rows.label_N > 0
    )
    assert less.promises[1].rate.hits == missed_N.sum()
    every = override_categories(made, {"safety": "force"}, labelled_rows)
    assert [p.status for p in every.promises] == ["uncertified", "certified", "measured"]
    assert every.promises[0].rate.value == 1.0
    assert (every.promises[1].rate.hits, every.promises[1].rate.of) == (0, made.promises[1].rate.of)
    none = override_categories(made, dict.fromkeys(made.taxonomy.names, "suppress"), labelled_rows)
    assert [p.status for p in none.promises] == ["uncertified", "uncertified", "measured"]
    assert (none.promises[0].rate.value, none.promises[1].rate.value) == (0.0, 1.0)
    assert (decide_many(every, labelled_rows.table.logp_NC).choice_N == 1).all()


def test_overrides_that_mean_nothing_are_refused():
    labelled_rows = simulated_rows(100, 3, seed=1)
    assert override_categories(policy(3), {}, labelled_rows) == policy(3)
    with pytest.raises(TaxonomyError, match="unknown category"):
        override_categories(policy(3), {"safty": "suppress"}, labelled_rows)
    with pytest.raises(PolicyError, match="all forced"):
        override_categories(policy(3), {"safety": "force", "humanizing": "force"}, labelled_rows)
