import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import PolicyError
from demur.core.fingerprint import Fingerprint
from demur.core.goals.goal import Promise
from demur.core.goals.parse import stated_goal
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.core.policy import (
    RULES,
    CategoryPolicy,
    CurvePoint,
    DoubtRule,
    Policy,
    Sensitivity,
    natural,
)
from demur.core.rates import ByUnits, Rate, Slice
from demur.core.rows.facets import FACETS
from demur.core.taxonomy import coconot, single
from demur.core.threshold import NEVER
from demur.store.policies.policy_file import (
    bind_promises,
    policy_digest,
    policy_from_json,
    policy_to_json,
    read_policy,
    write_policy,
)

thresholds = st.floats(0, 1) | st.just(NEVER)
rates = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda t: Rate(hits=min(t), of=max(t)))
curves = st.builds(
    CurvePoint, threshold=thresholds, refusal_rate=rates, false_refusal=rates, missed_refusal=rates
)


@st.composite
def category_policies(draw):
    low, threshold, high = sorted(draw(st.tuples(thresholds, thresholds, thresholds)))
    return CategoryPolicy(
        threshold=threshold,
        active=draw(st.booleans()),
        bias=draw(st.floats(-9, 9)),
        override=draw(st.sampled_from([None, "suppress"])),
        on_refuse=draw(st.text(st.characters(codec="utf-8"))),
        locked=draw(st.booleans()),
        limits=draw(st.sampled_from([None, (low, high)])),
        curve=tuple(draw(st.lists(curves, max_size=2))),
    )


