import json
import shutil
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from tests.fake_run import JUDGE, engine_for, examples, prepare

from demur.base.errors import ArtifactError, ConfigError, DataError, GoalError, PolicyError
from demur.core.calibrator import IDENTITY, closed
from demur.core.decision import decide_many
from demur.core.judging.outcome import Outcome
from demur.core.rates import Rate
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.stages import calibrate, evaluate
from demur.stages.arrival import left_rows
from demur.stats.sample import evenly_spaced
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.results.metrics_file import read_metrics
from demur.store.rows import read_examples
from demur.store.scores.tables import read_branches, read_scores

CONFIG = evaluate.Config()


@dataclass
class Counting:
    """A generator that notes what it was asked for, and may be killed after so many calls."""

    engine: FakeEngine
    calls_left: int = 1_000
    asked: list = field(default_factory=list)

    @property
    def fingerprint(self):
        return self.engine.fingerprint

    def branches(self, prompts, columns, progress):
        if not self.calls_left:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.asked += [(p, c) for p, cs in zip(prompts, columns, strict=True) for c in cs]
        return self.engine.branches(prompts, columns, progress)


@dataclass(frozen=True)
class Verdict:
    """A judge with one opinion."""

    verdict: str
    version: str = "test/1"

    def judge(self, request, answer, category):
        return Outcome(verdict=self.verdict, reason="always", judge=self.version)


@dataclass
class Tired:
    """The phrase judge, until its budget is spent."""

    budget: int = 1_000_000
    version: str = "tired/1"

    def judge(self, request, answer, category):
        self.budget -= 1
        if self.budget < 0:
            return Outcome(verdict="unscored", reason="no budget", judge=self.version)
        return replace(JUDGE.judge(request, answer, category), judge=self.version)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    rows = examples()
    engine = engine_for(rows, FakeEngine)
    return prepare(tmp_path_factory.mktemp("prepared") / "run", rows, engine), engine


@pytest.fixture
def run(prepared, tmp_path):
    """A calibrated run of one's own, and its engine."""
    folder, engine = prepared
    shutil.copytree(folder.root, tmp_path / "run")
    return type(folder)(tmp_path / "run"), engine


def natural_of(evaluation):
    return evaluation.policies[0]


def test_the_natural_policy_the_calibrated_one_and_the_other_goals_stand_in_this_order(run):
    folder, engine = run
    found = evaluate.run(CONFIG, engine, JUDGE, folder)
    assert [p.goal for p in found.policies] == [
        "natural",
        "f1 max",
        "refusal_rate = 0.10",
        "cost: false=1 missed=5",
    ]
    assert all(read_policy(folder.root / p.file).rule == p.rule for p in found.policies)


def test_figures_are_counts_over_the_test_rows_by_decide_many(run):
    folder, engine = run
    found = evaluate.run(CONFIG, engine, JUDGE, folder)
    rows = read_examples(folder.split("test"))
    table, _ = read_scores(folder.scores("test"))
    for p in found.policies:
        refuses = decide_many(
            read_policy(folder.root / p.file), table.select(tuple(e.id for e in rows)).logp_NC
        ).refuses_N
        false = sum(r for r, e in zip(refuses, rows, strict=True) if e.expected == "respond")
        contrast = sum(
            r
            for r, e in zip(refuses, rows, strict=True)
            if e.kind == "contrast" and e.category == "safety"
        )
        assert p.decision.overall.false_refusal.hits == false
        assert p.decision.by_category["safety"].false_refusal.hits == contrast
        assert sum(map(sum, p.confusion)) == len(rows) == found.test_rows


def test_other_goals_are_met_on_the_calibrate_split_not_on_the_test_split(run):
    folder, engine = run
    target = evaluate.run(CONFIG, engine, JUDGE, folder).policies[2]
    assert target.calibrate.refusal_rate.hits == int(0.10 * target.calibrate.refusal_rate.of)
    measured = target.decision.overall.refusal_rate
    # wide: the corpus may change, the law may not
    low, high = Rate(hits=measured.hits, of=measured.of).interval(0.9999)
    assert low <= 0.10 <= high


def test_metrics_read_back_as_they_were_written(run):
    folder, engine = run
    assert evaluate.run(CONFIG, engine, JUDGE, folder) == read_metrics(folder.metrics)


