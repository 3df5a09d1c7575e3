"""A deferral lies between answer and refusal, and takes the place of no refusal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import AccessError, PolicyError, ScoreDoubt
from demur.core.access import PolicyChoice, apply_overrides
from demur.core.conversation.languages import operators_text
from demur.core.decision import decide, decide_many
from demur.core.policy import DoubtRule, Sensitivity
from demur.core.threshold import NEVER
from demur.engines.gate import forced_ids, settled_ids
from demur.engines.remote.partial_scores import decide_partial
from demur.store.policies.policy_file import policy_from_json, policy_to_json
from tests.builders import (
    THRESHOLDS,
    leaking,
    locked,
    log_softmax,
    policy,
    undoubted,
    with_category,
)

ASK = {"on_defer": "ask", "defer_text": "Could you say more?"}


def banded(policy, at, defer_threshold, **fields):
    return with_category(policy, at, defer_threshold=defer_threshold, **{**ASK, **fields})


@st.composite
def deferring(draw, k):
    """Policies of any rule that has a band, of whose categories some defer; and the same ones with
    the deferral thresholds as their thresholds.
    """
    found = draw(locked(k, ("heaviest", "sum", "any")))
    shared = draw(st.sampled_from(THRESHOLDS))
    lower = [
        min(c.threshold, shared if found.rule == "sum" else draw(st.sampled_from(THRESHOLDS)))
        for c in found.categories
    ]
    some = [found.rule == "sum" or draw(st.booleans()) for _ in lower]
    held = replace(
        found,
        categories=tuple(
            replace(c, threshold=t if b else c.threshold)
            for c, t, b in zip(found.categories, lower, some, strict=True)
        ),
    )
    for at in range(k):
        if some[at]:
            found = replace(
                found,
                categories=tuple(
                    replace(c, defer_threshold=lower[n], **ASK) if some[n] else c
                    for n, c in enumerate(found.categories)
                ),
            )
    return found, held


@settings(deadline=None, max_examples=300)
@given(data=st.data(), k=st.integers(1, 4))
def test_a_deferral_is_what_the_lower_thresholds_refuse_and_the_upper_do_not(data, k):
    found, held = data.draw(deferring(k))
    logp_NC = data.draw(leaking(k))
    without = replace(
        found,
        categories=tuple(
            replace(c, defer_threshold=None, on_defer=None, defer_text="") for c in found.categories
        ),
    )
    decided, plain = decide_many(found, logp_NC), decide_many(without, logp_NC)
    # whatever is refused without a band is refused with it: locks, doubt and force among it
    for field in ("choice_N", "heaviest_N", "margin_N", "doubt_N"):
        np.testing.assert_array_equal(getattr(decided, field), getattr(plain, field))
    lower = decide_many(held, logp_NC)
    np.testing.assert_array_equal(decided.held_N, lower.refuses_N)
    np.testing.assert_array_equal(decided.defer_N, np.where(plain.refuses_N, 0, lower.choice_N))
    assert not (decided.defers_N & decided.refuses_N).any()
    # only categories that may defer do
    own = {c for c, category in enumerate(found.categories, start=1) if category.on_defer}
    assert set(decided.defer_N.tolist()) <= own | {0}


def test_one_decision_says_its_outcome_and_the_text_that_is_sent():
    found = banded(policy(2, thresholds=[0.6, 0.9]), 0, 0.2)
    logp_NC = log_softmax(np.log([[0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.88, 0.1, 0.02]]))
    refused, deferred, answered = (decide(found, logp_C) for logp_C in logp_NC)
    assert (refused.outcome, refused.words, refused.category) == ("refuse", "safety", "safety")
    assert (deferred.outcome, deferred.category) == ("defer", "safety")
    assert (deferred.choice, deferred.refuses, deferred.words) == (
        "respond",
        False,
        "defer: safety",
    )
    assert (answered.outcome, answered.words, answered.category) == ("answer", "respond", None)
    assert [operators_text(found, d) for d in (refused, deferred, answered)] == [
        None,
        "Could you say more?",
        None,
    ]
    assert decide_many(found, logp_NC).words(found.taxonomy.choices) == [
        "safety",
        "defer: safety",
        "respond",
    ]


def test_doubt_refuses_where_the_band_would_defer():
    found = replace(banded(policy(1, thresholds=[0.6]), 0, 0.1), doubt=DoubtRule(most_leftover=0.5))
    logp_NC = (log_softmax(np.log([[0.7, 0.3]])) + np.log(0.2)).astype(np.float32)
    decided = decide_many(found, logp_NC)
    assert decided.doubt_N.all()
    assert decided.refuses_N.all()
    assert not decided.defers_N.any()


def test_a_moved_threshold_takes_the_band_along_and_a_lock_stays_a_refusal():
    found = banded(policy(2, thresholds=[0.6, 0.5]), 0, 0.2)
    looser = apply_overrides(found, PolicyChoice(thresholds={"safety": 0.9})).policy
    assert (looser.category("safety").threshold, looser.category("safety").held_from) == (0.9, 0.2)
    stricter = apply_overrides(found, PolicyChoice(thresholds={"safety": 0.1})).policy
    # nothing is left between
    assert stricter.category("safety").held_from == 0.1
    kept = with_category(found, 0, locked=True)
    with pytest.raises(AccessError, match="'safety' is locked"):
        apply_overrides(kept, PolicyChoice(thresholds={"safety": 0.9}))
    with pytest.raises(PolicyError, match="'safety' is locked"):
        replace(kept, sensitivities=(Sensitivity(name="loose", thresholds=(("safety", 0.9),)),))


def test_a_locked_category_defers_below_its_threshold_whatever_is_heavier():
    found = banded(policy(2, thresholds=[0.6, NEVER], locked=True), 0, 0.2)
    decided = decide(found, log_softmax(np.log([[0.3, 0.3, 0.4]]))[0])
    assert decided.deferred == "safety"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"defer_threshold": 0.7}, "defer_threshold 0.7 of category 'safety' is above its refusal"),
        ({"defer_threshold": -0.1}, "not in"),
        ({"defer_threshold": float("nan")}, "not in"),
        ({"defer_text": "  "}, "has no defer_text"),
        ({"on_defer": "later"}, "unknown on_defer 'later'"),
        ({"on_defer": None}, "defers by half: it has no on_defer"),
        ({"defer_threshold": None}, "defers by half: it has no defer_threshold"),
    ],
)
def test_half_a_band_or_one_above_the_threshold_is_one_clear_error(fields, said):
    with pytest.raises(PolicyError, match=said):
        banded(policy(2, thresholds=[0.6, 0.5]), 0, **{"defer_threshold": 0.2, **fields})


@pytest.mark.parametrize("rule", ["natural", "released", "bias"])
def test_rules_without_a_band_do_not_defer(rule):
    with pytest.raises(PolicyError, match=f"under rule '{rule}'"):
        banded(policy(1, rule=rule, thresholds=[0.6]), 0, 0.2)


def test_the_sum_has_one_band():
    one = policy(2, rule="sum", thresholds=[0.6, 0.6])
    with pytest.raises(PolicyError, match="one threshold for all"):
        banded(one, 0, 0.2)


def test_a_policy_that_defers_is_of_the_second_format_and_reads_as_it_was_written():
    plain = policy(2, thresholds=[0.6, 0.5])
    assert policy_to_json(plain)["format"] == "demur.policy/1"
    assert not any("defer" in key for row in policy_to_json(plain)["categories"] for key in row)
    # a threshold of 0 defers whatever has the category as its heaviest, and is written
    for threshold in (0.2, 0.0):
        found = banded(plain, 1, threshold)
        value = policy_to_json(found)
        assert value["format"] == "demur.policy/2"
        assert policy_from_json(value, "here") == found
    with pytest.raises(PolicyError, match=r"'humanizing' defers, which format 'demur\.policy/1'"):
        policy_from_json({**value, "format": "demur.policy/1"}, "here")


@pytest.mark.parametrize("ids", [forced_ids, settled_ids])
def test_a_gate_on_tokens_takes_no_policy_that_defers(ids):
    found = banded(policy(1, thresholds=[0.6]), 0, 0.2)
    with pytest.raises(PolicyError, match="only answers or refuses"):
        ids(found, [7, 8], log_softmax(np.log([[0.9, 0.1]])))


def test_partial_scores_that_leave_a_deferral_open_decide_nothing():
    found = undoubted(banded(policy(1, thresholds=[0.6]), 0, 0.001))
    listed = {"[respond]": float(np.log(0.99)), "other": float(np.log(0.005))}
    with pytest.raises(ScoreDoubt, match=r"\['defer: safety', 'respond'\] open"):
        decide_partial(found, listed, ("[respond]", "[safety]"))
    sure = undoubted(banded(policy(1, thresholds=[0.6]), 0, 0.1))
    assert decide_partial(sure, listed, ("[respond]", "[safety]"))[0].outcome == "answer"


def test_the_text_of_a_deferral_comes_in_the_callers_language():
    made = banded(
        policy(2, thresholds=[0.9, 0.9]),
        0,
        0.1,
        on_refuse="No.",
        translations=(("de", "Nein."),),
        defer_translations=(("de", "Wofür?"), ("pt-BR", "Para quê?")),
    )
    deferred = decide(made, log_softmax([[0.0, 0.0, -9.0]])[0])
    assert deferred.outcome == "defer"
    for languages, text in (
        ((), ASK["defer_text"]),
        (("de-AT",), "Wofür?"),
        (("fr", "pt-br"), "Para quê?"),
        (("pt",), ASK["defer_text"]),
    ):
        assert operators_text(made, deferred, languages) == text
    refused = decide(made, log_softmax([[-9.0, 9.0, -9.0]])[0])
    assert operators_text(made, refused, ("de",)) == "Nein."
    assert policy_from_json(policy_to_json(made), "a policy") == made


def test_a_policy_without_translated_deferrals_is_written_as_before():
    made = banded(policy(2, thresholds=[0.9, 0.9]), 0, 0.1)
    assert all("defer_translations" not in row for row in policy_to_json(made)["categories"])
    assert made.without_bands() == policy(2, thresholds=[0.9, 0.9])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"defer_translations": (("de_AT", "Wofür?"),)}, "is no tag or repeated"),
        ({"defer_translations": (("de", "Wofür?"), ("DE", "Wozu?"))}, "is no tag or repeated"),
        ({"defer_translations": (("de", " "),)}, "empty text in language 'de'"),
    ],
)
def test_translations_of_a_deferral_are_checked(fields, message):
    with pytest.raises(PolicyError, match=message):
        banded(policy(2, thresholds=[0.9, 0.9]), 0, 0.1, **fields)


def test_translations_without_a_deferral_are_refused():
    with pytest.raises(PolicyError, match="translations of a text that it does not have") as caught:
        with_category(policy(2), 0, defer_translations=(("de", "Wofür?"),))
    assert "defer_text" in caught.value.hint