by_units = st.none() | st.builds(
    ByUnits, units=st.integers(1, 9), low=st.floats(0, 1), high=st.floats(0, 1)
)
slices = st.builds(
    Slice,
    facet=st.sampled_from(FACETS),
    name=st.text(st.characters(codec="utf-8"), max_size=5),
    rate=rates,
    by_units=by_units,
)
LEVELS = st.none() | st.floats(0, 1)
promises = st.builds(
    Promise,
    goal=st.builds(
        stated_goal, st.sampled_from(["false_refusal", "missed_refusal[a+b]", "cost"]), LEVELS
    ),
    confidence=st.none() | st.floats(0.5, 1),
    status=st.sampled_from(["certified", "measured", "uncertified", "no longer supported"]),
    rate=st.none() | rates,
    data_digest=st.just("sha256:d"),
    method=st.just("Clopper and Pearson 1934"),
    on_failure=st.sampled_from(["stop", "hard_only", "keep:careful"]),
    mix=st.lists(slices, max_size=2).map(tuple),
    by_units=by_units,
)
fingerprints = st.builds(
    Fingerprint,
    model_digest=st.just("sha256:m"),
    tokenizer_digest=st.just("sha256:t"),
    template_digest=st.just("sha256:c"),
    tokens=st.just(coconot().tokens),
    token_ids=st.tuples(*[st.integers(0, 9)] * 6),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
CATEGORY = CategoryPolicy(
    threshold=0.5, limits=(0.1, NEVER), on_refuse="No.", translations=(("de", "Nein."),)
)


@st.composite
def asked_for(draw):
    """A policy with everything that callers may ask for by name."""
    thresholds = st.floats(0.1, 1) | st.just(NEVER)
    named = draw(
        st.dictionaries(
            st.text(min_size=1, max_size=3), st.tuples(thresholds, thresholds), max_size=2
        )
    )
    made = tuple(
        Sensitivity(name=name, thresholds=tuple(zip(("safety", "humanizing"), pair, strict=True)))
        for name, pair in named.items()
    )
    return replace(natural(coconot()), rule="any", categories=(CATEGORY,) * 5, sensitivities=made)


policies = st.builds(
    Policy,
    name=st.text(st.characters(codec="utf-8")),
    taxonomy=st.just(coconot()),
    rule=st.sampled_from([r for r in RULES if r != "sum"]),  # sum wants equal thresholds
    categories=st.tuples(*[category_policies()] * 5),
    fingerprint=st.none() | fingerprints,
    promises=st.lists(promises, max_size=2).map(tuple),
).map(bind_promises)


@given(policies | asked_for())
def test_a_policy_comes_back_as_it_was(policy):
    plain = json.loads(json.dumps(policy_to_json(policy), allow_nan=False))
    again = policy_from_json(plain, "here")
    assert again == policy
    assert policy_digest(again) == policy_digest(policy)


def test_a_promise_written_before_failures_had_a_choice_is_read_as_one_that_would_have_stopped():
    promise = Promise(
        goal=stated_goal("f1", None),
        confidence=None,
        status="measured",
        rate=None,
        data_digest="sha256:d",
        method="optimum",
    )
    value = policy_to_json(replace(natural(single()), promises=(promise,)))
    del value["promises"][0]["on_failure"]
    assert policy_from_json(value, "here").promises == (promise,)


def test_a_policy_that_uses_no_later_key_is_written_as_before_there_was_one():
    value = policy_to_json(natural(single()))
    assert "sensitivities" not in value
    assert "translations" not in value["categories"][0]


def test_a_file_comes_back_as_it_was(tmp_path):
    write_policy(tmp_path / "p.json", natural(single()))
    assert read_policy(tmp_path / "p.json") == natural(single())


def test_never_is_a_word_because_json_has_no_infinity():
    plain = policy_to_json(natural(single()))
    assert plain["categories"][0]["threshold"] == "never"
    assert math.isinf(policy_from_json(plain, "here").categories[0].threshold)


def test_another_threshold_is_another_digest():
    policy = natural(single())
    assert policy_digest(policy) != policy_digest(policy.with_thresholds({"refuse": 0.5}))


def changed(**fields):
    return {**policy_to_json(natural(coconot())), **fields}


def first_category(**fields):
    first, *rest = policy_to_json(natural(coconot()))["categories"]
    return changed(categories=[{**first, **fields}, *rest])


@pytest.mark.parametrize(
    ("value", "says", "hint"),
    [
        ([], "the whole file", ""),
        (changed(format="demur.policy/9"), "format", ""),
        (changed(rul="natural"), "rul: unknown key", "'rule'"),
        (changed(rule="heavy"), "'heavy'", ""),
        (changed(calibrator={"kind": "temperature"}), "calibrator: ", ""),
        (first_category(treshold=1), "treshold: unknown key", "'threshold'"),
        (first_category(threshold=-0.5), "-0.5", "never"),
        (first_category(threshold="always"), "'always'", ""),
        (first_category(translations={"de": "Nein."}), "does not have", "on_refuse"),
        (first_category(on_refuse="No.", translations={"de_AT": "Nein."}), "'de_at'", "'de'"),
        (
            first_category(on_refuse="No.", translations={"de": "Nein.", "DE": "Na."}),
            "'de'",
            "'de'",
        ),
        (changed(sensitivities={"s": {"safety": 0.1}}), "compares no thresholds", ""),
        (
            changed(rule="any", sensitivities={"s": {"safty": 0.1}}),
            "sensitivity 's': unknown category",
            "'safety'",
        ),
        (
            changed(rule="any", sensitivities={"s": {"safety": -1}}),
            "sensitivity 's': threshold -1",
            "",
        ),
        (changed(rule="any", sensitivities={"s": {}}), "no threshold", ""),
        (
            changed(rule="sum", sensitivities={"s": {"safety": 0.1, "humanizing": 0.2}}),
            "'sum' has one",
            "equal",
        ),
        (first_category(limits=[0.5, 0.1]), "not ordered", "lowest"),
        (first_category(limits=[0.0, 0.5]), "outside its limits", ""),
        (first_category(category="saftey"), "are not the taxonomy's", "same"),
        (changed(categories=[]), "are not the taxonomy's", "same"),
        (first_category(threshold=float("nan")), "NaN", ""),
    ],
)
def test_a_bad_policy_names_file_key_and_remedy(tmp_path, value, says, hint):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(value))
    with pytest.raises(PolicyError) as e:
        read_policy(path)
    assert e.value.message.startswith(str(path))
    assert says in e.value.message
    assert hint in e.value.hint
    assert e.value.hint


def test_a_policy_whose_fingerprint_is_of_another_taxonomy_is_refused():
    fingerprint = Fingerprint(
        model_digest="m",
        tokenizer_digest="t",
        template_digest="c",
        tokens=("[a]", "[b]"),
        token_ids=(1, 2),
        dtype="f",
    )
    value = policy_to_json(natural(single())) | {
        "fingerprint": {f: getattr(fingerprint, f) for f in fingerprint.__dataclass_fields__}
    }
    with pytest.raises(PolicyError, match="are not the taxonomy's"):
        policy_from_json(value, "here")


