"""Answers followed by the score stage, and promises about their stops, on a run of the fake
engine.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.fake_run import engine_for, examples, prepare
from tests.watching import WatchingEngine

from demur.base.errors import ConfigError, EngineError, GoalError, GoalInfeasible
from demur.cli.evaluation import print_evaluation
from demur.core.decision import decide_many
from demur.core.midway.followed import stopped
from demur.core.midway.monitor import AnswerSampling, first_stop
from demur.core.settings import AnswerSettings, MonitorSettings
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.judges.phrases import PhraseJudge
from demur.stages import calibrate, evaluate, report, score, verify
from demur.store.policies.policy_file import read_policy
from demur.store.policies.trust import DIGESTS_ONLY
from demur.store.results.metrics_file import read_metrics
from demur.store.rows import read_examples
from demur.store.scores.answer_peaks import answers_path, read_answers
from demur.store.scores.tables import read_scores

ANSWERS = AnswerSettings(most_tokens=32, temperature=0.0, traces=True)
BOTH = "false_refusal <= 0.2; false_stop <= 0.1; missed_stop[safety] <= 0.5"


class Deaf:
    """A scorer of first positions alone."""

    def __init__(self, engine):
        self.fingerprint, self.logp = engine.fingerprint, engine.logp


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    rows = examples(every=2)
    engine = engine_for(rows, WatchingEngine)
    folder = prepare(tmp_path_factory.mktemp("run"), rows, engine)
    score.run(score.Config(answers=ANSWERS), engine, folder)
    return folder, engine


@pytest.fixture(scope="module")
def folder(made):
    return made[0]


def run(folder, **settings):
    return calibrate.run(calibrate.Config(confidence=0.9, **settings), coconot(), folder)


def test_a_policy_gets_a_monitor_whose_promises_hold_beside_those_of_first_decisions(folder):
    policy = run(folder, goal=BOTH)
    assert [(p.risk, p.status) for p in policy.promises] == [
        ("false_refusal", "certified"),
        ("false_stop", "certified"),
        ("missed_stop[safety]", "certified"),
    ]
    assert {p.confidence for p in policy.promises} == {0.9}
    assert all("at delta 0.05" in p.method for p in policy.promises)
    assert "at most 32 tokens, greedy" in policy.promises[1].method
    assert policy.monitor.answers == AnswerSampling(most_tokens=32, temperature=0.0)
    thresholds = dict(zip(coconot().names, policy.monitor.thresholds, strict=True))
    assert thresholds.pop("safety") < 1.0
    assert set(thresholds.values()) == {NEVER}
    assert read_policy(folder.policy) == policy


def test_what_is_promised_is_what_the_monitor_does_to_the_traces(folder):
    policy = run(folder, goal=BOTH)
    answers = read_answers(answers_path(folder, "calibrate")).answers
    label_of = {e.id: e.label for e in read_examples(folder.split("calibrate"))}
    stops = {a.scored.id: first_stop(policy.monitor, a.trace_TC) for a in answers}
    assert all(a.scored.stop(policy.monitor) == stops[a.scored.id] for a in answers)
    answered = [stops[i] is not None for i, label in label_of.items() if label is None]
    assert (sum(answered), len(answered)) == (policy.promises[1].rate.hits, len(answered))
    missed = [stops[i] is None for i, label in label_of.items() if label == "safety"]
    assert (sum(missed), len(missed)) == (
        policy.promises[2].rate.hits,
        policy.promises[2].rate.of,
    )


def test_each_request_of_a_frequent_prompt_gets_an_answer_where_these_are_drawn(tmp_path):
    rows = list(examples(every=4))
    n = next(n for n, e in enumerate(rows) if e.kind == "benign")
    rows[n] = often = replace(rows[n], split="calibrate", group=None, count=40)
    engine = engine_for(rows)
    folder = prepare(tmp_path / "run", rows, engine)
    score.run(score.Config(answers=replace(ANSWERS, temperature=0.7)), engine, folder)
    calibrated = read_examples(folder.split("calibrate"))
    found = read_answers(answers_path(folder, "calibrate")).answers
    assert len(found) == sum(e.count for e in calibrated)
    own = [a.scored for a in found if a.scored.id == often.id]
    assert len(own) == 40
    assert len({answer.high for answer in own}) == 40
    # test rows have one each
    tested = read_answers(answers_path(folder, "test")).answers
    assert len(tested) == len(read_examples(folder.split("test")))
    policy = run(folder, goal="f1 max; false_stop <= 0.2")
    promise = next(p for p in policy.promises if p.risk == "false_stop")
    assert promise.rate.of == sum(e.count for e in calibrated if e.label is None)
    _, verified = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert not any(v.faults for v in verified)
    # greedily a prompt has one answer, however often it is asked
    score.run(score.Config(answers=ANSWERS), engine, folder)
    assert len(read_answers(answers_path(folder, "calibrate")).answers) == len(calibrated)


def test_promises_about_stops_are_verified_from_the_run(folder):
    policy = run(folder, goal=BOTH)
    _, found = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert [v.faults for v in found] == [()] * 3
    value = json.loads(folder.policy.read_text())
    value["monitor"]["thresholds"]["safety"] = 0.9
    folder.policy.write_text(json.dumps(value))
    _, found = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert all(v.faults for v in found[1:])
    assert policy.monitor != read_policy(folder.policy).monitor


def test_only_stops_promised_have_all_of_delta(folder):
    policy = run(folder, goal="f1 max; false_stop <= 0.1")
    assert [p.status for p in policy.promises] == ["measured", "certified"]
    assert "as much for the other position" not in policy.promises[1].method
    assert run(folder, goal="natural; false_stop <= 0.1").rule == "natural"


def test_what_cannot_be_promised_says_how_many_answers_would_do(folder):
    with pytest.raises(GoalInfeasible) as e:
        run(folder, goal="false_stop <= 0.0001")
    assert "false_stop <= 0.0001" in e.value.message
    assert "rows to be answered (" in e.value.hint
    kept = run(folder, goal="false_stop <= 0.0001", on_failure="keep:natural")
    assert kept.monitor is None
    assert kept.promises[-1].status == "uncertified"


def test_goals_about_stops_need_followed_answers_written_as_they_are_served(made, tmp_path):
    folder, _ = made
    served = AnswerSampling(most_tokens=48, temperature=0.0)
    with pytest.raises(ConfigError, match="at most 32 tokens, greedy"):
        run(folder, goal=BOTH, monitor=MonitorSettings(served=served))
    shorter = replace(served, most_tokens=20)
    assert run(folder, goal=BOTH, monitor=MonitorSettings(served=shorter, held_back=4))
    rows = examples(every=20)
    plain = prepare(tmp_path, rows, engine_for(rows))
    with pytest.raises(ConfigError, match="followed none") as e:
        run(plain, goal="false_stop <= 0.1")
    assert "--answers 256" in e.value.hint
    with pytest.raises(EngineError, match="does not follow"):
        score.run(score.Config(answers=ANSWERS), Deaf(engine_for(rows)), plain)


def test_answers_that_were_followed_are_not_written_again(made, monkeypatch):
    folder, engine = made
    before = answers_path(folder, "calibrate").read_bytes()

    def fail(*_):
        raise AssertionError("an answer was written again")

    monkeypatch.setattr(WatchingEngine, "watched", fail)
    score.run(score.Config(answers=ANSWERS), engine, folder)
    assert answers_path(folder, "calibrate").read_bytes() == before


def test_categories_that_may_stop_are_chosen_and_share_a_threshold(folder):
    two = MonitorSettings(categories=("safety", "humanizing"))
    policy = run(folder, goal="false_stop <= 0.1", monitor=two)
    assert sum(t != NEVER for t in policy.monitor.thresholds) == 2
    assert len(set(policy.monitor.thresholds)) == 2
    with pytest.raises(GoalError, match="one threshold"):
        run(folder, goal="false_stop[safety] <= 0.1", monitor=two)
    with pytest.raises(ConfigError, match="inactive"):
        run(folder, goal="false_stop <= 0.1", monitor=two, inactive=("safety",))


def test_an_answer_without_a_token_is_counted_and_never_stopped(tmp_path):
    rows = examples(every=4)
    engine = replace(engine_for(rows, WatchingEngine), empty=0.5)
    folder = prepare(tmp_path, rows, engine)
    score.run(score.Config(answers=ANSWERS), engine, folder)
    peaks = read_answers(answers_path(folder, "calibrate")).peaks
    assert (peaks.tokens_N == 0).any()
    policy = run(folder, goal="false_stop <= 0.2")
    answerable = [e for e in read_examples(folder.split("calibrate")) if e.label is None]
    assert policy.promises[0].rate.of == len(answerable)
    with pytest.raises(GoalInfeasible):  # half of them are missed at every threshold
        run(folder, goal="missed_stop[safety] <= 0.3")
    assert not stopped(policy.monitor, peaks)[peaks.tokens_N == 0].any()


def test_a_cusum_is_calibrated_likewise(tmp_path):
    rows = examples(every=4)
    engine = engine_for(rows, WatchingEngine)
    folder = prepare(tmp_path, rows, engine)
    cusum = replace(ANSWERS, statistic="cusum", reference=0.001)
    score.run(score.Config(answers=cusum), engine, folder)
    policy = run(folder, goal="false_stop <= 0.2")
    assert policy.monitor.statistic == "cusum"
    answers = read_answers(answers_path(folder, "calibrate")).answers
    stops = [first_stop(policy.monitor, a.trace_TC) for a in answers]
    assert [a.scored.stop(policy.monitor) for a in answers] == stops
    label_of = {e.id: e.label for e in read_examples(folder.split("calibrate"))}
    false = sum(
        s is not None and label_of[a.scored.id] is None for a, s in zip(answers, stops, strict=True)
    )
    assert false == policy.promises[0].rate.hits


@pytest.fixture(scope="module")
def evaluated(made):
    """The run with its policy, its evaluation, and the stops of the test answers by traces."""
    folder, engine = made
    policy = run(folder, goal=BOTH)
    also = ("false_stop <= 0.2",)
    evaluation = evaluate.run(evaluate.Config(also=also), engine, PhraseJudge(), folder)
    answers = read_answers(answers_path(folder, "test")).answers
    stops = {a.scored.id: first_stop(policy.monitor, a.trace_TC) for a in answers}
    return folder, policy, evaluation, stops


def test_metrics_say_what_became_of_requests(evaluated):
    folder, policy, evaluation, stops = evaluated
    rows = read_examples(folder.split("test"))
    table, _ = read_scores(folder.scores("test"))
    logp_NC = table.select(tuple(e.id for e in rows)).logp_NC
    refused = dict(zip((e.id for e in rows), decide_many(policy, logp_NC).refuses_N, strict=True))
    found = evaluation.policies[1].stops
    for label in (None, "safety"):
        ids = [e.id for e in rows if e.label == label]
        fates = found.fates[label or "respond"]
        at_once = sum(bool(refused[i]) for i in ids)
        midway = sum(not refused[i] and stops[i] is not None for i in ids)
        assert (fates.at_once.hits, fates.midway.hits) == (at_once, midway)
        assert fates.answered.hits == len(ids) - at_once - midway
        assert fates.deferred is None
    benign = [e for e in rows if e.label is None]
    false = [e for e in benign if stops[e.id] is not None]
    assert (found.false_stop.hits, found.false_stop.of) == (len(false), len(benign))
    for by in (found.false_by_length, found.false_by_kind, found.false_by_subcategory):
        assert sum(rate.hits for rate in by.values()) == len(false)
    assert sum(rate.of for rate in found.false_by_length.values()) == len(benign)
    assert sum(found.positions["respond"].values()) == len(false)
    missed = [stops[e.id] is None for e in rows if e.label == "safety"]
    assert found.missed_by_category["safety"].hits == sum(missed)
    caught = [stops[e.id] for e in rows if e.label is not None and stops[e.id] is not None]
    leaked = [max(stop.position - policy.monitor.held_back, 0) for stop in caught]
    assert (found.leaked.most, found.leaked.median) == (max(leaked), np.median(leaked))
    # minimal pairs and links are units: fewer than rows, and the intervals are wider for it
    assert found.missed_stop.units < found.missed_stop.of
    assert read_metrics(folder.metrics) == evaluation


def test_the_natural_policy_stops_nothing_and_another_goal_about_stops_is_compared(evaluated):
    natural, _, other = evaluated[2].policies
    assert natural.stops is None
    assert other.goal == "false_stop <= 0.2"
    assert other.stops.false_stop.hits >= evaluated[2].policies[1].stops.false_stop.hits
    assert evaluated[2].unmet == ()


def test_the_terminal_says_what_became_of_requests(evaluated, capsys):
    print_evaluation(evaluated[2])
    told = capsys.readouterr()
    assert "answered to the end" in told.out
    assert "all to be refused" in told.out
    assert "16 to 31 tokens" in told.out
    assert "nine of ten" in told.err


def test_answers_that_were_followed_anew_are_measured_anew(evaluated):
    folder, *_ = evaluated
    made_from = folder.require("evaluate").made_from
    assert "score/test-answers.parquet" in made_from


def test_the_report_says_what_was_stopped_where_and_what_leaked(evaluated):
    folder, *_ = evaluated
    page = report.run(report.Config(), folder).with_name("report.md").read_text()
    assert "Stopped midway" in page
    assert "Refused at once, stopped midway, answered" in page
    assert "False stops by kind and subcategory" in page
    assert "False against missed stops" in page
    assert evaluate.contradictions(folder) == ()


def test_a_killed_run_goes_on_with_the_answers_that_it_has(tmp_path, monkeypatch):
    rows = examples(every=4)
    engine = engine_for(rows, WatchingEngine)
    folder = prepare(tmp_path, rows, engine)
    asked, whole = [], WatchingEngine.watched

    def dies(self, prompts, *more):
        asked.append(len(prompts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return whole(self, prompts, *more)

    monkeypatch.setattr(WatchingEngine, "watched", dies)
    with pytest.raises(KeyboardInterrupt):
        score.run(score.Config(answers=ANSWERS), engine, folder)
    score.run(score.Config(answers=ANSWERS), engine, folder)
    total = sum(len(read_examples(folder.split(s))) for s in ("calibrate", "test"))
    assert sum(asked) == total + asked[1]  # the part that was cut off, once more
    assert not (folder.stage("score") / "parts").exists()


def test_both_sides_say_that_they_have_half_of_delta(folder):
    with pytest.raises(GoalInfeasible) as e:
        run(folder, goal="false_refusal <= 0.2; missed_stop[safety] <= 0.001")
    assert "half of delta each" in e.value.hint
