"""Promises about slices under watch: only labels that say kind or source speak of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.builders import policy
from tests.fake_run import engine_for, examples, like_traffic, prepare

from demur.base.errors import DataError
from demur.core.goals.goal import Promise
from demur.core.goals.parse import stated_goal
from demur.core.rates import Rate
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.stages import calibrate
from demur.stages.watch import (
    Config,
    begin_watching,
    promise_status,
    run,
    state_path,
    unlabelled_promises,
)
from demur.stages.watch.state import after_labels
from demur.stats.drift.monitor import start_monitor
from demur.store.policies.policy_file import read_policy
from demur.store.results.monitor_file import FeedbackRow, read_feedback
from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores

GOALS = "false_refusal <= 0.3; false_refusal[contrast] <= 0.3; refusal_rate[contrast] <= 0.3"
OVERALL, SLICE, SHARE = (
    "false_refusal",
    "false_refusal[kind=contrast]",
    "refusal_rate[kind=contrast]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = examples()
    promised = calibrate.Config(goal=GOALS, confidence=0.8)
    return prepare(tmp_path_factory.mktemp("run"), rows, engine_for(rows), promised)


@pytest.fixture(scope="module")
def live(folder, tmp_path_factory):
    return like_traffic(folder, tmp_path_factory.mktemp("live") / "live.parquet")


def labels_file(folder, scores, to, *keys, wrong=False):
    """The true labels with some of their traits; wrong: as if nothing had been to be refused, and
    all were contrast.
    """
    by_id = {e.id: e for e in read_examples(folder.split("test"))}
    rows = []
    for i in read_scores(scores)[0].ids:
        e = by_id[i]
        traits = {"kind": "contrast" if wrong else e.kind, "source": e.source}
        label = "respond" if wrong else e.label or "respond"
        rows.append({"id": i, "label": label} | {key: traits[key] for key in keys})
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return to


def said(sight):
    return {w.promise.risk: promise_status(w) for w in sight.watched}


def test_the_run_promises_something_of_a_slice(folder):
    assert [p.risk for p in read_policy(folder.policy).promises if p.status == "certified"] == [
        OVERALL,
        SLICE,
        SHARE,
    ]


def test_without_labels_of_the_slice_its_promise_is_certified_and_not_watched(
    folder, live, tmp_path
):
    labels = labels_file(folder, live, tmp_path / "labels.jsonl")
    for told in (None, labels, labels_file(folder, live, tmp_path / "sources.jsonl", "source")):
        sight = run(
            Config(scores=live, feedback=told, state=tmp_path / f"{told and told.name}.json"),
            folder,
        )
        unwatched = "certified, not watched"
        assert said(sight) == {OVERALL: "supported", SLICE: unwatched, SHARE: unwatched}
        assert sight.supported


def test_labels_that_say_their_kind_audit_the_promise_of_that_kind(folder, live, tmp_path):
    told = labels_file(folder, live, tmp_path / "labels.jsonl", "kind", "source")
    sight = run(Config(scores=live, feedback=told, state=tmp_path / "state.json"), folder)
    assert set(said(sight).values()) == {"supported"}
    contrast = sum(json.loads(line)["kind"] == "contrast" for line in told.read_text().splitlines())
    audits = {a.risk: a.rate for a in sight.monitor.audits}
    assert audits[SLICE].of == audits[SHARE].of == contrast > 0
    assert audits[OVERALL].of > contrast


def test_labels_of_the_slice_can_take_its_promise_away(folder, live, tmp_path):
    wrong = labels_file(folder, live, tmp_path / "labels.jsonl", "kind", wrong=True)
    sight = run(Config(scores=live, feedback=wrong, state=tmp_path / "state.json"), folder)
    assert said(sight)[SLICE] == "no longer supported"
    assert not sight.supported


def test_servers_and_explain_learn_of_the_labels_from_the_state(folder, live, tmp_path):
    policy, state = read_policy(folder.policy), state_path(folder)
    try:
        assert unlabelled_promises(folder) == (SLICE, SHARE)
        assert [w.unlabelled for w in begin_watching([folder], policy).watched("acme")] == [
            False,
            True,
            True,
        ]
        run(
            Config(
                scores=live, feedback=labels_file(folder, live, tmp_path / "labels.jsonl", "kind")
            ),
            folder,
        )
        assert unlabelled_promises(folder) == ()
        assert not any(w.unlabelled for w in begin_watching([folder], policy).watched("acme"))
    finally:
        state.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("label", "kind"),
    [("respond", "refusal"), ("safety", "contrast"), ("safety", "benign"), ("respond", "odd")],
)
def test_a_kind_that_contradicts_its_label_or_is_none_is_an_error(
    folder, live, tmp_path, label, kind
):
    path = tmp_path / "labels.jsonl"
    path.write_text(
        json.dumps({"id": read_scores(live)[0].ids[0], "label": label, "kind": kind}) + "\n"
    )
    with pytest.raises(DataError, match="kind"):
        run(Config(scores=live, feedback=path, state=tmp_path / "state.json"), folder)


def test_labels_say_tenant_and_turn_in_the_words_of_the_data(tmp_path):
    path = tmp_path / "labels.jsonl"
    said = {"source": "support", "tenant": "acme", "language": "de", "turn": "later"}
    path.write_text(json.dumps({"id": "1", "label": "respond", **said}) + "\n")
    assert read_feedback(path, coconot())["1"].traits == said
    path.write_text(json.dumps({"id": "1", "label": "respond", "turn": "latter"}) + "\n")
    with pytest.raises(DataError, match="turn 'latter' is unknown") as e:
        read_feedback(path, coconot())
    assert e.value.hint == "known: first, later"
    path.write_text(json.dumps({"id": "1", "label": "respond", "tenant": ""}) + "\n")
    with pytest.raises(DataError, match="tenant"):
        read_feedback(path, coconot())


@pytest.mark.parametrize(
    ("risk", "counts"),
    [("false_discovery", 2), ("missed_refusal[turn=later]", 1), ("false_refusal[tenant=acme]", 1)],
)
def test_a_label_counts_for_the_promises_that_speak_of_its_request(risk, counts):
    """Rows: refused rightly, refused wrongly, missed; the last two say more of themselves."""
    made = replace(
        policy(2, thresholds=[0.5, 0.5]),
        promises=(
            Promise(
                goal=stated_goal(risk, 0.1),
                confidence=0.95,
                status="certified",
                rate=None,
                data_digest="d",
                method="m",
            ),
        ),
    )
    logp_NC = np.log(np.array([[0.2, 0.7, 0.1], [0.2, 0.1, 0.7], [0.8, 0.1, 0.1]]))
    table = ScoreTable(ids=("a", "b", "c"), logp_NC=logp_NC.astype(np.float32))
    rows = (
        FeedbackRow(id="a", label="safety"),
        FeedbackRow(id="b", label="respond", tenant="acme"),
        FeedbackRow(id="c", label="humanizing", turn="later"),
    )
    before = start_monitor(made, table.logp_NC)
    after, _ = after_labels(before, made, table, {row.id: row for row in rows}, {})
    assert after.audits[0].rate == Rate(hits=1, of=counts)
