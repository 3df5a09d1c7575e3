import json
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
from tests.fake_run import prepare
from tests.front_parts import examples, model, texts

from demur.base.errors import ArtifactError, ConfigError, DataError, PolicyError
from demur.base.files import digest_file
from demur.core.decision import decide_many
from demur.core.policy import natural
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.core.training.seen import seen_of
from demur.judges.phrases import PhraseJudge
from demur.stages import calibrate, distil, evaluate, report, verify
from demur.store.models.front_file import front_file, front_of, read_front_metrics
from demur.store.models.seen_file import front_seen, read_seen, write_seen
from demur.store.policies.policy_file import policy_digest, read_policy, write_policy
from demur.store.policies.trust import DIGESTS_ONLY
from demur.store.prompts_file import read_prompts
from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores

GOAL = "false_refusal <= 0.1"


def traffic_file(path, some, **keys):
    rows = [{"id": f"t{n}", "prompt": text, **keys} for n, text in enumerate(some)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def scored(path, model_ms=5.0, by=None):
    prompts = read_prompts([path])
    logp_NC = (by or model()).logp([row.messages for row in prompts.rows])
    table = ScoreTable(ids=tuple(row.id for row in prompts.rows), logp_NC=logp_NC)
    fingerprint = (by or model()).fingerprint
    return distil.Traffic(
        file=path, prompts=prompts, scores=table, model=fingerprint, model_ms=model_ms
    )


def taught(folder, path, bound=0.05, by=None):
    """Fit the run's front on the traffic of a file."""
    policy = natural(coconot(), model().fingerprint)
    return distil.run(distil.Config(bound=bound), scored(path, by=by), policy, folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run up to calibrate of the model alone, with a front; and a policy of the cascade beside
    its own.
    """
    root = tmp_path_factory.mktemp("distil")
    folder = prepare(root / "run", examples(700, 100), model(), calibrate.Config(goal=GOAL))
    metrics = taught(folder, traffic_file(root / "traffic.jsonl", texts(1600, 7)))
    calibrate.run(
        calibrate.Config(goal=GOAL, cascade=True, name="both"), coconot(), folder.named("both")
    )
    return folder, metrics


def copied(folder, tmp_path):
    return replace(folder, root=copytree(folder.root, tmp_path / "copy"))


def test_the_front_is_measured_on_traffic_that_it_was_not_fitted_on(made):
    folder, metrics = made
    assert metrics == read_front_metrics(folder)
    assert metrics.fitted + metrics.held + sum(metrics.left_out.values()) == 1600
    assert metrics.decided == metrics.answered.of + metrics.refused.of > metrics.held / 2
    assert 0.0 < metrics.front_ms < metrics.cascade_ms < metrics.model_ms == 5.0


def test_the_cascade_has_a_policy_of_its_own_beside_the_models(made):
    folder, _ = made
    own, both = read_policy(folder.policy), read_policy(folder.named("both").policy)
    digest = digest_file(front_file(folder))
    assert own.fingerprint.front is None
    assert both.fingerprint.front == digest
    assert both.fingerprint.as_scored == own.fingerprint == model().fingerprint
    assert both.promises[0].status == "certified"
    table, fingerprint = read_scores(folder.named("both").stage("calibrate") / "test.parquet")
    assert fingerprint == both.fingerprint
    front, _ = front_of(folder, model().fingerprint)
    rows = {e.id: e.prompt for e in read_examples(folder.split("test"))}
    alone = read_scores(folder.scores("test"))[0]
    for name, logp_C, alone_C in zip(table.ids, table.logp_NC, alone.logp_NC, strict=True):
        given = front.given(rows[name])
        assert np.array_equal(logp_C, alone_C if given is None else given)


def test_what_was_counted_is_counted_again(made):
    folder, _ = made
    both = read_policy(folder.named("both").policy)
    _, (verified,) = verify.run(folder.named("both").policy, folder.named("both"), DIGESTS_ONLY)
    assert verified.promise.status == "certified"
    table, _ = read_scores(folder.named("both").stage("calibrate") / "calibrate.parquet")
    rows = read_examples(folder.split("calibrate"))
    benign_N = np.array([e.label is None for e in rows])
    refused_N = decide_many(both, table.select(tuple(e.id for e in rows)).logp_NC).refuses_N
    rate = both.promises[0].rate
    assert (rate.hits, rate.of) == (int(refused_N[benign_N].sum()), int(benign_N.sum()))


def test_a_policy_of_the_cascade_decides_on_nothing_else(made):
    folder, _ = made
    own, both = read_policy(folder.policy), read_policy(folder.named("both").policy)
    with pytest.raises(
        PolicyError, match=r"decides on scores of a cascade with front sha256:.* of the model alone"
    ):
        both.require_model(own.fingerprint)
    with pytest.raises(PolicyError, match="of the model alone, and these are of a cascade"):
        own.require_model(both.fingerprint)
    with pytest.raises(PolicyError, match="of a cascade with front sha256:ab"):
        both.require_model(own.fingerprint.behind("sha256:ab"))


def test_the_cascade_is_evaluated_and_reported_on_its_own_scores(made, tmp_path):
    folder = copied(made[0], tmp_path).named("both")
    found = evaluate.run(evaluate.Config(), model(), PhraseJudge(), folder)
    table, _ = read_scores(folder.stage("calibrate") / "test.parquet")
    policy = read_policy(folder.policy)
    refused = int(decide_many(policy, table.logp_NC).refuses_N.sum())
    calibrated = next(p for p in found.policies if p.goal == GOAL)
    assert sum(sum(row[1:]) for row in calibrated.confusion) == refused
    text = report.run(report.Config(), folder).with_name("report.md").read_text(encoding="utf-8")
    assert "were decided by the front model" in text


def test_rows_that_the_front_was_made_from_are_not_counted(made, tmp_path):
    folder = copied(made[0], tmp_path)
    rows = read_examples(folder.split("calibrate"))
    taught(folder, traffic_file(tmp_path / "t.jsonl", [*texts(1600, 7), *[e.text for e in rows]]))
    seen = read_seen(front_seen(folder), digest_file(front_file(folder)))
    assert read_front_metrics(folder).left_out["of the calibrate or test split"] >= len(rows)
    assert len(seen.prompts) <= 1600
    # The same front, whose record is of the calibrate rows.
    write_seen(front_seen(folder), seen_of(rows), digest_file(front_file(folder)))
    receipt = folder.receipt("distil")
    folder.finish(
        "distil", receipt.settings, receipt.made_from, [folder.root / name for name in receipt.made]
    )
    with pytest.raises(DataError, match=r"the front of the cascade was made from .* of .* rows"):
        calibrate.run(calibrate.Config(goal=GOAL, cascade=True), coconot(), folder)


def test_another_front_puts_the_cascades_policy_out_of_date(made, tmp_path):
    folder = copied(made[0], tmp_path)
    taught(folder, traffic_file(tmp_path / "t.jsonl", texts(900, 8)))
    folder.require_fresh("calibrate")  # the model's own policy does not care
    with pytest.raises(ArtifactError, match=r"it was made from another distil/front.npz"):
        folder.named("both").require_fresh("calibrate")
    with pytest.raises(
        ArtifactError, match=r"is front .* and the policy was calibrated with front"
    ):
        front_of(
            folder, model().fingerprint, read_policy(folder.named("both").policy).fingerprint.front
        )


def test_an_altered_or_missing_front_is_an_error_and_no_model_alone(made, tmp_path):
    folder = copied(made[0], tmp_path)
    digest = digest_file(front_file(folder))
    data = front_file(folder).read_bytes()
    front_file(folder).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"front.npz has changed since it was made"):
        front_of(folder, model().fingerprint, digest)
    front_file(folder).unlink()
    with pytest.raises(ArtifactError, match=r"front.npz is missing"):
        front_of(folder, model().fingerprint, digest)
    (folder.stage("distil") / "made.json").unlink()
    with pytest.raises(ArtifactError, match="demur distil"):
        front_of(folder, model().fingerprint, digest)


def test_a_front_speaks_for_the_model_that_taught_it_alone(made):
    other = replace(model().fingerprint, model_digest="sha256:other")
    with pytest.raises(ArtifactError, match="taught by another model: model_digest differ"):
        front_of(made[0], other)


def test_settings_that_mean_nothing_beside_a_cascade_are_refused():
    with pytest.raises(
        ConfigError, match=r"calibrate.cascade beside calibrator 'correctness-aware'"
    ):
        calibrate.Config(cascade=True, calibrator="correctness-aware")
    with pytest.raises(ConfigError, match=r"on_failure = 'keep:natural'"):
        calibrate.Config(cascade=True, on_failure="keep:natural")
    with pytest.raises(ConfigError, match=r"bound 0.7 is not in \(0, 0.5\)"):
        distil.Config(bound=0.7)


def test_a_cascade_without_a_front_is_an_error(tmp_path):
    folder = prepare(tmp_path / "run", examples(300, 3), model(), calibrate.Config())
    with pytest.raises(ArtifactError, match="distil is not finished"):
        calibrate.run(calibrate.Config(cascade=True), coconot(), folder)


def test_too_little_traffic_and_conversations_teach_no_front(made, tmp_path):
    folder = copied(made[0], tmp_path)
    with pytest.raises(DataError, match="rows of traffic to fit on"):
        taught(folder, traffic_file(tmp_path / "few.jsonl", texts(50, 1)))
    turns = [{"messages": [{"role": "user", "content": t}] * 2} for t in texts(20, 2)]
    path = tmp_path / "turns.jsonl"
    path.write_text("\n".join(map(json.dumps, turns)), encoding="utf-8")
    with pytest.raises(DataError, match="0 usable rows of traffic"):
        taught(folder, path)


def test_scores_of_another_model_teach_no_front(made, tmp_path):
    path = traffic_file(tmp_path / "t.jsonl", texts(300, 7))
    with pytest.raises(PolicyError, match="made for another model"):
        taught(made[0], path, by=model(sharpness=2.0))


def test_policies_of_the_model_alone_keep_their_digests(made, tmp_path):
    folder, _ = made
    own = read_policy(folder.policy)
    write_policy(tmp_path / "policy.json", own)
    assert policy_digest(read_policy(tmp_path / "policy.json")) == policy_digest(own)
    assert "cascade" not in json.dumps(folder.receipt("calibrate").settings)


def test_the_same_traffic_gives_the_same_file(made, tmp_path):
    folder = copied(made[0], tmp_path)
    before = digest_file(front_file(folder))
    taught(folder, traffic_file(tmp_path / "t.jsonl", texts(1600, 7)))
    assert digest_file(front_file(folder)) == before
