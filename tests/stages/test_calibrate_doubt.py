"""The calibrate stage measures the bound on leftover mass, counts doubtful rows, and refuses models
that leave most.
"""

import numpy as np
import pytest
from tests.fake_run import RudeEngine, engine_for, examples, prepare

from demur.base.errors import ScoreError
from demur.core.decision import decide_many
from demur.core.policy import DoubtRule
from demur.core.taxonomy import coconot
from demur.stages import calibrate
from demur.store.policies.policy_file import policy_to_json, read_policy
from demur.store.scores.tables import read_scores


class Leaking(RudeEngine):
    """Some prompts lose most of their probability to other tokens; `half_trained`: all do."""

    half_trained = False

    def logp(self, prompts, progress=lambda done, of: None):
        logp_NC = super().logp(prompts, progress)
        often = 1 if self.half_trained else 150
        lost_N = np.array([sum(p[-1].content.encode()) % often == 0 for p in prompts])
        return (
            logp_NC + np.where(lost_N, np.float32(np.log(0.06)), np.float32(0.0))[:, None]
        ).astype(np.float32)


class HalfTrained(Leaking):
    half_trained = True


def a_run(root, kind, every=2):
    rows = examples(every=every)
    return prepare(root, rows, engine_for(rows, kind=kind))


def run(folder, **settings):
    return calibrate.run(calibrate.Config(**settings), coconot(), folder)


def test_the_bound_is_measured_written_and_counted(tmp_path):
    folder = a_run(tmp_path, Leaking, every=1)
    policy = run(folder, goal="false_refusal <= 0.1")
    assert policy.doubt == DoubtRule(most_leftover=0.01)
    assert policy_to_json(policy)["doubt"] == {"most_leftover": 0.01, "then": "refuse"}
    assert read_policy(folder.policy) == policy
    table, _ = read_scores(folder.scores("calibrate"))
    many = decide_many(policy, table.logp_NC)
    assert many.doubt_N.any()
    assert many.refuses_N[many.doubt_N].all()
    rate = policy.promises[0].rate
    assert rate.hits >= 1  # a doubtful row that ought to be answered is a false refusal


def test_what_doubt_does_is_a_setting(tmp_path):
    folder = a_run(tmp_path, Leaking)
    assert run(folder, goal="f1 max", on_doubt="error").doubt.then == "error"
    kept = run(folder, goal="false_refusal <= 0.0001", on_failure="keep:natural", on_doubt="error")
    assert (kept.rule, kept.doubt.then) == ("natural", "error")


def test_a_half_trained_model_is_refused_not_thresholded(tmp_path):
    with pytest.raises(ScoreError, match="has not learnt"):
        a_run(tmp_path, HalfTrained)  # data, train and score are done: calibrate is what refuses
    assert list((tmp_path / "score").glob("*.parquet"))
    assert not list(tmp_path.glob("calibrate/policy.json"))
