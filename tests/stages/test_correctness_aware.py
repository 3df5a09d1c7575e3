"""demur calibrate with the calibrator that looks at rewritten prompts: its scores, its artifact,
and who is refused.
"""

import numpy as np
import pytest
from tests.fake_run import JUDGE, engine_for, examples, prepare

from demur.base.errors import ConfigError, PolicyError
from demur.core.fingerprint import LOGPROB_CONVENTION
from demur.core.rows.rewrites import rewrite_prompt
from demur.core.taxonomy import coconot
from demur.stages import calibrate, evaluate, report, score, watch
from demur.stages.arrival import left_rows
from demur.store.policies.calibrator_file import read_correctness_aware
from demur.store.policies.choice_file import read_choice
from demur.store.rows import read_examples
from demur.store.scores.rewritten import (
    calibrated_scores,
    correctness_file,
    read_rewritten,
    rewritten_scores,
)
from demur.store.scores.tables import read_scores

REWRITES = ("case", "punctuation")
WISH = {"goal": "false_refusal <= 0.3", "calibrator": "correctness-aware"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    rows = examples(every=3)
    engine = engine_for(rows)
    folder = prepare(tmp_path_factory.mktemp("run"), rows, engine)
    score.run(score.Config(rewrites=REWRITES), engine, folder)
    return folder, engine


def run(folder, **settings):
    return calibrate.run(calibrate.Config(**settings), coconot(), folder)


def test_each_rewrite_of_each_split_is_scored_under_the_ids_of_its_rows(made):
    folder, engine = made
    for split in ("calibrate", "test"):
        rows = read_examples(folder.split(split))
        for name, table in read_rewritten(folder, split, REWRITES).items():
            assert table.ids == tuple(e.id for e in rows)
            expected = engine.logp([rewrite_prompt(name, e.prompt) for e in rows[:5]])
            np.testing.assert_array_equal(table.logp_NC[:5], expected)


def test_thresholds_are_chosen_on_calibrated_scores_that_come_back_from_disk_bit_for_bit(made):
    folder, _ = made
    policy = run(folder, **WISH)
    aware = read_correctness_aware(correctness_file(folder))
    assert aware.rewrites == REWRITES
    for split in ("calibrate", "test"):
        table, fingerprint = read_scores(calibrated_scores(folder, split))
        raw, _ = read_scores(folder.scores(split))
        rewritten_MNC = np.stack(
            [t.logp_NC for t in read_rewritten(folder, split, REWRITES).values()]
        )
        # leftover mass is put back
        kept_N = np.log(np.maximum(1.0 - raw.leftover_N, np.float32(1e-6)))
        np.testing.assert_array_equal(
            table.logp_NC, aware.apply(raw.logp_NC, rewritten_MNC) + kept_N[:, None]
        )
        np.testing.assert_allclose(table.leftover_N, raw.leftover_N, atol=1e-5)
        assert fingerprint == policy.fingerprint
        np.testing.assert_array_equal(table.logp_NC.argmax(axis=1), raw.logp_NC.argmax(axis=1))
    choice = read_choice(folder.calibrator)
    assert (choice.family, policy.promises[0].status) == ("correctness-aware", "certified")
    assert policy.promises[0].rate.of == sum(
        e.expected == "respond" for e in left_rows(folder).left
    )


def test_the_policy_refuses_raw_scores(made):
    folder, engine = made
    policy = run(folder, **WISH)
    assert policy.fingerprint.as_scored == engine.fingerprint
    with pytest.raises(PolicyError, match="logprobs differ"):
        policy.require_model(engine.fingerprint)


def test_it_is_measured_and_reported_on_the_scores_that_it_decides_on(made):
    folder, engine = made
    run(folder, **WISH)
    found = evaluate.run(evaluate.Config(limit=40), engine, JUDGE, folder)
    assert found.calibration.family == "correctness-aware"
    assert found.calibration.before != found.calibration.after
    assert found.leftover.mean > 1e-4  # of the model's own scores, not of calibrated ones
    assert report.run(report.Config(), folder).exists()


def test_promises_of_it_can_be_watched_on_its_own_scores_and_on_no_others(made, tmp_path):
    folder, _ = made
    run(folder, **WISH)
    state = tmp_path / "state.json"
    seen = watch.run(watch.Config(scores=calibrated_scores(folder, "test"), state=state), folder)
    assert [w.promise.risk for w in seen.watched] == ["false_refusal"]
    with pytest.raises(PolicyError, match="logprobs differ"):
        watch.run(watch.Config(scores=folder.scores("test"), state=state), folder)


def test_another_calibrator_leaves_nothing_of_it(made):
    folder, engine = made
    run(folder, **WISH)
    policy = run(folder, goal="false_refusal <= 0.3", calibrator="temperature")
    assert policy.fingerprint == engine.fingerprint
    assert policy.fingerprint.logprobs == LOGPROB_CONVENTION
    assert not correctness_file(folder).exists()
    assert not calibrated_scores(folder, "test").exists()


def test_what_it_needs_is_said(made, tmp_path):
    folder, _ = made
    with pytest.raises(ConfigError, match="other scores"):
        run(folder, **WISH, on_failure="keep:other.json")
    rows = examples(every=12)
    plain = prepare(tmp_path, rows, engine_for(rows), calibrate.Config(goal="natural"))
    with pytest.raises(ConfigError, match="none is scored") as e:
        run(plain, **WISH)
    assert "--rewrite case" in e.value.hint
    assert not rewritten_scores(plain, "test", "case").exists()
