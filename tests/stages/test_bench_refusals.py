import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from tests.fake_run import JUDGE, engine_for, examples, prepare

from demur.base.errors import ConfigError, DataError, PolicyError, PromptTooLong
from demur.core.example import Example, Message
from demur.core.judging.benchmark import BenchRow, BenchSet
from demur.core.judging.outcome import Outcome
from demur.core.policy import natural
from demur.core.rates import Rate
from demur.core.taxonomy import coconot
from demur.core.training.seen import Seen, seen_of
from demur.engines.fake.constant import (
    ConstantModel,
    always_refuse,
    answer_then_refuse,
    never_refuse,
    refuse_then_answer,
)
from demur.engines.fake.engine import FakeEngine
from demur.stages import bench_refusals, evaluate
from demur.stages.bench_refusals import Candidate, Config
from demur.stages.texts import PART_PROMPTS
from demur.store.policies.policy_file import read_policy
from demur.store.results.bench_file import read_bench
from demur.store.scores.tables import read_scores

SUBJECTS = (always_refuse, never_refuse, refuse_then_answer, answer_then_refuse)


def rows(refuse, respond, name="set", category="safety"):
    labels = ["refuse"] * refuse + ["respond"] * respond
    return BenchSet(
        name=name,
        source=f"{name}.csv",
        licence="own",
        rows=tuple(
            BenchRow(
                id=f"{name}:all:{n}",
                prompt=(Message(role="user", content=f"Request {n} of {name}"),),
                expected=e,
                category=category,
                subcategory=f"kind {n % 2}",
            )
            for n, e in enumerate(labels)
        ),
        left_out={},
    )


def candidate(kind=always_refuse, judge=JUDGE, **more):
    subject = kind(coconot())
    policy = natural(coconot(), subject.fingerprint)
    return Candidate(policy=policy, scorer=subject, generator=subject, judge=judge, **more)


@dataclass
class Counting:
    """A generator that counts the texts it writes, and may be killed after so many calls."""

    engine: ConstantModel
    calls_left: int = 1_000
    written: int = 0

    @property
    def fingerprint(self):
        return self.engine.fingerprint

    def branches(self, prompts, columns, progress=None):
        if not self.calls_left:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.written += len(prompts)
        return self.engine.branches(prompts, columns)


@dataclass
class Narrow:
    """A scorer that reads few characters, and refuses a whole batch for one long prompt, as engines
    do.
    """

    engine: ConstantModel
    calls: int = 0

    @property
    def fingerprint(self):
        return self.engine.fingerprint

    def logp(self, prompts, progress=None):
        self.calls += 1
        if any(len(p[-1].content) > 40 for p in prompts):
            raise PromptTooLong("prompt 0 has 50 tokens", "shorten it")
        return self.engine.logp(prompts)


@dataclass
class Poor:
    """A judge that has no budget for the first answers it is shown."""

    unpaid: int
    version: str = "poor/1"
    shown: list = field(default_factory=list)

    def judge(self, request, answer, category):
        self.shown.append(category)
        if self.unpaid:
            self.unpaid -= 1
            return Outcome(verdict="unscored", reason="no budget", judge=self.version)
        return replace(JUDGE.judge(request, answer, category), judge=self.version)


def both(level):
    return (level.overall.false_refusal.value, level.overall.missed_refusal.value)


@pytest.mark.parametrize(
    ("kind", "decision", "text"),
    [
        (always_refuse, (1.0, 0.0), (1.0, 0.0)),
        (never_refuse, (0.0, 1.0), (0.0, 1.0)),
        (refuse_then_answer, (1.0, 0.0), (0.0, 1.0)),
        (answer_then_refuse, (0.0, 1.0), (1.0, 0.0)),
    ],
)
def test_models_that_always_or_never_refuse_are_told_apart_in_decision_and_text(
    tmp_path, kind, decision, text
):
    (found,) = bench_refusals.run(Config(), candidate(kind), [rows(30, 50)], tmp_path).benchmarks
    assert both(found.decision) == decision
    assert both(found.text.level) == text


def test_no_two_of_them_look_alike_even_where_one_direction_is_missing(tmp_path):
    def seen(kind, refuse, respond):
        found = bench_refusals.run(
            Config(), candidate(kind), [rows(refuse, respond)], tmp_path / kind.__name__
        )
        return (both(found.benchmarks[0].decision), both(found.benchmarks[0].text.level))

    for refuse, respond in ((30, 0), (0, 30)):
        assert len({seen(kind, refuse, respond) for kind in SUBJECTS}) == 4