def test_missing_and_cut_files_are_named(tmp_path):
    with pytest.raises(PolicyError, match=r"p\.json does not exist"):
        read_policy(tmp_path / "p.json")
    write_policy(tmp_path / "p.json", natural(coconot()))
    (tmp_path / "p.json").write_bytes((tmp_path / "p.json").read_bytes()[:200])
    with pytest.raises(PolicyError, match=r"p\.json is damaged: line"):
        read_policy(tmp_path / "p.json")


def test_a_policy_without_the_key_has_the_default_rule_for_doubt_and_keeps_its_digest() -> None:
    plain = policy_to_json(natural(coconot()))
    assert "doubt" not in plain
    assert policy_from_json(plain, "x").doubt == DoubtRule()


def _monitored(**fields: Any) -> Policy:
    monitor = Monitor(
        thresholds=(math.inf, math.inf, math.inf, 0.2, math.inf),
        answers=AnswerSampling(most_tokens=64, temperature=0.0),
        **fields,
    )
    return replace(natural(coconot()), monitor=monitor)


@pytest.mark.parametrize("fields", [{}, {"statistic": "cusum", "reference": 0.05, "held_back": 0}])
def test_a_monitor_is_written_and_read_in_a_format_of_its_own(fields: dict[str, Any]) -> None:
    policy = _monitored(**fields)
    value = policy_to_json(policy)
    assert value["format"] == "demur.policy/2"
    assert value["monitor"]["thresholds"]["safety"] == 0.2
    assert value["monitor"]["thresholds"]["humanizing"] == "never"
    assert policy_from_json(value, "x") == policy


def test_a_policy_without_a_monitor_keeps_its_format_and_its_digest() -> None:
    plain = policy_to_json(natural(coconot()))
    assert plain["format"] == "demur.policy/1"
    assert "monitor" not in plain
    assert policy_from_json(plain | {"monitor": None}, "x") == natural(coconot())


def test_a_monitor_of_other_categories_is_refused() -> None:
    value = policy_to_json(_monitored())
    del value["monitor"]["thresholds"]["safety"]
    with pytest.raises(PolicyError, match="x: monitor: thresholds of categories"):
        policy_from_json(value, "x")


def test_a_rule_for_doubt_is_written_and_read() -> None:
    rule = DoubtRule(most_leftover=0.07, then="error")
    value = policy_to_json(replace(natural(coconot()), doubt=rule))
    assert value["doubt"] == {"most_leftover": 0.07, "then": "error"}
    assert policy_from_json(value, "x").doubt == rule


@pytest.mark.parametrize(
    ("record", "key"),
    [("doubt", "most_leftover"), ("doubt", "then"), ("fingerprint", "logprobs")],
)
def test_a_record_that_lost_a_key_is_damaged_and_gets_no_default(record, key) -> None:
    model = Fingerprint(
        model_digest="m",
        tokenizer_digest="t",
        template_digest="c",
        tokens=single().tokens,
        token_ids=(1, 2),
        dtype="f",
    )
    rule = DoubtRule(most_leftover=0.01, then="error")
    value = policy_to_json(replace(natural(single(), model), doubt=rule))
    del value[record][key]
    with pytest.raises(PolicyError, match=f"missing key '{key}'"):
        policy_from_json(value, "p.json")


def test_a_bound_that_is_no_probability_is_refused() -> None:
    value = policy_to_json(natural(coconot())) | {"doubt": {"most_leftover": 1.5, "then": "refuse"}}
    with pytest.raises(PolicyError, match="most_leftover"):
        policy_from_json(value, "x")


def test_a_promise_without_a_mix_is_written_as_it_always_was():
    promise = Promise(
        goal=stated_goal("false_refusal", 0.1),
        confidence=0.9,
        status="certified",
        rate=None,
        data_digest="d",
        method="m",
    )
    made = replace(natural(coconot()), promises=(promise,))
    assert "mix" not in policy_to_json(made)["promises"][0]
    part = Slice(facet="kind", name="contrast", rate=Rate(hits=1, of=3))
    mixed = replace(made, promises=(replace(promise, mix=(part,)),))
    assert policy_to_json(mixed)["promises"][0]["mix"] == [
        {"facet": "kind", "name": "contrast", "rate": {"hits": 1, "of": 3}}
    ]
    assert policy_to_json(mixed)["format"] == "demur.policy/1"
    # An interval that counts units is more than a reader of before understands.
    counted = replace(promise, by_units=ByUnits(units=2, low=0.1, high=0.9))
    value = policy_to_json(replace(made, promises=(counted,)))
    assert value["format"] == "demur.policy/2"
    assert value["promises"][0]["by_units"] == {"units": 2, "low": 0.1, "high": 0.9}
