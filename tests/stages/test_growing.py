"""A run whose labels grow: data, score and calibrate again under "anytime", until a promise is
granted. All looks are one attempt, and what is granted follows from the run.
"""

from dataclasses import replace

import pytest
from tests.fake_run import Rows, engine_for, examples, prepare

from demur.base.errors import DataError, GoalInfeasible
from demur.core.taxonomy import coconot
from demur.stages import calibrate, data, score, verify
from demur.store.policies.policy_file import read_policy
from demur.store.policies.trust import DIGESTS_ONLY
from demur.store.rows import read_examples

LATER = calibrate.Config(goal="missed_refusal <= 0.03", confidence=0.9, method="anytime", seed=4)


@pytest.fixture(scope="module")
def everything():
    """(rows of the first look, rows that are labelled later, for calibration)."""
    rows, kept = examples(every=2), {e.id for e in examples(every=8)}
    first = [e for e in rows if e.id in kept]
    return first, [replace(e, split="calibrate") for e in rows if e.id not in kept]


@pytest.fixture
def grown(everything, tmp_path):
    """(folder, look at these rows): a trained run of the first rows."""
    first, later = everything
    engine = engine_for([*first, *later], sharpness=3.0)
    folder = prepare(tmp_path / "run", tuple(first), engine)

    def look(rows, config=LATER):
        data.run(data.Config(), coconot(), {"rows": Rows(tuple(rows))}, folder)
        score.run(score.Config(), engine, folder)
        return calibrate.run(config, coconot(), folder)

    return folder, look


def looked(look, rows):
    """The policy of a look, or None where no promise is granted."""
    try:
        return look(rows)
    except GoalInfeasible:
        return None


def test_labels_are_added_until_the_promise_is_granted_as_one_attempt(everything, grown):
    (first, later), (folder, look) = everything, grown
    model = folder.receipt("train")
    steps = [later[: n * len(later) // 6] for n in range(7)]
    found = [looked(look, [*first, *more]) for more in steps]
    assert found[0] is None
    granted = next(n for n, policy in enumerate(found) if policy is not None)
    assert all(found[granted:])
    (promise,) = found[-1].promises
    assert promise.status == "certified"
    assert (promise.attempts.count, promise.attempts.confidence) == (1, 0.9)
    assert promise.rate.of > found[granted].promises[0].rate.of
    assert folder.receipt("train") == model
    # a reader of the file finds the same, and the run bears it out
    assert read_policy(folder.policy).promises == found[-1].promises
    _, verified = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert [v.faults for v in verified] == [()]


def test_only_rows_that_the_model_has_not_seen_are_added_and_none_leaves(everything, grown):
    (first, later), (folder, look) = everything, grown
    before = [folder.split(s).read_bytes() for s in ("train", "calibrate", "test")]
    learnt = replace(read_examples(folder.split("train"))[0], id="again", split="calibrate")
    held = read_examples(folder.split("calibrate"))[0]
    for rows in (
        [*first, replace(learnt, group=None)],  # trained on
        [*first, *(replace(e, split=None) for e in later)],  # some of them to train on
        [e for e in first if e.text != held.text],  # one is gone
    ):
        with pytest.raises(DataError, match="would change under it") as e:
            look(rows)
        assert "give the new ones the split" in e.value.hint
    assert [folder.split(s).read_bytes() for s in ("train", "calibrate", "test")] == before