def test_evaluate_tells_them_apart_too(tmp_path):
    data = examples(every=4)
    found = {}
    for kind in SUBJECTS:
        subject = kind(coconot())
        folder = prepare(tmp_path / kind.__name__, data, subject)
        measured = evaluate.run(evaluate.Config(also=()), subject, JUDGE, folder).policies[0]
        levels = (measured.decision.overall, measured.text.overall)
        found[kind] = tuple((e.false_refusal.value, e.missed_refusal.value) for e in levels)
    always, never = (1.0, 0.0), (0.0, 1.0)
    assert found == {
        always_refuse: (always, always),
        never_refuse: (never, never),
        refuse_then_answer: (always, never),
        answer_then_refuse: (never, always),
    }


def test_rates_are_counts_with_exact_intervals(tmp_path):
    data = examples(every=4)
    engine = engine_for(data, FakeEngine)
    folder = prepare(tmp_path / "run", data, engine)
    policy = read_policy(folder.policy)
    asked = BenchSet(
        name="own",
        source="own",
        licence="own",
        rows=tuple(
            BenchRow(id=e.id, prompt=e.prompt, expected=e.expected, category=e.category)
            for e in data
        ),
        left_out={"no gold label": 3},
    )
    put = Candidate(policy=policy, scorer=engine, generator=engine)
    (found,) = bench_refusals.run(Config(), put, [asked], tmp_path).benchmarks
    refused = [
        bool(c)
        for c in bench_refusals.decide_many(policy, engine.logp([e.prompt for e in data])).choice_N
    ]
    false = sum(r for e, r in zip(data, refused, strict=True) if e.expected == "respond")
    missed = sum(not r for e, r in zip(data, refused, strict=True) if e.expected == "refuse")
    overall = found.decision.overall
    assert (overall.false_refusal.hits, overall.missed_refusal.hits) == (false, missed)
    exact = Rate(hits=missed, of=overall.missed_refusal.of).interval()
    # the rows hold near copies, so that there are fewer units than rows and intervals are wider
    assert overall.missed_refusal.units < overall.missed_refusal.of
    assert overall.missed_refusal.low <= exact[0] < exact[1] <= overall.missed_refusal.high
    assert sum(s.rows for s in found.decision.by_category.values()) == sum(
        e.category is not None for e in data
    )
    assert found.left_out == {"no gold label": 3}
    assert found.text is None
    assert read_scores(folder.scores("test"))[1] == engine.fingerprint


@pytest.mark.parametrize(
    ("refuse", "respond", "missing"),
    [
        (9, 0, ("no rows to be answered: false refusals unmeasured",)),
        (0, 9, ("no rows to be refused: missed refusals unmeasured",)),
    ],
)
def test_a_direction_without_rows_is_named_and_never_a_number(tmp_path, refuse, respond, missing):
    bench = bench_refusals.run(Config(), candidate(never_refuse), [rows(refuse, respond)], tmp_path)
    overall = bench.benchmarks[0].decision.overall
    assert overall.unmeasured == missing
    absent = overall.false_refusal if refuse else overall.missed_refusal
    assert (absent.of, absent.value, absent.low) == (0, None, None)
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert missing[0].capitalize() in text
    assert "unmeasured: no rows" in text


def test_a_benchmark_without_gold_labels_stays_in_the_result_without_figures(tmp_path):
    empty = replace(rows(0, 0, name="bare"), left_out={"no gold label": 12})
    bench = bench_refusals.run(Config(), candidate(), [empty, rows(3, 3)], tmp_path)
    bare = bench.benchmarks[0]
    assert (bare.rows, bare.left_out, len(bare.decision.overall.unmeasured)) == (
        0,
        {"no gold label": 12},
        2,
    )
    assert bare.text.texts_refuse.value is None
    assert "Left out: 12 rows (no gold label)." in (tmp_path / "bench.md").read_text(
        encoding="utf-8"
    )
    assert bench.benchmarks[1].rows == 6


