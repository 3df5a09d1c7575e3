"""The calibrate stage: a goal becomes a policy, on rows that training never saw."""

import json
from dataclasses import replace

import pytest
from tests.fake_run import Rows, engine_for, examples, prepare

from demur.base.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    GoalError,
    GoalInfeasible,
    PolicyError,
    TaxonomyError,
)
from demur.base.files import digest_json
from demur.core.calibrator import IDENTITY
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.stages import calibrate, data, score
from demur.stages.arrival import left_rows
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.labelled import label_scores
from demur.stats.sample import split_by_group
from demur.store.policies.choice_file import read_choice
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples, write_examples
from demur.store.scores.tables import read_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = examples(every=2)
    return prepare(tmp_path_factory.mktemp("run"), rows, engine_for(rows))


def run(folder, **settings):
    return calibrate.run(calibrate.Config(**settings), coconot(), folder)


def test_the_policy_on_disk_is_the_policy_returned_with_fingerprint_and_curves(folder):
    policy = run(folder, goal="f1 max", name="acme")
    assert read_policy(folder.policy) == policy
    assert policy.name == "acme"
    assert policy.fingerprint is not None
    assert all(category.curve for category in policy.categories)
    assert len(policy.promises) == 1


@pytest.mark.parametrize(
    "goal",
    [
        "natural",
        "f1 max",
        "f0.5 max",
        "youden max",
        "refusal_rate = 0.10",
        "refusal_rate[safety] = 0.05",
        "cost: false=1 missed=5",
        "false_refusal <= 0.10",
    ],
)
def test_every_goal_gives_a_policy_that_says_what_it_promises(folder, goal):
    policy = run(folder, goal=goal)
    promise = policy.promises[0]
    assert promise.status == ("certified" if "<=" in goal else "measured")
    assert promise.method
    assert promise.data_digest.startswith("sha256:")


def test_a_finished_calibration_is_read_back_and_another_goal_is_another_policy(folder):
    first = run(folder, goal="youden max")
    stamp = folder.policy.stat().st_mtime_ns
    assert run(folder, goal="youden max") == first
    assert folder.policy.stat().st_mtime_ns == stamp
    assert run(folder, goal="cost: false=1 missed=50") != first


def test_inactive_locked_limited_and_templated_categories_are_kept(folder):
    policy = run(
        folder,
        goal="refusal_rate[safety] = 0.05",
        inactive=("humanizing",),
        locked=("safety",),
        limits={"incomplete": (0.2, NEVER)},
        on_refuse={"safety": "No."},
    )
    assert not policy.category("humanizing").active
    assert policy.category("safety").locked
    assert policy.category("incomplete").limits == (0.2, NEVER)
    assert policy.category("safety").on_refuse == "No."


def test_a_promise_that_so_few_rows_cannot_keep_is_a_result_with_the_rows_it_needs(folder):
    with pytest.raises(GoalInfeasible) as error:
        run(folder, goal="false_refusal <= 0.0001")
    assert error.value.exit_code == 3
    assert "29956" in str(error.value).replace(",", "")  # smallest n with 0.9999^n <= 0.05


def test_an_unknown_category_is_named_with_a_suggestion(folder):
    with pytest.raises(TaxonomyError, match="safty"):
        run(folder, locked=("safty",))


def test_a_goal_that_cannot_be_read_shows_where(folder):
    with pytest.raises(GoalError, match=r"\^"):
        run(folder, goal="false_refusal <= many")


@pytest.mark.parametrize("split", ["train", "calibrate", "test"])
def test_a_split_that_was_edited_is_refused_by_name(tmp_path, split):
    rows = examples(every=6)
    other = prepare(tmp_path, rows, engine_for(rows))
    write_examples(other.split(split), read_examples(other.split(split))[1:])
    with pytest.raises(ArtifactError, match=f"{split}.jsonl has changed"):
        run(other, goal="youden max")


def test_a_damaged_policy_is_named_with_its_key(folder):
    run(folder, goal="f1 max")
    value = json.loads(folder.policy.read_text())
    value["ruel"] = value.pop("rule")
    folder.policy.write_text(json.dumps(value))
    with pytest.raises(PolicyError, match="ruel: unknown key") as error:
        read_policy(folder.policy)
    assert "'rule'" in error.value.hint
    assert digest_json(value).startswith("sha256:")


