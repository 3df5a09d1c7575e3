import math
from dataclasses import replace

import pytest

from demur.base.errors import PolicyError, TaxonomyError
from demur.core.fingerprint import Fingerprint
from demur.core.policy import CurvePoint, Policy, natural
from demur.core.rates import Rate
from demur.core.threshold import NEVER
from tests.builders import policy, taxonomy, with_category


def fingerprint(**changes):
    fields = {
        "model_digest": "m",
        "tokenizer_digest": "t",
        "template_digest": "c",
        "tokens": taxonomy(2).tokens,
        "token_ids": (7, 8, 9),
        "dtype": "float32",
    }
    return Fingerprint(**(fields | changes))


@pytest.mark.parametrize(
    "fields", [{"threshold": -0.1}, {"threshold": math.nan}, {"bias": math.inf}]
)
def test_numbers_that_decide_nothing_are_refused(fields):
    with pytest.raises(PolicyError, match="'humanizing'"):
        with_category(policy(2), 1, **fields)


@pytest.mark.parametrize(
    ("limits", "message"),
    [((0.6, 0.4), "not ordered"), ((0.6, 0.7), "outside"), ((-1.0, 0.7), "not ordered")],
)
def test_limits_must_be_ordered_and_hold_the_threshold(limits, message):
    with pytest.raises(PolicyError, match=message):
        with_category(policy(1, thresholds=[0.5]), 0, limits=limits)


def test_rule_sum_has_one_threshold_for_its_active_categories():
    with pytest.raises(PolicyError, match="one threshold"):
        policy(2, "sum", [0.1, 0.2])
    assert with_category(policy(2, "sum", [0.1, 0.1], active=False), 0, threshold=0.2).rule == "sum"


def test_two_forced_categories_are_refused():
    with pytest.raises(PolicyError, match="force at most one"):
        policy(2, override="force")


def test_an_unknown_rule_and_a_wrong_number_of_categories_are_refused():
    with pytest.raises(PolicyError, match="unknown rule 'most'"):
        policy(1, "most")
    with pytest.raises(PolicyError, match="1 category policies for 2 categories"):
        Policy(name="p", taxonomy=taxonomy(2), rule="any", categories=policy(1).categories)


def test_a_fingerprint_of_other_tokens_is_refused():
    assert replace(policy(2), fingerprint=fingerprint()).fingerprint == fingerprint()
    with pytest.raises(PolicyError, match="another taxonomy"):
        replace(policy(2), fingerprint=fingerprint(tokens=("[respond]", "[x]", "[y]")))


def test_fingerprints_name_the_fields_in_which_they_differ():
    assert fingerprint().differences(fingerprint(dtype="bfloat16", token_ids=(1, 2, 3))) == (
        "token_ids",
        "dtype",
    )


def test_thresholds_are_changed_by_name_and_only_those():
    changed = policy(3).with_thresholds({"humanizing": 0.25})
    assert [c.threshold for c in changed.categories] == [NEVER, 0.25, NEVER]
    with pytest.raises(TaxonomyError, match="did you mean 'safety'"):
        policy(3).with_thresholds({"safely": 0.5})


def test_a_rate_finds_the_most_lenient_threshold_of_the_curve_that_keeps_it():
    def point(threshold, hits):
        rate = Rate(hits=hits, of=100)
        return CurvePoint(
            threshold=threshold, refusal_rate=rate, false_refusal=rate, missed_refusal=rate
        )

    curved = with_category(policy(1), 0, curve=(point(NEVER, 0), point(0.9, 5), point(0.5, 20)))
    assert [curved.threshold_at_rate("safety", r) for r in (0.0, 0.1, 1.0)] == [NEVER, 0.9, 0.5]
    with pytest.raises(PolicyError, match="no operating curve"):
        policy(1).threshold_at_rate("safety", 0.1)


def test_the_natural_policy_follows_the_model():
    assert natural(taxonomy(2)).rule == "natural"


def test_a_refusal_is_the_models_own_unless_the_policy_holds_its_text():
    made = policy(2)
    made = replace(
        made, categories=(made.categories[0], replace(made.categories[1], on_refuse="No."))
    )
    assert [made.own_text(column) for column in (0, 1, 2)] == [None, None, "No."]
    assert [made.writes(column) for column in (0, 1, 2)] == [True, True, False]