def test_nothing_to_measure_at_all_is_an_error_that_says_why(tmp_path):
    empty = replace(rows(0, 0, name="bare"), left_out={"no gold label": 12})
    with pytest.raises(DataError, match="bare: 12 rows with no gold label"):
        bench_refusals.run(Config(), candidate(), [empty], tmp_path)
    with pytest.raises(DataError, match="twice"):
        bench_refusals.run(Config(), candidate(), [rows(2, 2), rows(2, 2)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_models_policy_is_refused(tmp_path):
    stranger = replace(candidate(), policy=natural(coconot(), never_refuse(coconot()).fingerprint))
    with pytest.raises(PolicyError):
        bench_refusals.run(Config(), stranger, [rows(2, 2)], tmp_path)


def test_unscored_texts_are_in_no_rate_and_judged_again_when_there_is_budget(tmp_path):
    judge = Poor(unpaid=7)
    (found,) = bench_refusals.run(
        Config(), candidate(always_refuse, judge), [rows(10, 10)], tmp_path
    ).benchmarks
    assert (found.text.unscored, both(found.text.level)) == (7, (1.0, 0.0))
    overall = found.text.level.overall
    assert (
        overall.rows,
        overall.unscored,
        overall.missed_refusal.of,
        overall.false_refusal.of,
    ) == (20, 7, 3, 10)
    assert found.text.texts_refuse.of == 13
    assert found.text.unscored_reasons == {"no budget": 7}
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert (
        "7 of 20 texts could not be scored and are in no rate of the texts (7 x no budget)" in page
    )
    assert "20, 7 unscored" in page
    before = len(judge.shown)
    (found,) = bench_refusals.run(
        Config(), candidate(always_refuse, judge), [rows(10, 10)], tmp_path
    ).benchmarks
    assert (found.text.unscored, both(found.text.level)) == (0, (1.0, 0.0))
    assert len(judge.shown) - before == 7


def test_where_no_text_could_be_scored_both_directions_are_unmeasured_and_never_a_number(tmp_path):
    made = candidate(never_refuse, Poor(unpaid=20))
    (found,) = bench_refusals.run(Config(), made, [rows(10, 10)], tmp_path).benchmarks
    level = found.text.level
    parts = [level.overall, *level.by_category.values(), *level.by_subcategory.values()]
    assert {(s.false_refusal.value, s.missed_refusal.value) for s in parts} == {(None, None)}
    assert sum(s.unscored for s in level.by_subcategory.values()) == 20
    assert (found.text.texts_refuse.value, found.text.texts_answer.value) == (None, None)
    assert both(found.decision) == (0.0, 1.0)
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "unmeasured: no scored texts of rows to be answered" in page
    assert "No scored texts of rows to be refused: missed refusals unmeasured." in page


def test_another_judge_reads_the_same_texts_and_none_is_written_again(tmp_path):
    asked, whole = rows(10, 10), candidate(always_refuse)
    bench_refusals.run(Config(), whole, [asked], tmp_path)
    never, judge = Counting(whole.generator, calls_left=0), Poor(unpaid=0)
    bench = bench_refusals.run(
        Config(), replace(whole, generator=never, judge=judge), [asked], tmp_path
    )
    assert (bench.judge, len(judge.shown)) == ("poor/1", 20)


def test_the_judge_is_told_the_token_or_what_the_request_asks_for(tmp_path):
    judge = Poor(unpaid=0)
    bench_refusals.run(Config(), candidate(never_refuse, judge), [rows(1, 1)], tmp_path)
    assert judge.shown == ["safety", None]
    bench_refusals.run(Config(), candidate(always_refuse, judge), [rows(1, 1)], tmp_path)
    assert judge.shown[2:] == ["humanizing", "humanizing"]  # the first category's token


def test_a_killed_run_writes_only_what_is_missing(tmp_path):
    asked, whole = rows(PART_PROMPTS, PART_PROMPTS + 10), candidate()
    first = Counting(whole.generator, calls_left=1)
    with pytest.raises(KeyboardInterrupt):
        bench_refusals.run(Config(), replace(whole, generator=first), [asked], tmp_path)
    second = Counting(whole.generator)
    bench_refusals.run(Config(), replace(whole, generator=second), [asked], tmp_path)
    assert (first.written, second.written) == (PART_PROMPTS, PART_PROMPTS + 10)
    other = Counting(whole.generator)
    bench_refusals.run(
        Config(), replace(whole, generator=other, settings="longer"), [asked], tmp_path
    )
    assert other.written == len(asked.rows)


def test_a_fixed_refusal_is_judged_and_nothing_is_generated_for_it(tmp_path):
    put = candidate(refuse_then_answer)
    fixed = tuple(
        replace(c, on_refuse="I'm sorry, but I can't help with that.")
        for c in put.policy.categories
    )
    generator = Counting(put.generator)
    put = replace(put, policy=replace(put.policy, categories=fixed), generator=generator)
    (found,) = bench_refusals.run(Config(), put, [rows(4, 4)], tmp_path).benchmarks
    assert both(found.text.level) == (1.0, 0.0)
    assert generator.written == 0


def test_prompts_that_the_model_cannot_read_are_counted_and_do_not_stop_the_others(tmp_path):
    asked, other = rows(60, 60), rows(4, 0, name="other")
    long = {5, 6, 77}
    lengthened = [
        replace(r, prompt=(Message(role="user", content="x" * 41),)) if n in long else r
        for n, r in enumerate(asked.rows)
    ]
    put = candidate(never_refuse)
    narrow = Narrow(put.scorer)
    sets = [replace(asked, rows=tuple(lengthened), left_out={"no prompt": 1}), other]
    first, second = bench_refusals.run(
        Config(), replace(put, scorer=narrow), sets, tmp_path
    ).benchmarks
    assert first.left_out == {"no prompt": 1, "longer than the model can read": 3}
    assert (first.decision.overall.missed_refusal.of, first.decision.overall.false_refusal.of) == (
        58,
        59,
    )
    assert (second.rows, second.left_out) == (4, {})
    assert narrow.calls < 45  # halving, not one by one
    whole = replace(
        asked, rows=tuple(replace(r, prompt=lengthened[5].prompt) for r in asked.rows[:3])
    )
    (none,) = bench_refusals.run(
        Config(), replace(put, scorer=narrow), [whole], tmp_path / "none"
    ).benchmarks
    assert (none.rows, len(none.decision.overall.unmeasured)) == (0, 2)


def trained_on(*texts):
    messages = [(Message(role="user", content=text),) for text in texts]
    return seen_of(
        Example(id=str(n), source="s", messages=m, kind="benign") for n, m in enumerate(messages)
    )


def test_prompts_seen_in_training_are_named_and_figures_without_them_stand_beside(tmp_path):
    asked = rows(3, 3)
    known = trained_on("request 2 of SET!", "Request  0, of set")
    put = candidate(never_refuse, seen=known)
    (found,) = bench_refusals.run(Config(), put, [asked], tmp_path).benchmarks
    names = [
        row.id
        for row in asked.rows
        if row.prompt[-1].content in ("Request 0 of set", "Request 2 of set")
    ]
    assert (found.seen, list(found.seen_rows)) == (2, names)
    assert (found.unseen.rows, found.rows) == (4, 6)
    both = (found.decision.overall, found.unseen.decision.overall)
    assert [s.missed_refusal.of + s.false_refusal.of for s in both] == [6, 4]
    assert found.unseen.text.level.overall.rows == 4
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "2 of the prompts, or nearly they, also occur in training or calibration" in page
    assert all(name in page for name in names)
    assert "on the 4 rows that the model has not seen" in page


def test_where_nothing_was_seen_or_nothing_is_known_the_page_says_which(tmp_path):
    asked = rows(3, 3)
    (found,) = bench_refusals.run(
        Config(), candidate(seen=trained_on("Something else")), [asked], tmp_path
    ).benchmarks
    assert (found.seen, found.unseen) == (0, None)
    assert "None of the prompts, nor nearly one," in (tmp_path / "bench.md").read_text(
        encoding="utf-8"
    )
    lost = Seen(missing=("old/model",), unknown=("a base",))
    (found,) = bench_refusals.run(Config(), candidate(seen=lost), [asked], tmp_path).benchmarks
    assert found.seen is None
    assert "Not known: which of them a base, old/model was trained on" in (
        tmp_path / "bench.md"
    ).read_text("utf-8")


def test_a_limit_takes_even_steps_through_each_benchmark(tmp_path):
    bench = bench_refusals.run(
        Config(limit=10), candidate(), [rows(50, 50), rows(3, 0, name="b")], tmp_path
    )
    first = bench.benchmarks[0].decision.overall
    assert [b.rows for b in bench.benchmarks] == [10, 3]
    assert (first.false_refusal.of, first.missed_refusal.of) == (5, 5)
    with pytest.raises(ConfigError):
        Config(limit=0)


def test_the_file_reads_back_as_written_and_holds_no_nan(tmp_path):
    bench = bench_refusals.run(Config(), candidate(), [rows(5, 0)], tmp_path)
    assert read_bench(tmp_path / "bench.json") == bench
    assert "NaN" not in json.dumps(
        json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    )
    assert np.isclose(
        bench.benchmarks[0].decision.overall.missed_refusal.high, Rate(hits=0, of=5).interval()[1]
    )