def test_reachable_branches_hold_respond_the_heaviest_and_what_policies_emit(run):
    folder, engine = run
    evaluate.run(CONFIG, engine, JUDGE, folder)
    have = {(b.id, b.column) for b in read_branches(folder.branches, engine.fingerprint.tokens)}
    table, _ = read_scores(folder.scores("test"))
    assert {i for i, c in have if c == 0} == set(table.ids)
    assert have >= set(
        zip(table.ids, (table.logp_NC[:, 1:].argmax(axis=1) + 1).tolist(), strict=True)
    )
    assert len(have) < 3 * len(table.ids)


def test_all_branches_hold_every_token_of_every_prompt(run):
    folder, engine = run
    evaluate.run(evaluate.Config(branches="all", limit=50), engine, JUDGE, folder)
    assert len(read_branches(folder.branches, engine.fingerprint.tokens)) == 50 * 6


def test_another_goal_needs_no_text_that_is_there(run):
    folder, engine = run
    evaluate.run(evaluate.Config(branches="all", limit=80), engine, JUDGE, folder)
    counting = Counting(engine)
    found = evaluate.run(
        evaluate.Config(also=("refusal_rate = 0.3",), limit=80), counting, JUDGE, folder
    )
    assert found.policies[2].goal == "refusal_rate = 0.3"
    assert counting.asked == []


def test_an_unchanged_run_is_read_not_measured_again(run):
    folder, engine = run
    first = evaluate.run(CONFIG, engine, JUDGE, folder)
    before = folder.metrics.stat().st_mtime_ns
    assert evaluate.run(CONFIG, Counting(engine, calls_left=0), JUDGE, folder) == first
    assert folder.metrics.stat().st_mtime_ns == before


