import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from demur.base.errors import AccessError, PolicyError
from demur.core.access import PolicyChoice, Tenant, apply_overrides, choose_policy
from demur.core.decision import decide_many
from demur.core.goals.goal import Promise
from demur.core.goals.parse import stated_goal
from demur.core.policy import (
    RULES,
    THRESHOLD_RULES,
    CategoryPolicy,
    CurvePoint,
    Policy,
    Sensitivity,
)
from demur.core.rates import Rate
from demur.core.threshold import ALWAYS, NEVER
from tests.builders import THRESHOLDS, logp, policy, taxonomy, with_category

NAMES = taxonomy(3).names
RATES = (0.0, 0.04, 0.1, 0.5, 1.0)
PROMISE = Promise(
    goal=stated_goal("f1", None),
    confidence=None,
    status="measured",
    rate=None,
    data_digest="d",
    method="optimum",
)


def curve(*points):
    """Points (threshold, requests of 100 that it refuses)."""
    rates = [Rate(hits=hits, of=100) for _, hits in points]
    return tuple(
        CurvePoint(threshold=t, refusal_rate=r, false_refusal=r, missed_refusal=r)
        for (t, _), r in zip(points, rates, strict=True)
    )


CURVE = curve((NEVER, 0), (0.8, 5), (0.3, 20), (0.05, 60))


KINDS = [
    CategoryPolicy(threshold=t, curve=curve_, **fields)
    for t, curve_, fields in product(
        THRESHOLDS,
        (CURVE, ()),
        (
            {},
            {"limits": (0.05, 0.9)},
            {"limits": (0.2, NEVER)},
            {"locked": True},
            {"active": False},
            {"override": "suppress"},
        ),
    )
    if fields.get("limits", (ALWAYS, NEVER))[0] <= t <= fields.get("limits", (ALWAYS, NEVER))[1]
]


def within(threshold, category):
    low, high = category.limits or (ALWAYS, NEVER)
    return low <= threshold <= high


@st.composite
def asks(draw):
    names = st.sampled_from((*NAMES, *NAMES, *NAMES, "other"))
    return PolicyChoice(
        sensitivity=draw(st.sampled_from((None, "strict", "loose"))),
        rates=draw(st.dictionaries(names, st.sampled_from((*RATES, 1.5)), max_size=1)),
        thresholds=draw(
            st.dictionaries(names, st.sampled_from((*THRESHOLDS, math.nan, -1)), max_size=2)
        ),
    )


@st.composite
def stored(draw, rules=RULES):
    """Policies with locks, limits and curves, and those of two sensitivities that they allow."""
    rule, kinds = draw(st.sampled_from(rules)), draw(st.tuples(*[st.sampled_from(KINDS)] * 3))
    if rule == "sum":  # one threshold for all, so it has to be within everyone's limits
        shared = kinds[0].threshold
        kinds = tuple(
            replace(c, threshold=shared, limits=c.limits if within(shared, c) else None)
            for c in kinds
        )
    plain = Policy(name="p", taxonomy=taxonomy(3), rule=rule, categories=kinds, promises=(PROMISE,))
    wanted = [
        Sensitivity(name=n, thresholds=(pair,))
        for n, pair in (("strict", ("safety", 0.2)), ("loose", (NAMES[2], 0.8)))
    ]
    return replace(plain, sensitivities=tuple(s for s in wanted if allowed(plain, s)))


def allowed(policy, sensitivity):
    try:
        replace(policy, sensitivities=(sensitivity,))
    except PolicyError:
        return False
    return True


def granted(policy, ask):
    """What comes of an ask, None if it is refused. Anything but an AccessError is a bug."""
    try:
        return apply_overrides(policy, ask)
    except AccessError as e:
        return None if e.code and e.hint else pytest.fail("an error without a code or a hint")


@given(stored(), asks())
def test_a_locked_category_never_moves_and_no_threshold_leaves_its_limits(policy, ask):
    found = granted(policy, ask)
    for before, after in zip(
        policy.categories, found.policy.categories if found else policy.categories, strict=True
    ):
        assert within(after.threshold, before)
        if before.locked:
            assert after.threshold == before.threshold
        assert replace(after, threshold=before.threshold) == before


