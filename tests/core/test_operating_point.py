from dataclasses import replace

from hypothesis import given, settings

from demur.core.decision import decide_many
from demur.core.operating_point import never_refused, never_refused_warnings, operating_point
from demur.core.threshold import NEVER
from demur.stats.thresholds.curve import with_curves
from tests.builders import policies, policy, rows, simulated_rows


@settings(deadline=None)
@given(rows(3), policies(3, ["heaviest"]))
def test_what_a_category_does_now_can_be_read_off_its_curve(labelled_rows, made):
    free = replace(made, categories=tuple(replace(c, override=None) for c in made.categories))
    shown = with_curves(free, labelled_rows)
    choice_N = decide_many(shown, labelled_rows.table.logp_NC).choice_N
    for column, (name, category) in enumerate(
        zip(shown.taxonomy.names, shown.categories, strict=True), start=1
    ):
        if category.may_emit and category.curve:
            assert operating_point(category).refusal_rate.hits == (choice_N == column).sum()
            assert (name in never_refused(shown)) == (not (choice_N == column).any())


def test_a_category_that_is_never_refused_is_named_with_what_it_misses():
    labelled_rows = simulated_rows(2000, 3, seed=1)
    made = with_curves(policy(3, thresholds=[0.4, 0.999999, NEVER]), labelled_rows)
    own = int((labelled_rows.label_N == 2).sum())
    first = (
        f"never refuses humanizing: 0 of 2000 calibrate rows; {own} of {own} to be refused "
        "with it are missed"
    )
    assert never_refused_warnings(made)[0] == first
    assert never_refused(made) == ("humanizing", "incomplete")
    # without curves the threshold tells
    assert never_refused(policy(2, thresholds=[0.5, NEVER])) == ("humanizing",)
    assert never_refused(policy(2, thresholds=[0.5, NEVER], active=False)) == ()