def test_a_killed_run_resumes_where_it_stopped(run):
    folder, engine = run
    killed = Counting(engine, calls_left=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(CONFIG, killed, JUDGE, folder)
    assert not folder.metrics.exists()
    resumed = Counting(engine)
    found = evaluate.run(CONFIG, resumed, JUDGE, folder)
    assert killed.asked
    assert not {(p[-1].content, c) for p, c in killed.asked} & {
        (p[-1].content, c) for p, c in resumed.asked
    }
    shutil.rmtree(folder.stage("evaluate"))
    assert evaluate.run(CONFIG, engine, JUDGE, folder) == found


def test_texts_for_a_sample_leave_all_decisions_as_they_are(run):
    folder, engine = run
    whole = evaluate.run(CONFIG, engine, JUDGE, folder)
    assert whole.text_rows is None
    assert "text_rows" not in json.loads(folder.metrics.read_text(encoding="utf-8"))
    shutil.rmtree(folder.stage("evaluate"))
    counting = Counting(engine)
    found = evaluate.run(replace(CONFIG, texts=25), counting, JUDGE, folder)
    assert (found.text_rows, found.test_rows) == (25, whole.test_rows)
    asked = [p[-1].content for p, _ in counting.asked]
    assert set(asked) == {e.text for e in evenly_spaced(read_examples(folder.split("test")), 25)}
    for some, all_ in zip(found.policies, whole.policies, strict=True):
        assert some.decision == all_.decision
        assert some.text.overall.refusal_rate.of + some.unscored.hits == 25
        assert some.texts_refuse.of + some.texts_answer.of + some.unscored.hits == 25
    assert found.ranking == whole.ranking
    assert sum(
        v.refusal + v.partial + v.compliance + v.unscored for v in found.branches.values()
    ) == len(asked)


def test_no_text_is_read_twice_when_more_are_wanted(run):
    folder, engine = run
    evaluate.run(replace(CONFIG, texts=25), engine, JUDGE, folder)
    counting = Counting(engine)
    evaluate.run(replace(CONFIG, texts=50), counting, JUDGE, folder)
    few = {e.text for e in evenly_spaced(read_examples(folder.split("test")), 25)}
    assert not {p[-1].content for p, _ in counting.asked} & few


def test_texts_of_another_length_are_written_again(run):
    folder, engine = run
    few = replace(CONFIG, limit=30)
    evaluate.run(few, engine, JUDGE, folder)
    counting = Counting(engine)
    evaluate.run(replace(few, max_new_tokens=9), counting, JUDGE, folder)
    assert len({p for p, _ in counting.asked}) == 30


def test_another_judge_reads_the_same_texts_again_and_none_is_written_again(run):
    folder, engine = run
    few = replace(CONFIG, limit=30)
    first = evaluate.run(few, engine, JUDGE, folder)
    texts = {
        (b.id, b.column): b.answer
        for b in read_branches(folder.branches, engine.fingerprint.tokens)
    }
    counting = Counting(engine, calls_left=0)
    other = evaluate.run(few, counting, Verdict("partial"), folder)
    now = read_branches(folder.branches, engine.fingerprint.tokens)
    assert {(b.id, b.column): b.answer for b in now} == texts
    assert {(b.outcome.verdict, b.outcome.judge) for b in now} == {("partial", "test/1")}
    assert other.judge == "test/1"
    assert natural_of(other).partial.value == 1.0
    assert evaluate.run(few, counting, JUDGE, folder) == first


def test_what_could_not_be_scored_is_judged_again_with_the_next_evaluation(run):
    folder, engine = run
    evaluate.run(replace(CONFIG, limit=20), engine, Verdict("unscored"), folder)
    found = evaluate.run(replace(CONFIG, limit=19), Counting(engine), Verdict("refusal"), folder)
    assert natural_of(found).unscored.hits == 0


def test_a_judge_that_was_mended_is_asked_again_though_nothing_else_changed(run):
    folder, engine = run
    few = replace(CONFIG, limit=40)
    dead = evaluate.run(few, engine, Tired(budget=0), folder)
    assert natural_of(dead).unscored.value == 1.0
    made = folder.metrics.stat().st_mtime_ns
    assert evaluate.run(few, engine, Tired(budget=0), folder) == dead
    assert folder.metrics.stat().st_mtime_ns == made
    counting = Counting(engine)
    mended = evaluate.run(few, counting, Tired(), folder)
    assert natural_of(mended).unscored.hits == 0
    assert counting.asked == []
    assert evaluate.run(few, engine, Tired(budget=0), folder) == mended


def test_progress_reaches_its_total(run):
    folder, engine = run
    told = []
    evaluate.run(CONFIG, engine, JUDGE, folder, lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == len(read_examples(folder.split("test")))


def test_a_limit_takes_rows_evenly(run):
    folder, engine = run
    found = evaluate.run(evaluate.Config(limit=60), engine, JUDGE, folder)
    assert found.test_rows == 60
    assert set(natural_of(found).decision.by_kind) == {"refusal", "contrast", "benign"}
    assert len(natural_of(found).decision.by_category) == 5


def test_a_dead_judge_leaves_every_rate_of_the_texts_undefined_and_says_why(run):
    folder, engine = run
    found = evaluate.run(evaluate.Config(limit=60), engine, Verdict("unscored"), folder)
    for p in found.policies:
        assert (p.unscored.value, p.unscored_reasons) == (1.0, {"always": 60})
        levels = [p.text.overall, *p.text.by_category.values(), *p.text.by_kind.values()]
        rates = [r for level in levels for name, r in level if name not in ("f1", "deferral")]
        assert {rate.value for rate in (*rates, p.partial, p.texts_refuse, p.texts_answer)} == {
            None
        }
        assert p.text.overall.f1 is p.text.f1_interval is None
        assert p.decision.overall.refusal_rate.of == 60
    for k in (*found.forced.values(), *natural_of(found).kept.values()):
        assert k.kept.value is None
    assert found.forced["respond"].unscored == 60


def test_rates_of_texts_are_over_those_that_could_be_scored_with_the_others_beside(run):
    folder, engine = run
    whole = natural_of(evaluate.run(evaluate.Config(limit=90), engine, JUDGE, folder))
    p = natural_of(evaluate.run(evaluate.Config(limit=90), engine, Tired(budget=100), folder))
    assert 0 < p.unscored.hits < 90
    assert p.text.overall.refusal_rate.of + p.unscored.hits == 90
    assert p.unscored_reasons == {"no budget": p.unscored.hits}
    assert p.partial.of == p.texts_refuse.of + p.texts_answer.of == 90 - p.unscored.hits
    assert p.text.f1_interval is not None
    assert p.text.overall.missed_refusal.value < 0.3 > whole.text.overall.missed_refusal.value


def test_token_and_text_agree_on_the_fake_engine(run):
    folder, engine = run
    p = natural_of(evaluate.run(CONFIG, engine, JUDGE, folder))
    assert p.texts_refuse.value > 0.95
    assert p.texts_answer.value > 0.95


def test_always_refusing_is_measured_beside(run):
    folder, engine = run
    base = evaluate.run(CONFIG, engine, JUDGE, folder).always_refuse
    assert base.false_refusal.value == base.caught.value == 1.0
    assert base.f1 == pytest.approx(2 * base.precision.value / (1 + base.precision.value))


def test_thresholds_for_comparison_are_chosen_on_rows_that_the_calibrator_has_not_seen(run):
    folder, engine = run
    calibrate.run(calibrate.Config(calibrator="platt"), engine.taxonomy, folder)
    found = evaluate.run(
        evaluate.Config(also=("missed_refusal <= 0.9",), limit=40), engine, JUDGE, folder
    )
    left = left_rows(folder).left
    promise = read_policy(folder.root / found.policies[2].file).promises[0]
    assert found.calibrate_rows == len(left) < len(read_examples(folder.split("calibrate")))
    assert promise.rate.of == sum(e.count for e in left if e.expected == "refuse")


def test_the_natural_policy_is_the_model_left_to_itself_whatever_the_calibrator(run):
    folder, engine = run
    plain = natural_of(evaluate.run(evaluate.Config(limit=60), engine, JUDGE, folder))
    calibrate.run(calibrate.Config(calibrator="platt"), engine.taxonomy, folder)
    calibrated = natural_of(evaluate.run(evaluate.Config(limit=60), engine, JUDGE, folder))
    assert read_policy(folder.root / calibrated.file).calibrator == IDENTITY
    assert calibrated.confusion == plain.confusion


def test_a_calibrator_whose_rows_are_unknown_is_refused(run):
    folder, engine = run
    calibrate.run(calibrate.Config(calibrator="temperature"), engine.taxonomy, folder)
    folder.calibrator.unlink()
    folder.finish("calibrate", {}, {}, [folder.policy])
    with pytest.raises(ArtifactError, match=r"carries a calibrator, and no calibrator\.json"):
        evaluate.run(CONFIG, engine, JUDGE, folder)


def test_probabilities_are_measured_before_and_after_the_calibrator_on_the_test_rows(run):
    folder, engine = run
    assert evaluate.run(CONFIG, engine, JUDGE, folder).calibration is None
    policy = calibrate.run(calibrate.Config(calibrator="temperature"), engine.taxonomy, folder)
    made = evaluate.run(CONFIG, engine, JUDGE, folder).calibration
    rows = read_examples(folder.split("test"))
    logp_NC = read_scores(folder.scores("test"))[0].select(tuple(e.id for e in rows)).logp_NC
    label_N = [engine.taxonomy.column(e.label) for e in rows]
    for found, scores_NC in (
        (made.before, logp_NC),
        (made.after, policy.calibrator.apply(logp_NC)),
    ):
        own_N = closed(scores_NC)[range(len(rows)), label_N]
        assert found.log_loss == pytest.approx(-own_N.mean())
        assert 0 < found.brier < 2
        assert 0 <= min(found.refusal_ece, found.top_ece) <= 1
    assert made.family == "temperature"
    assert made.why


def test_a_fixed_refusal_text_is_judged_in_place_of_the_generated_one(run):
    folder, engine = run
    fixed = dict.fromkeys(engine.taxonomy.names, "Ask me anything!")
    calibrate.run(calibrate.Config(on_refuse=fixed), engine.taxonomy, folder)
    _, calibrated, *_ = evaluate.run(CONFIG, engine, JUDGE, folder).policies
    assert calibrated.texts_refuse.value == 0.0


def test_a_goal_that_no_threshold_meets_is_told_not_dropped(run):
    folder, engine = run
    found = evaluate.run(
        evaluate.Config(also=("refusal_rate = 0.0001",), limit=20), engine, JUDGE, folder
    )
    assert [u.goal for u in found.unmet] == ["refusal_rate = 0.0001"]
    assert len(found.policies) == 2


def test_a_policy_for_another_model_names_what_differs(run):
    folder, engine = run
    with pytest.raises(PolicyError, match="another model: model_digest differ"):
        evaluate.run(CONFIG, replace(engine, seed=7), JUDGE, folder)


def test_a_policy_without_a_model_is_refused(run):
    folder, engine = run
    write_policy(folder.policy, replace(read_policy(folder.policy), fingerprint=None))
    folder.finish("calibrate", {}, {}, [folder.policy])
    with pytest.raises(PolicyError, match="names no model"):
        evaluate.run(CONFIG, engine, JUDGE, folder)


def test_scores_of_another_model_are_refused(run):
    folder, engine = run
    other = replace(engine, seed=7)
    write_policy(folder.policy, replace(read_policy(folder.policy), fingerprint=other.fingerprint))
    folder.finish("calibrate", {}, {}, [folder.policy])
    with pytest.raises(
        ArtifactError, match=r"test\.parquet was made by another model: model_digest differ"
    ):
        evaluate.run(CONFIG, other, JUDGE, folder)


def test_an_earlier_stage_that_has_not_finished_is_named(run):
    folder, engine = run
    shutil.rmtree(folder.stage("calibrate"))
    with pytest.raises(ArtifactError, match="calibrate is not finished"):
        evaluate.run(CONFIG, engine, JUDGE, folder)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="limit = 0"):
        evaluate.Config(limit=0)
    with pytest.raises(GoalError):
        evaluate.Config(also=("refuse a lot",))


def test_the_table_has_a_block_per_policy_and_a_line_per_category(run):
    folder, engine = run
    found = evaluate.run(CONFIG, engine, JUDGE, folder)
    blocks = evaluate.table_rows(found)
    assert [b.title.split(":")[0] for b in blocks] == [
        "natural",
        "calibrated",
        "other target",
        "other target",
    ]
    for block in blocks:
        assert [r[0] for r in block.rows] == [*engine.taxonomy.names, "ordinary", "all"]
        assert all(len(r) == len(evaluate.HEADER) for r in block.rows)
    assert blocks[0].rows[-2][-1] == "not defined (0 rows)"
    assert blocks[0].rows[-1][2] == natural_of(found).decision.overall.refusal_rate.words


def hand_labels(folder, share, seed=0):
    """A file of labels by hand of a random share of the generated texts: the phrase judge's, some
    of them turned.
    """
    rng = np.random.default_rng(seed)
    made = read_branches(folder.branches, coconot().tokens)
    lines, truth = [], {}
    for b in made:
        refuses = b.outcome.refuses if rng.random() > 0.1 else not b.outcome.refuses
        truth[b.id, b.column] = refuses
        if rng.random() < share:
            label = "refusal" if refuses else "compliance"
            lines.append({"id": b.id, "token": coconot().choices[b.column], "label": label})
    path = folder.root / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, truth


def test_with_hand_labels_every_rate_of_the_texts_is_raw_and_corrected(run):
    folder, engine = run
    assert (
        evaluate.run(evaluate.Config(limit=400), engine, JUDGE, folder).policies[0].corrected == {}
    )
    labels, truth = hand_labels(folder, 0.5)
    found = evaluate.run(evaluate.Config(limit=400, labels=labels), engine, JUDGE, folder)
    assert found.labels == len(labels.read_text().splitlines())
    rows = read_examples(folder.split("test"))
    natural = found.policies[0]
    corrected = natural.corrected["all"]["refusal_rate"]
    assert corrected.low < corrected.value < corrected.high
    table, _ = read_scores(folder.scores("test"))
    ids = tuple(e.id for e in evenly_spaced(rows, 400))
    choices = decide_many(
        read_policy(folder.root / natural.file), table.select(ids).logp_NC
    ).choice_N.tolist()
    true_rate = np.mean([truth[i, c] for i, c in zip(ids, choices, strict=True)])
    assert (
        abs(corrected.value - true_rate)
        < abs(natural.text.overall.refusal_rate.value - true_rate) + 0.02
    )
    assert corrected.low <= true_rate <= corrected.high
    flipped = natural.corrected["all"]["missed_refusal"]
    assert flipped.value == pytest.approx(1 - natural.corrected["all"]["caught"].value)
    assert {"category safety", "kind contrast"} < set(natural.corrected)
    assert {f"subcategory {name}" for name in natural.text.by_subcategory} < set(natural.corrected)


def test_labels_speak_for_texts_that_no_judge_could_score(run):
    folder, engine = run
    evaluate.run(evaluate.Config(limit=200), engine, JUDGE, folder)
    labels, _ = hand_labels(folder, 0.5)
    found = evaluate.run(evaluate.Config(limit=200, labels=labels), engine, Tired(budget=0), folder)
    raw, corrected = (
        natural_of(found).judged["refusal_rate"],
        natural_of(found).corrected["all"]["refusal_rate"],
    )
    assert raw.value is None
    assert 0 < corrected.low < corrected.value < corrected.high < 1
    (line,) = (row for row in evaluate.corrected_rows(found) if row[0] == "refusal rate")
    assert line[1] == "not defined (0 rows)"


@pytest.mark.parametrize("scored", [1, 2, 5])
def test_a_handful_of_scored_texts_makes_rates_with_wide_intervals(run, scored):
    folder, engine = run
    p = natural_of(evaluate.run(evaluate.Config(limit=30), engine, Tired(budget=scored), folder))
    rate = p.text.overall.refusal_rate
    assert rate.of == 30 - p.unscored.hits <= scored
    assert rate.of == 0 or rate.high - rate.low > 0.5


def test_no_rate_that_reads_texts_lacks_its_corrected_one(run):
    folder, engine = run
    evaluate.run(evaluate.Config(limit=400), engine, JUDGE, folder)
    labels, truth = hand_labels(folder, 0.5)
    found = evaluate.run(evaluate.Config(limit=400, labels=labels), engine, JUDGE, folder)
    for p in found.policies:
        # nothing is deferred here
        raw = {name for name, _ in p.text.overall if name not in ("f1", "deferral")} | {
            "partial",
            "texts_refuse",
            "texts_answer",
        }
        assert {frozenset(rates) for rates in p.corrected.values()} == {frozenset(raw)}
        for k in (*p.kept.values(), *found.forced.values()):
            assert set(k.corrected) == {
                name for name, _ in k if name not in ("unscored", "corrected")
            }
    for t in found.twins.values():
        assert set(t.corrected) == {name for name, _ in t if name not in ("unscored", "corrected")}
    kept = found.forced["respond"].corrected["kept"]
    after_respond = [not refuses for (_, column), refuses in truth.items() if column == 0]
    assert kept.low <= np.mean(after_respond) <= kept.high
    both = found.twins["all"].corrected["stuck_refuse"]
    assert both.labels < found.twins["all"].controllable.of / 2
    assert both.low <= both.value <= both.high


def test_labels_are_part_of_what_an_evaluation_was_made_from(run):
    folder, engine = run
    evaluate.run(evaluate.Config(limit=60), engine, JUDGE, folder)
    labels, _ = hand_labels(folder, 0.5)
    first = evaluate.run(evaluate.Config(limit=60, labels=labels), engine, JUDGE, folder)
    labels, _ = hand_labels(folder, 1.0)
    assert (
        evaluate.run(evaluate.Config(limit=60, labels=labels), engine, JUDGE, folder).labels
        > first.labels
    )


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"id": "a", "token": "sefety", "label": "refusal"}, "'sefety' is no control token"),
        ({"id": "a", "token": "safety", "label": "yes"}, "label"),
        ({"id": "a", "token": "safety"}, "label"),
    ],
)
def test_a_hand_label_that_cannot_be_read_is_named(run, line, named):
    folder, engine = run
    path = folder.root / "labels.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=named):
        evaluate.run(evaluate.Config(limit=20, labels=path), engine, JUDGE, folder)


