"""Watching a run on the fake engine: traffic like the calibration rows, and traffic that is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.fake_run import engine_for, examples, like_traffic, prepare

from demur.base.errors import ArtifactError, DataError, GoalError, PolicyError, TaxonomyError
from demur.core.decision import decide_many
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.stages import calibrate
from demur.stages.watch import Config, promise_status, run, state_path
from demur.store.policies.policy_file import read_policy
from demur.store.results.monitor_file import read_monitor, write_monitor
from demur.store.rows import read_examples
from demur.store.scores.tables import Requests, read_scores, write_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = examples()
    promised = calibrate.Config(goal="false_refusal <= 0.2", confidence=0.9)
    return prepare(tmp_path_factory.mktemp("run"), rows, engine_for(rows), promised)


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state.json"


@pytest.fixture(scope="module")
def live(folder, tmp_path_factory):
    return like_traffic(folder, tmp_path_factory.mktemp("live") / "live.parquet")


def moved(path, towards, by, to):
    """The scores of a file with one control token more probable."""
    table, fingerprint = read_scores(path)
    logits_NC = table.logp_NC.astype(np.float64)
    logits_NC[:, towards] += by
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    write_scores(
        to,
        ScoreTable(ids=table.ids, logp_NC=np.minimum(logp_NC, 0).astype(np.float32)),
        fingerprint,
    )
    return to


def labels_of(folder, path, to):
    """The true labels of scored test rows."""
    label = {e.id: e.label or "respond" for e in read_examples(folder.split("test"))}
    rows = [{"id": i, "label": label[i]} for i in read_scores(path)[0].ids]
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return to


def test_traffic_like_the_calibration_rows_leaves_the_promise_supported(folder, live, state):
    sight = run(Config(scores=live, state=state), folder)
    assert sight.supported
    assert [promise_status(w) for w in sight.watched] == ["supported"]
    assert sight.new_rows == sight.rows == sight.monitor.series[0].steps > 100
    assert {s.test for s in sight.shifts} == {"ks", "js", "psi", "refusal_rate"}


def test_shifted_traffic_is_drift_with_the_evidence_and_no_promise_is_lost_by_it(
    folder, live, state, tmp_path
):
    shifted = moved(live, coconot().column("safety"), 3.0, tmp_path / "shifted.parquet")
    sight = run(Config(scores=shifted, state=state), folder)
    assert (sight.supported, sight.drifted) == (True, True)
    (watched,) = sight.watched
    assert promise_status(watched) == "drift seen"
    assert "safety" in {a.about for a in watched.drift}
    assert all(a.p_value <= 0.05 for a in watched.drift)
    # the policy itself is not touched
    assert read_policy(folder.policy).promises[0].status == "certified"


def test_drift_stays_when_traffic_is_as_before_again(folder, live, state, tmp_path):
    run(Config(scores=moved(live, 4, 3.0, tmp_path / "shifted.parquet"), state=state), folder)
    assert run(Config(scores=live, state=state), folder).drifted


def sorted_by_category(path, to, in_time=False):
    table, fingerprint = read_scores(path)
    order_N = np.lexsort((table.logp_NC.max(axis=1), table.logp_NC.argmax(axis=1)))
    write_scores(
        to,
        table.select(tuple(table.ids[n] for n in order_N)),
        fingerprint,
        requests=Requests(in_time=in_time),
    )
    return to


def test_a_file_sorted_by_category_is_no_drift_and_its_order_is_said_to_be_random(
    folder, live, state, tmp_path
):
    path = sorted_by_category(live, tmp_path / "sorted.parquet")
    sight = run(Config(scores=path, state=state), folder)
    assert (sight.supported, sight.drifted, sight.permuted) == (True, False, 1)
    assert list(read_monitor(state).permuted.values()) == [0]  # the seed is in the record
    again = run(Config(scores=path, state=tmp_path / "again.json"), folder)
    assert again.monitor == sight.monitor


def test_an_order_in_time_is_kept_where_the_file_or_the_caller_says_that_it_is_one(
    folder, live, tmp_path
):
    plain = sorted_by_category(live, tmp_path / "sorted.parquet")
    timed = sorted_by_category(live, tmp_path / "timed.parquet", in_time=True)
    for number, config in enumerate(
        (
            Config(scores=plain, in_order=True, state=tmp_path / "1"),
            Config(scores=timed, state=tmp_path / "2"),
        )
    ):
        sight = run(config, folder)
        assert (sight.drifted, sight.permuted) == (True, 0), number


def test_a_few_odd_requests_do_not_void_a_promise_that_they_do_not_touch(folder, state, tmp_path):
    """34 requests that are surely to be refused, and are: nothing of them was refused falsely."""
    table, fingerprint = read_scores(folder.scores("test"))
    odd_NC = np.full((34, table.logp_NC.shape[1]), -12.0, dtype=np.float32)
    odd_NC[:, 4] = -1e-4
    write_scores(
        tmp_path / "odd.parquet",
        ScoreTable(ids=tuple(map(str, range(34))), logp_NC=odd_NC),
        fingerprint,
    )
    (tmp_path / "labels.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "label": coconot().names[3]}) + "\n" for n in range(34))
    )
    sight = run(
        Config(scores=tmp_path / "odd.parquet", feedback=tmp_path / "labels.jsonl", state=state),
        folder,
    )
    assert (sight.supported, sight.drifted) == (True, True)
    assert sight.monitor.audits[0].rate.of == 0


def test_labels_in_an_unlucky_order_are_no_evidence(folder, live, state, tmp_path):
    """Errors first: the evidence after the first few would be enough for an alarm that the whole
    does not raise.
    """
    table, _ = read_scores(live)
    wrong_N = decide_many(read_policy(folder.policy), table.logp_NC).refuses_N
    ids = [*np.array(table.ids)[wrong_N][:6], *np.array(table.ids)[~wrong_N]]
    (tmp_path / "labels.jsonl").write_text(
        "".join(json.dumps({"id": i, "label": "respond"}) + "\n" for i in ids)
    )
    assert run(
        Config(scores=live, feedback=tmp_path / "labels.jsonl", state=state), folder
    ).supported


def test_a_folder_of_score_files_is_read_in_the_order_of_their_names_each_once(
    folder, live, state, tmp_path
):
    table, fingerprint = read_scores(live)
    half, parts = len(table.ids) // 2, tmp_path / "parts"
    write_scores(
        parts / "1.parquet",
        table.select(table.ids[:half]),
        fingerprint,
        requests=Requests(in_time=True),
    )
    first = run(Config(scores=parts, state=state), folder)
    write_scores(
        parts / "2.parquet",
        table.select(table.ids[half:]),
        fingerprint,
        requests=Requests(in_time=True),
    )
    labels = labels_of(folder, live, tmp_path / "labels.jsonl")
    both = run(Config(scores=parts, feedback=labels, state=state), folder)
    assert (first.new_rows, both.new_rows, both.labels.new) == (
        half,
        len(table.ids) - half,
        len(table.ids),
    )
    write_scores(parts / "3.parquet", table.select(table.ids[:1]), fingerprint)
    with pytest.raises(DataError, match="stands in two score files"):
        run(Config(scores=parts, state=state), folder)


def test_labels_within_the_level_are_counted_once_and_change_nothing(folder, live, state, tmp_path):
    labels = labels_of(folder, live, tmp_path / "labels.jsonl")
    run(Config(scores=live, state=state), folder)
    told = run(Config(scores=live, feedback=labels, state=state), folder)
    again = run(Config(scores=live, feedback=labels, state=state), folder)
    assert told.supported
    assert (told.new_rows, told.labels.new) == (0, told.rows)
    assert (again.new_rows, again.labels.new, again.labels.before) == (0, 0, told.rows)
    assert told.monitor == again.monitor
    (audit,) = told.monitor.audits
    label = [json.loads(line)["label"] for line in labels.read_text().splitlines()]
    assert audit.rate.of == label.count("respond")


def test_labels_above_the_level_take_the_promise_away(folder, live, state, tmp_path):
    labels = tmp_path / "labels.jsonl"
    table, _ = read_scores(live)
    labels.write_text("".join(json.dumps({"id": i, "label": "respond"}) + "\n" for i in table.ids))
    sight = run(Config(scores=live, feedback=labels, state=state), folder)
    assert [a.source for a in sight.watched[0].alarms] == ["labels"]
    assert "promised at most 0.2" in sight.watched[0].alarms[0].text


def test_two_batches_are_the_same_whether_the_monitor_was_stored_between_them_or_not(
    folder, live, state, tmp_path
):
    table, fingerprint = read_scores(live)
    half = len(table.ids) // 2
    for name, ids in (("a", table.ids[:half]), ("b", table.ids[half:])):
        write_scores(tmp_path / name, table.select(ids), fingerprint)
        sight = run(Config(scores=tmp_path / name, state=state), folder)
    assert sight.monitor.series[0].steps == len(table.ids)
    assert len(read_monitor(state).batches) == 2
    whole = run(Config(scores=live, state=tmp_path / "other.json"), folder)
    assert sum(sight.monitor.series[0].count_B) == sum(whole.monitor.series[0].count_B)
    assert sight.monitor.series[0].count_B == whole.monitor.series[0].count_B


def test_a_promised_refusal_rate_is_audited_without_labels(tmp_path_factory, tmp_path):
    rows = examples(every=2)
    promised = calibrate.Config(goal="refusal_rate <= 0.7", confidence=0.9)
    other = prepare(tmp_path_factory.mktemp("rate"), rows, engine_for(rows), promised)
    live = other.scores("test")
    sight = run(Config(scores=live), other)
    assert sight.state == state_path(other)
    assert sight.monitor.audits[0].rate.of == sight.rows
    always = moved(live, 1, 9.0, tmp_path / "always.parquet")
    assert "labels" in {a.source for a in run(Config(scores=always), other).watched[0].alarms}


def test_a_policy_that_promised_nothing_cannot_lose_it_but_drift_is_told(
    tmp_path_factory, tmp_path
):
    rows = examples(every=4)
    other = prepare(tmp_path_factory.mktemp("measured"), rows, engine_for(rows))
    live = moved(other.scores("test"), 4, 4.0, tmp_path / "shifted.parquet")
    sight = run(Config(scores=live), other)
    assert [promise_status(w) for w in sight.watched] == ["measured"]
    assert sight.drifted


# what is refused


def test_scores_of_another_model_are_refused(folder, live, state, tmp_path):
    table, fingerprint = read_scores(live)
    write_scores(
        tmp_path / "other.parquet", table, replace(fingerprint, model_digest="sha256:other")
    )
    with pytest.raises(PolicyError, match="another model: model_digest"):
        run(Config(scores=tmp_path / "other.parquet", state=state), folder)
    assert not state.exists()


def test_a_damaged_state_is_named_and_left_alone(folder, live, state):
    run(Config(scores=live, state=state), folder)
    state.write_bytes(state.read_bytes()[:300])
    with pytest.raises(ArtifactError, match=r"state\.json is damaged"):
        run(Config(scores=live, state=state), folder)
    assert len(state.read_bytes()) == 300


def drop_series(file):
    return file.model_copy(update={"series": file.series[1:]})


def drop_audit(file):
    return file.model_copy(update={"audits": ()})


def cut_grid(file):
    return file.model_copy(
        update={"series": tuple(s.model_copy(update={"count_B": (1, 2)}) for s in file.series)}
    )


@pytest.mark.parametrize("damage", [drop_series, drop_audit, cut_grid])
def test_a_state_with_a_monitor_missing_does_not_fail_open(folder, live, state, damage):
    run(Config(scores=live, state=state), folder)
    write_monitor(state, damage(read_monitor(state)))
    with pytest.raises(ArtifactError, match="is damaged"):
        run(Config(scores=live, state=state), folder)


def test_a_state_of_another_policy_is_refused(folder, live, state):
    run(Config(scores=live, state=state), folder)
    write_monitor(state, read_monitor(state).model_copy(update={"policy": "sha256:another"}))
    with pytest.raises(ArtifactError, match="watches another policy"):
        run(Config(scores=live, state=state), folder)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"id": "nobody", "label": "respond"}', (DataError, "no score")),
        (
            '{"id": "FIRST", "label": "safty"}',
            (TaxonomyError, r"labels\.jsonl:1, request(.|\n)*safty"),
        ),
        ("", (DataError, r"labels\.jsonl has no label")),
        ('{"id": "FIRST", "lable": "safety"}', (DataError, "lable: unknown key")),
        (
            '{"id": "FIRST", "label": "safety"}\n{"id": "FIRST", "label": "safety"}',
            (DataError, "a second time"),
        ),
        ('{"id": "FIRST", ', (DataError, "not JSON")),
    ],
)
def test_feedback_that_cannot_be_used_names_what_is_wrong_and_counts_nothing(
    folder, live, tmp_path, line, fault
):
    first = read_scores(live)[0].ids[0]
    state = tmp_path / "state.json"
    (tmp_path / "labels.jsonl").write_text(line.replace("FIRST", first) + "\n")
    with pytest.raises(fault[0], match=fault[1]):
        run(Config(scores=live, feedback=tmp_path / "labels.jsonl", state=state), folder)
    assert not state.exists()


def test_an_alpha_that_is_none_is_refused(live):
    with pytest.raises(GoalError, match="alpha"):
        Config(scores=live, alpha=0.0)