def test_the_calibrator_is_fitted_on_rows_of_its_own_and_the_promise_speaks_of_the_others(folder):
    policy = run(
        folder, goal="false_refusal <= 0.2", calibrator="platt", calibrator_share=0.3, seed=3
    )
    rows = read_examples(folder.split("calibrate"))
    own, left = split_by_group(rows, 0.3, 3)
    table, _ = read_scores(folder.scores("calibrate"))
    fitted = fit_calibrator(
        "platt", label_scores(own, coconot(), table), coconot(), [e.group for e in own]
    )
    assert policy.calibrator == fitted.calibrator
    assert policy.promises[0].rate.of == sum(e.expected == "respond" for e in left)
    assert left_rows(folder).left == left
    assert not {e.group for e in own if e.group} & {e.group for e in left if e.group}


def test_the_promise_names_all_calibrate_rows_whether_fitted_on_or_left(folder):
    with_one, without = (
        run(folder, calibrator=c).promises[0].data_digest for c in ("temperature", "none")
    )
    assert with_one == without


def test_the_policy_carries_the_calibrator_through_its_file(folder):
    policy = run(folder, calibrator="isotonic")
    assert policy.calibrator != IDENTITY
    assert read_policy(folder.policy) == policy
    assert run(folder, calibrator="isotonic") == policy


def test_auto_records_the_family_with_its_reason_and_what_it_was_compared_with(folder):
    policy = run(folder, calibrator="auto")
    choice = read_choice(folder.calibrator)
    lowest = min(t.log_loss for t in choice.trials if t.log_loss is not None)
    assert choice.asked == "auto"
    assert choice.why.startswith(f"{choice.family}: log loss")
    assert {t.family: t for t in choice.trials}[choice.family].behind == pytest.approx(
        {t.family: t for t in choice.trials}[choice.family].log_loss - lowest
    )
    assert choice.fitted_on + choice.left == len(read_examples(folder.split("calibrate")))
    assert (policy.calibrator == IDENTITY) == (choice.family == "none")


def test_without_a_calibrator_the_record_of_an_earlier_one_is_gone(folder):
    run(folder, calibrator="temperature")
    assert folder.calibrator.exists()
    policy = run(folder)
    assert policy.calibrator == IDENTITY
    assert read_choice(folder.calibrator) is None
    assert left_rows(folder).left == read_examples(folder.split("calibrate"))


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"calibrator": "temprature"}, "unknown calibrator 'temprature'", "'temperature'"),
        ({"calibrator": "atuo"}, "unknown calibrator 'atuo'", "'auto'"),
        ({"calibrator": "magic"}, "unknown calibrator 'magic'", "known: auto, none, temperature"),
        ({"calibrator_share": 0.0}, "calibrator_share = 0.0", "0.4"),
        ({"calibrator_share": 1.0}, "calibrator_share = 1.0", "0.4"),
    ],
)
def test_a_calibrator_that_is_none_is_an_error_before_anything_is_read(settings, message, hint):
    with pytest.raises(ConfigError, match=message) as error:
        calibrate.Config(**settings)
    assert hint in error.value.hint


def test_the_model_left_to_itself_takes_no_calibrator(folder):
    with pytest.raises(ConfigError, match="'platt' beside the goal 'natural'"):
        run(folder, goal="natural", calibrator="platt")


def test_too_few_rows_for_a_calibrator_are_counted(folder):
    with pytest.raises(
        DataError, match=r"\d+ of the \d+ calibrate rows are its own .* too few to fit"
    ) as error:
        run(folder, calibrator="platt", calibrator_share=0.02)
    assert "at least 20" in error.value.hint


def test_a_share_that_leaves_no_row_says_so(folder):
    with pytest.raises(DataError, match="0 are its own"):
        run(folder, calibrator="platt", calibrator_share=1e-9)


def test_a_class_without_rows_is_named_where_the_family_needs_it(folder, tmp_path):
    rows = [e for e in examples(every=2) if not (e.category == "safety" and e.kind == "refusal")]
    other = prepare(tmp_path, rows, engine_for(rows), calibrate.Config(goal="natural"))
    with pytest.raises(
        DataError, match=r"calibrator 'vector'.* none of .* has label 'safety'"
    ) as error:
        run(other, goal="refusal_rate = 0.1", calibrator="vector")
    assert "temperature" in error.value.hint
    run(other, goal="refusal_rate = 0.1", calibrator="temperature")