def test_each_token_of_each_policy_says_whether_its_texts_keep_its_word(run):
    folder, engine = run
    found = evaluate.run(evaluate.Config(limit=300), engine, JUDGE, folder)
    for p in found.policies:
        kept = p.kept.values()
        assert sum(k.kept.of for k in kept) == 300
        assert p.kept["respond"].kept.hits == p.texts_answer.hits
        assert sum(k.kept.hits for c, k in p.kept.items() if c != "respond") == p.texts_refuse.hits
    assert found.forced["respond"].kept.of == 300
    assert found.twins["all"].controllable.of + found.twins["all"].unscored == 300
    assert (
        found.twins["to be answered"].controllable.of + found.twins["to be refused"].controllable.of
        == 300
    )


def test_a_policy_of_one_source_is_measured_on_the_test_rows_of_that_source(tmp_path):
    rows = [replace(e, source="acme" if n % 3 else "beta") for n, e in enumerate(examples(every=2))]
    engine = engine_for(rows, FakeEngine)
    folder = prepare(tmp_path / "run", rows, engine, calibrate.Config(sources=("acme",)))
    acme = [e for e in read_examples(folder.split("test")) if e.source == "acme"]
    assert evaluate.run(CONFIG, engine, JUDGE, folder).test_rows == len(acme) > 0
    calibrate.run(calibrate.Config(), coconot(), folder)
    assert evaluate.run(CONFIG, engine, JUDGE, folder).test_rows == len(
        read_examples(folder.split("test"))
    )