@given(stored([r for r in THRESHOLD_RULES if r != "sum"]), asks())
def test_thresholds_win_over_rates_over_the_sensitivity_over_the_policy(policy, ask):
    found = granted(policy, ask)
    assume(found is not None)
    by_name = dict(
        next((s.thresholds for s in policy.sensitivities if s.name == ask.sensitivity), ())
    )
    for setting, before in zip(found.settings, policy.categories, strict=True):
        name = setting.category
        if name in ask.thresholds:
            expected = ask.thresholds[name], "threshold"
        elif name in ask.rates:
            expected = policy.threshold_at_rate(name, ask.rates[name]), f"rate {ask.rates[name]:g}"
        elif name in by_name:
            expected = by_name[name], f"sensitivity {ask.sensitivity}"
        else:
            expected = before.threshold, "policy"
        assert (setting.threshold, setting.origin) == expected
        assert found.policy.category(name).threshold == setting.threshold


@given(st.data(), stored(THRESHOLD_RULES))
def test_asking_for_higher_thresholds_never_adds_a_refusal(data, policy):
    higher = {
        n: max(policy.category(n).threshold, data.draw(st.sampled_from(THRESHOLDS))) for n in NAMES
    }
    named = data.draw(
        st.lists(st.sampled_from(NAMES), unique=True, max_size=1 if policy.rule == "sum" else 3)
    )
    found = granted(policy, PolicyChoice(thresholds={n: higher[n] for n in named}))
    logp_NC = data.draw(logp(3))
    after = found.policy if found else policy
    assert not (
        decide_many(after, logp_NC).refuses_N & ~decide_many(policy, logp_NC).refuses_N
    ).any()


@given(stored(), asks())
def test_promises_cover_a_request_exactly_if_no_threshold_moves(policy, ask):
    found = granted(policy, ask)
    assume(found is not None)
    same = [c.threshold for c in found.policy.categories] == [
        c.threshold for c in policy.categories
    ]
    assert found.overridden is not same
    assert found.policy.promises == (policy.promises if same else ())


def test_asking_for_nothing_changes_nothing():
    before = policy(2, "natural")
    found = apply_overrides(before, PolicyChoice())
    assert found.policy is before
    assert not found.overridden
    assert [s.origin for s in found.settings] == ["policy", "policy"]


def limited(**fields):
    return with_category(policy(2, "heaviest", [0.3, 0.3]), 0, **fields)


@pytest.mark.parametrize(
    ("policy", "ask", "code", "param", "says"),
    [
        (
            policy(2, "natural"),
            PolicyChoice(thresholds={"safety": 0.1}),
            "no_thresholds",
            "thresholds.safety",
            "natural",
        ),
        (
            policy(2, "bias"),
            PolicyChoice(rates={"safety": 0.1}),
            "no_thresholds",
            "rates.safety",
            "bias",
        ),
        (
            policy(2),
            PolicyChoice(thresholds={"safty": 0.1}),
            "unknown_category",
            "thresholds.safty",
            "'safty'",
        ),
        (
            policy(2),
            PolicyChoice(sensitivity="strict"),
            "unknown_sensitivity",
            "sensitivity",
            "'strict'",
        ),
        (
            policy(2),
            PolicyChoice(rates={"safety": 0.1}),
            "no_curve",
            "rates.safety",
            "operating curve",
        ),
        (
            limited(curve=CURVE),
            PolicyChoice(rates={"safety": 5}),
            "invalid_value",
            "rates.safety",
            "share of traffic",
        ),
        (
            policy(2),
            PolicyChoice(thresholds={"safety": math.nan}),
            "invalid_value",
            "thresholds.safety",
            "nan",
        ),
        (
            policy(2),
            PolicyChoice(thresholds={"safety": -0.1}),
            "invalid_value",
            "thresholds.safety",
            "-0.1",
        ),
        (
            limited(locked=True),
            PolicyChoice(thresholds={"safety": 0.3}),
            "locked",
            "thresholds.safety",
            "locked",
        ),
        (
            limited(active=False),
            PolicyChoice(thresholds={"safety": 0.3}),
            "no_effect",
            "thresholds.safety",
            "'safety'",
        ),
        (
            limited(override="force"),
            PolicyChoice(thresholds={"humanizing": 0.3}),
            "no_effect",
            "thresholds.humanizing",
            "'humanizing'",
        ),
        (
            limited(limits=(0.2, 0.5)),
            PolicyChoice(thresholds={"safety": 0.6}),
            "outside_limits",
            "thresholds.safety",
            "[0.2, 0.5]",
        ),
        (
            limited(limits=(0.2, 0.5), curve=CURVE),
            PolicyChoice(rates={"safety": 0.05}),
            "outside_limits",
            "rates.safety",
            "0.8",
        ),
    ],
)
def test_what_cannot_be_granted_says_why_and_where(policy, ask, code, param, says):
    with pytest.raises(AccessError) as e:
        apply_overrides(policy, ask)
    assert (e.value.code, e.value.param) == (code, param)
    assert says in e.value.message
    assert e.value.hint