def test_operating_curves_count_the_threshold_rows_only_however_many_the_calibrator_has(tmp_path):
    rows = examples(every=2)
    other = prepare(tmp_path, rows, engine_for(rows))
    before = run(other, goal="f1 max", calibrator="temperature")
    own, left = split_by_group(read_examples(other.split("calibrate")), 0.4, 0)
    assert own
    test = read_examples(other.split("test"))
    kept = [*read_examples(other.split("train")), *own[: len(own) // 2], *left, *test]
    bare = [replace(e, group=e.group.removeprefix("rows:") if e.group else None) for e in kept]
    data.resplit(data.Config(), coconot(), {"rows": Rows(bare)}, other)
    score.run(score.Config(), engine_for(rows), other)
    after = run(other, goal="f1 max", calibrator="temperature")
    assert before.promises[0].data_digest != after.promises[0].data_digest
    assert [c.curve[0].refusal_rate.of for c in before.categories] == [len(left)] * 5
    assert [c.curve[0].refusal_rate.of for c in after.categories] == [len(left)] * 5


def test_a_sensitivity_is_given_by_rates_and_stored_as_the_thresholds_that_keep_them(folder):
    plain = run(folder)
    policy = run(
        folder,
        sensitivities={"strict": {"humanizing": 0.2, "safety": 0.1}, "quiet": {"humanizing": 0.0}},
    )
    strict, quiet = policy.sensitivities
    assert strict.name == "strict"
    assert dict(strict.thresholds) == {
        "humanizing": plain.threshold_at_rate("humanizing", 0.2),
        "safety": plain.threshold_at_rate("safety", 0.1),
    }
    assert dict(quiet.thresholds) == {"humanizing": NEVER}
    assert read_policy(folder.policy) == policy
    assert replace(policy, sensitivities=()) == plain


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"sensitivities": {"strict": {"safty": 0.1}}},
            "sensitivity 'strict': unknown category 'safty'",
        ),
        (
            {"sensitivities": {"strict": {"safety": 0.1}}, "locked": ("safety",)},
            "'safety' is locked",
        ),
        (
            {"sensitivities": {"strict": {"safety": 0.0}}, "limits": {"safety": (0.0, 0.9)}},
            r"outside its limits \[0, 0.9\]",
        ),
        ({"sensitivities": {"strict": {"safety": 7.0}}}, "no share of traffic"),
        ({"sensitivities": {"strict": {}}}, "no threshold"),
        ({"translations": {"safety": {"de": "Nein."}}}, "put the text|does not have"),
    ],
)
def test_what_callers_could_never_get_is_not_written(folder, settings, says):
    run(folder)
    before = folder.policy.read_bytes()
    with pytest.raises(PolicyError, match=says):
        run(folder, **settings)
    assert folder.policy.read_bytes() == before


def test_the_model_left_to_itself_has_no_sensitivities(folder):
    with pytest.raises(ConfigError, match="has no thresholds"):
        run(folder, goal="natural", sensitivities={"strict": {"safety": 0.1}})
    kept = run(
        folder,
        goal="false_refusal <= 0.0001",
        on_failure="keep:natural",
        sensitivities={"strict": {"safety": 0.1}},
    )
    assert (kept.rule, kept.sensitivities) == ("natural", ())


def test_refusal_texts_have_translations(folder):
    policy = run(folder, on_refuse={"safety": "No."}, translations={"safety": {"de": "Nein."}})
    assert policy.category("safety").translations == (("de", "Nein."),)
    assert read_policy(folder.policy) == policy


@pytest.fixture(scope="module")
def two_tenants(tmp_path_factory):
    rows = [replace(e, source="acme" if n % 3 else "beta") for n, e in enumerate(examples(every=1))]
    return prepare(tmp_path_factory.mktemp("tenants"), rows, engine_for(rows))


def test_a_policy_for_one_source_is_made_on_its_rows_and_pooled_ones_on_theirs(two_tenants):
    def rows_behind(*sources):
        run(two_tenants, goal="false_refusal <= 0.20", sources=sources)
        used = left_rows(two_tenants).left
        promise = read_policy(two_tenants.policy).promises[0]
        assert promise.rate is not None
        answerable = sum(e.expected == "respond" for e in used)
        # fewer where thresholds were chosen on a part of them
        assert 0 < promise.rate.of <= answerable
        return [e.id for e in used]

    acme, beta = rows_behind("acme"), rows_behind("beta")
    everything = [e.id for e in read_examples(two_tenants.split("calibrate"))]
    assert set(acme) | set(beta) == set(everything)
    assert not set(acme) & set(beta)
    assert rows_behind("beta", "acme") == rows_behind() == everything


def test_a_source_without_rows_is_named_with_those_that_have_some(two_tenants):
    with pytest.raises(
        DataError, match="no row of the calibrate split is of source 'gamma'"
    ) as raised:
        run(two_tenants, goal="f1 max", sources=("gamma",))
    assert raised.value.hint == "sources: acme, beta"
