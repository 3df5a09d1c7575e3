"""Promises for the mix of unlabelled traffic, on a run of the fake engine."""

from dataclasses import replace

import numpy as np
import pytest
from tests.fake_run import engine_for, examples, prepare

from demur.base.errors import ArtifactError, ConfigError, DataError, PolicyError
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.stages import calibrate, verify
from demur.store.policies.ledger_file import read_ledger
from demur.store.policies.trust import DIGESTS_ONLY
from demur.store.rows import read_examples
from demur.store.scores.tables import Requests, read_requests, read_scores, write_scores

GOAL = {"goal": "false_refusal <= 0.45", "confidence": 0.9, "method": "shared"}
REQUESTS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose rows have a tenant each: those of "big" come twice as often as those of
    "small".
    """
    rows = [
        replace(e, traits=(("tenant", "small" if n % 3 == 0 else "big"),))
        for n, e in enumerate(examples(every=2))
    ]
    engine = engine_for(rows)
    return prepare(tmp_path_factory.mktemp("run"), rows, engine)


def traffic_file(folder, path, small=0.6, *, requests=REQUESTS, traits=None, **changes):
    """Scores of requests, of which so many are of tenant "small"."""
    table, fingerprint = read_scores(folder.scores("test"))
    at_T = np.random.default_rng(3).integers(len(table.ids), size=requests)
    drawn = ScoreTable(ids=tuple(f"live-{n}" for n in range(requests)), logp_NC=table.logp_NC[at_T])
    tenants = tuple("small" if n < small * requests else "big" for n in range(requests))
    said = {"tenant": tenants} if traits is None else traits
    write_scores(path, drawn, replace(fingerprint, **changes), requests=Requests(traits=said))
    return path


def run(folder, **settings):
    return calibrate.run(calibrate.Config(**GOAL | settings), coconot(), folder)


def test_a_promise_holds_for_the_mix_of_traffic_and_is_verified_from_the_run(folder, tmp_path):
    file = traffic_file(folder, tmp_path / "live.parquet")
    promise = run(folder, traffic=file, mix_by="tenant").promises[0]
    assert promise.status == "certified"
    for words in (
        "% tenant big",
        "% tenant small",
        "400 unlabelled requests (sha256:",
        "requests of one tenant to be alike wherever they come from",
        "nothing of those of another tenant: at most 0.75% of such traffic",
    ):
        assert words in promise.method
    assert promise.rows is not None
    file.unlink()  # the run has kept it
    _, (verified,) = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert verified.faults == ()
    assert verified.counted.upper <= promise.level
    # other requests in its place are told
    traffic_file(folder, folder.traffic, 0.1)
    with pytest.raises(ArtifactError, match=r"traffic\.parquet"):
        verify.run(folder.policy, folder, DIGESTS_ONLY)
    # a calibration without it does not leave it behind
    run(folder)
    assert not folder.traffic.exists()


def test_a_promise_for_traffic_is_an_attempt_on_the_rows_and_on_the_traffic(folder, tmp_path):
    before = len(read_ledger(folder.ledger).attempts)
    file = traffic_file(folder, tmp_path / "live.parquet", 0.5)
    promise = run(folder, traffic=file, mix_by="tenant").promises[0]
    ledger = read_ledger(folder.ledger)
    assert len(ledger.attempts) == before + 1
    assert promise.attempts.count == before + 1
    # the very same attempt made again costs nothing
    run(folder, traffic=file, mix_by="tenant")
    assert len(read_ledger(folder.ledger).attempts) == before + 1
    assert len(ledger.marks[ledger.attempts[-1].rows]) > REQUESTS


@pytest.mark.parametrize("by", ["score", "refusal", "label", "turn"])
def test_traffic_is_divided_by_whatever_the_scores_or_requests_say(folder, tmp_path, by):
    file = traffic_file(
        folder, tmp_path / "live.parquet", requests=1500, traits={"turn": ("first",) * 1500}
    )
    # no rate among rows of one label depends on how many there are
    wide = {"goal": "missed_refusal <= 0.95; false_refusal <= 0.95"}
    policy = run(folder, **wide, traffic=file, mix_by=by)
    missed, false = (p.method for p in policy.promises)
    assert ("label shift" in missed) == (by == "label")
    assert ("unlabelled requests" in false) == (by in ("score", "turn"))
    _, found = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert [v.faults for v in found] == [(), ()]


def test_precision_depends_on_the_share_of_refusals_in_traffic(folder, tmp_path):
    file = traffic_file(folder, tmp_path / "live.parquet", requests=3000)
    goal = {"goal": "precision >= 0.3", "method": "auto"}
    promise = run(folder, **goal, traffic=file, mix_by="refusal").promises[0]
    assert promise.status == "certified"
    assert "refusal to be answered" in promise.method
    _, (verified,) = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert verified.faults == ()


HUGE = {"tenant": ("small",) * 390 + ("huge",) * 10}


@pytest.mark.parametrize(
    ("traits", "settings", "refused"),
    [
        ({}, {}, (DataError, r"live\.parquet has no column 'tenant', it says no facet")),
        (HUGE, {}, (DataError, "10 of 400 requests are of tenant 'huge', and no calibrate row is")),
        (None, {"goal": "f1 max"}, (ConfigError, "mix_by beside 'f1 max'")),
        (None, {"mix": {"kind": {"benign": 1.0}}}, (ConfigError, "beside mix")),
        (None, {"method": "anytime"}, (ConfigError, "'anytime' beside mix_by")),
    ],
)
def test_traffic_whose_mix_cannot_be_told_is_one_clear_error(
    folder, tmp_path, traits, settings, refused
):
    file = traffic_file(folder, tmp_path / "live.parquet", traits=traits)
    with pytest.raises(refused[0], match=refused[1]):
        run(folder, **settings, traffic=file, mix_by="tenant")


def test_traffic_of_another_model_of_no_request_or_of_calibrate_rows_is_refused(folder, tmp_path):
    other = traffic_file(folder, tmp_path / "other.parquet", model_digest="sha256:other")
    with pytest.raises(PolicyError, match="made for another model"):
        run(folder, traffic=other, mix_by="tenant")
    empty = traffic_file(folder, tmp_path / "empty.parquet", requests=0, traits={"tenant": ()})
    with pytest.raises(DataError, match=r"empty\.parquet holds no request"):
        run(folder, traffic=empty, mix_by="tenant")
    with pytest.raises(DataError, match="of the calibrate rows, first"):
        run(folder, traffic=folder.scores("calibrate"), mix_by="score")
    table, fingerprint = read_scores(folder.scores("test"))
    none = tmp_path / "none.parquet"
    counts = Requests(counts=(0,) * len(table.ids))
    write_scores(none, table, fingerprint, requests=counts)
    with pytest.raises(DataError, match="has count 0"):
        run(folder, traffic=none, mix_by="score")
    with pytest.raises(ConfigError, match="'score' without traffic"):
        run(folder, mix_by="score")


def test_a_score_file_says_the_facets_of_its_requests(folder, tmp_path):
    path = traffic_file(folder, tmp_path / "live.parquet")
    assert read_requests(path).traits["tenant"].count("small") == 240
    assert read_requests(folder.scores("test")).traits == {}
    assert read_examples(folder.split("calibrate"))[0].traits


def test_a_goal_about_one_slice_of_the_mix_needs_no_mix(folder, tmp_path):
    file = traffic_file(folder, tmp_path / "live.parquet")
    goals = "false_refusal[tenant=small] <= 0.6; false_refusal[tenant=big] <= 0.6"
    policy = run(folder, goal=f"{goals}; false_refusal <= 0.5", traffic=file, mix_by="tenant")
    assert ["unlabelled requests" in p.method for p in policy.promises] == [False, False, True]