def test_the_one_threshold_of_rule_sum_moves_for_all_and_is_held_by_any_lock_or_limit():
    before = policy(3, "sum", [0.3] * 3)
    found = apply_overrides(before, PolicyChoice(thresholds={"humanizing": 0.4}))
    assert [s.threshold for s in found.settings] == [0.4] * 3
    with pytest.raises(AccessError, match="'incomplete' is locked"):
        apply_overrides(
            with_category(before, 2, locked=True), PolicyChoice(thresholds={"humanizing": 0.4})
        )
    with pytest.raises(AccessError, match=r"'safety' is outside its limits \[0.1, 0.35\]"):
        apply_overrides(
            with_category(before, 0, limits=(0.1, 0.35)),
            PolicyChoice(thresholds={"humanizing": 0.4}),
        )
    with pytest.raises(AccessError, match="one threshold"):
        apply_overrides(before, PolicyChoice(thresholds={"humanizing": 0.4, "safety": 0.5}))


def test_a_suppressed_category_under_rule_sum_shares_the_threshold_like_any_other():
    before = with_category(policy(2, "sum", [0.3] * 2), 1, override="suppress")
    found = apply_overrides(before, PolicyChoice(thresholds={"safety": 0.4}))
    assert [c.threshold for c in found.policy.categories] == [0.4, 0.4]


TENANT = Tenant(name="acme", policies=("default", "careful"), may_override=True)
THERE = ("careful", "default", "secret")


def test_a_tenant_gets_its_first_policy_unless_it_asks_for_another_of_its_own():
    assert choose_policy(TENANT, PolicyChoice(), THERE) == "default"
    assert (
        choose_policy(TENANT, PolicyChoice(policy="careful", rates={"safety": 0.1}), THERE)
        == "careful"
    )


def test_anothers_policy_and_one_that_does_not_exist_cannot_be_told_apart():
    said = set()
    for name in ("secret", "absent"):
        with pytest.raises(AccessError) as e:
            choose_policy(TENANT, PolicyChoice(policy=name), THERE)
        said.add((e.value.message.replace(name, "NAME"), e.value.hint, e.value.code, e.value.param))
    assert len(said) == 1
    assert "secret" not in str(said)
    with pytest.raises(AccessError, match="'careful'"):
        choose_policy(
            TENANT, PolicyChoice(policy="careful"), ["default"]
        )  # its own, but its file is gone


@pytest.mark.parametrize(
    "ask",
    [
        PolicyChoice(sensitivity="strict"),
        PolicyChoice(rates={"safety": 0.1}),
        PolicyChoice(thresholds={"safety": 0.1}),
    ],
)
def test_a_tenant_without_the_right_to_override_may_only_choose(ask):
    bound = replace(TENANT, may_override=False)
    assert choose_policy(bound, PolicyChoice(policy="careful"), THERE) == "careful"
    with pytest.raises(AccessError) as e:
        choose_policy(bound, ask, THERE)
    assert (e.value.code, e.value.param) == (
        "no_overrides",
        next(f for f in ("sensitivity", "rates", "thresholds") if getattr(ask, f)),
    )
