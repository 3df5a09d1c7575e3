"""The parts of blackbox on files, asking a real endpoint on this machine that answers, errs and
changes.
"""

import json
import time

import numpy as np
import pytest
from tests.engines.chat_stub import completion, serving
from tests.stages.blackbox_parts import NO, YES, answers, declines, lines, prompts, write

from demur.base.errors import ArtifactError, DataError, EngineError, TaxonomyError
from demur.core.classifiers.text import NgramView
from demur.core.predictor import prompt_text
from demur.core.taxonomy import coconot, single
from demur.engines.remote.chat_client import ChatClient, Endpoint
from demur.judges.phrases import PhraseJudge
from demur.judges.rubric import RubricJudge, Wording, builtin_rubric
from demur.judges.trained import TrainedJudge
from demur.stages.blackbox import collect, label, page, train_judge
from demur.stages.blackbox.predictor import PromptTrainer
from demur.stages.blackbox.results import terms_of
from demur.stats.text.fit import Recipe, fit_text_classifier
from demur.store.answers.blackbox_file import BlackboxFolder, prompts_without_outcome, read_summary
from demur.store.answers.label_store import LabelFile
from demur.store.models.text_model_file import PREDICTOR, read_text_classifier
from demur.store.prompts_file import read_prompts
from demur.store.rows import ExampleRow
from demur.store.run import RunFolder


@pytest.fixture
def ask(tmp_path):
    """Ask some rows of a script; returns (what was collected, the stub, the folder)."""

    def run(rows, script, **more):
        folder = BlackboxFolder(RunFolder(tmp_path / "bb"))
        read = read_prompts([write(tmp_path / "prompts.jsonl", rows)])
        with serving(script) as (url, stub):
            options = {"tries": 2, "first_wait_s": 0.01, "in_flight": 8, **more}
            chat = ChatClient(endpoint=Endpoint(url=url, model="m", **options))
            return collect.run(read, chat, folder), stub, folder

    return run


def asked(stub):
    return [body["messages"][-1]["content"] for body in stub.bodies]


def labelled(collected, folder, judge=None):
    return label.run(
        label.Config(judge=judge or PhraseJudge(), taxonomy=single()), collected, folder
    )


def test_every_prompt_is_asked_once_and_its_row_says_what_the_model_did(ask):
    rows = prompts(150)
    collected, stub, folder = ask(rows, answers)
    file = labelled(collected, folder)
    assert sorted(asked(stub)) == sorted(rows)
    found = lines(folder.answers)
    assert [(r["request"], r["verdict"] == "refusal") for r in found] == [
        (p, declines(p)) for p in rows
    ]
    assert "label" not in found[0]  # that is for a person
    declined = sum(map(declines, rows))
    assert (file.verdicts["refusal"], file.verdicts["compliance"]) == (declined, 150 - declined)
    kinds = [(r["kind"], r["expected"], r["category"]) for r in lines(folder.rows)]
    assert kinds == [
        ("refusal", "refuse", "refuse") if declines(p) else ("benign", "respond", None)
        for p in rows
    ]
    again, silent, _ = ask(rows, answers)
    assert (silent.bodies, again.known, again.replies) == ([], 150, collected.replies)


def test_a_partial_answer_counts_as_declined(ask):
    longer = (
        f"{NO} Still, here it is:\n1. {YES}\n2. {YES}\n3. {YES}\n"
        + "And so on it goes, for long. " * 20
    )
    collected, _, folder = ask(prompts(80), lambda n, b: completion(longer if n % 2 else YES))
    file = labelled(collected, folder)
    assert file.verdicts["partial"] == 40
    assert sum(r["kind"] == "refusal" for r in lines(folder.rows)) == 40


@pytest.mark.parametrize(
    ("limit", "least", "most"),
    [
        ({"most_calls": 80}, 80, 80),
        ({"most_tokens": 8800}, 80, 88),
        ({"most_price": 0.0088, "price_in": 1.0, "price_out": 1.0}, 80, 88),
    ],
)
def test_the_budget_stops_the_asking_and_the_next_call_goes_on(ask, limit, least, most):
    rows = prompts(120)
    first, stub, folder = ask(rows, answers, **limit)  # 110 tokens each
    assert least <= len(stub.bodies) <= most
    assert first.not_asked == 120 - len(stub.bodies) == len(lines(folder.unanswered))
    assert first.failed == {}
    second, rest, _ = ask(rows, answers)
    assert sorted([*asked(stub), *asked(rest)]) == sorted(rows)
    assert (len(second.replies), second.not_asked, lines(folder.unanswered)) == (120, 0, [])


def broken(kind):
    """A script that fails on every fourth prompt, in one way."""

    def script(number, body):
        if int(body["messages"][-1]["content"].split()[-1][1:]) % 4:
            return answers(number, body)
        if kind == "stall":
            time.sleep(4.0)
        return {
            "5xx": (503, "overloaded"),
            "not json": "{" + YES,
            "client error": (400, '{"error": "too long"}'),
        }.get(kind, answers(number, body))

    return script


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("5xx", "no answer in 2 tries: HTTP 503"),
        (
            "not json",
            "no answer in 2 tries: a body that is no chat completion: no JSON (JSONDecodeError)",
        ),
        ("client error", "HTTP 400"),
        ("stall", "no answer in 2 tries: no answer within 1.5 s"),
    ],
)
def test_failures_are_counted_with_their_reason_and_never_labelled(ask, kind, reason):
    collected, _, folder = ask(
        prompts(120), broken(kind), timeout_s=1.5 if kind == "stall" else 20.0, in_flight=30
    )
    ((told, count),) = collected.failed.items()
    assert told.startswith(reason)
    file = labelled(collected, folder)
    assert (file.answered, file.failed, file.not_asked) == (120 - count, collected.failed, 0)
    lost = {r["id"] for r in lines(folder.unanswered)}
    kept = {r["id"] for r in lines(folder.rows)}
    assert (len(lost), len(kept)) == (count, 120 - count)
    assert not lost & kept
    broken_ones = {f"prompts:{n + 1}" for n in range(0, 120, 4)}
    # a busy machine stalls, too
    assert lost >= broken_ones if kind == "stall" else lost == broken_ones


FILTERED = {
    "error": {
        "message": "The prompt was filtered by the content management policy.",
        "code": "content_filter",
    }
}
DECLINES = {
    "HTTP 400": ((400, FILTERED), "content_filter (HTTP 400)"),
    "finish": (completion("", finish_reason="content_filter"), "content_filter"),
    "finish, null": (completion(None, finish_reason="content_filter"), "content_filter"),
    "no choices": (
        {"model": "stub-1", "choices": [], "prompt_feedback": {"block_reason": "SAFETY"}},
        "blocked: safety",
    ),
    "refusal": (completion(None, message={"content": None, "refusal": NO}), "refusal"),
}


@pytest.mark.parametrize("name", DECLINES)
def test_what_the_endpoint_itself_declines_is_a_refusal_with_its_own_reason_and_count(ask, name):
    body, reason = DECLINES[name]
    rows = prompts(150)
    collected, stub, folder = ask(
        rows, lambda n, b: body if declines(asked_in(b)) else answers(n, b)
    )
    file = labelled(collected, folder)
    declined = sum(map(declines, rows))
    assert file.declined == {reason: declined}
    assert (file.verdicts["refusal"], file.without_outcome, len(stub.bodies)) == (declined, 0, 150)
    assert [r["kind"] == "refusal" for r in lines(folder.rows)] == [declines(p) for p in rows]
    assert {r["reason"] for r in lines(folder.answers) if r["verdict"] == "refusal"} == {reason}
    assert ask(rows, answers)[1].bodies == []  # known by now
    assert read_summary(folder.summary) == file


def asked_in(body):
    return body["messages"][-1]["content"]


def test_thoughts_are_no_answers_however_they_come(ask):
    rows = prompts(120)
    said = ("Should I refuse? I can't see why.", "It is a request like any other. " * 20)

    def script(number, body):
        refuse = declines(asked_in(body))
        thought, text = said[refuse], NO if refuse else YES
        parts = [
            {"type": "thinking", "thinking": [{"type": "text", "text": thought}]},
            {"type": "text", "text": text},
        ]
        forms = (f"<think>{thought}</think>{text}", parts, text)
        return completion(
            forms[number % 3], message={"content": forms[number % 3], "reasoning_content": thought}
        )

    collected, _, folder = ask(rows, script)
    labelled(collected, folder)
    assert [r["kind"] == "refusal" for r in lines(folder.rows)] == [declines(p) for p in rows]
    assert {r["answer"] for r in lines(folder.answers)} == {NO, YES}


def test_rows_and_lost_prompts_count_their_requests(ask):
    asked_often = [{"prompt": p, "count": 3 if n < 8 else 1} for n, p in enumerate(prompts(160))]
    cut = completion(None, message={"content": None}, finish_reason="length")
    collected, _, folder = ask(asked_often, lambda n, b: cut if n % 8 == 0 else answers(n, b))
    file = labelled(collected, folder)
    lost = 160 - len(lines(folder.rows))
    counted = sum(r.get("count", 1) for r in lines(folder.rows))
    assert sum(file.failed.values()) + file.verdicts["unscored"] == lost > 0
    assert counted + file.without_outcome == 160 + 2 * 8


def test_a_thought_that_ate_all_tokens_is_no_answer_and_says_so(ask):
    cut = completion(
        None, message={"content": None, "reasoning_content": "hm"}, finish_reason="length"
    )
    collected, _, folder = ask(prompts(160), lambda n, b: cut if n % 8 == 0 else answers(n, b))
    file = labelled(collected, folder)
    assert file.failed == {"a thought and no answer, cut off after 300 tokens": 20}
    assert file.without_outcome == 20


def test_an_alias_and_the_name_that_answers_are_both_kept(ask):
    collected, _, folder = ask(prompts(120), lambda n, b: answers(n, b) | {"model": "big-2026"})
    file = labelled(collected, folder)
    assert (file.model, file.asked_for) == ("big-2026", "m")
    old = file.model_copy(update={"asked_model": None})
    assert old.asked_for == "m"  # files of before


def test_empty_answers_are_counted_left_unscored_and_not_paid_for_again(ask):
    def script(number, body):
        return completion("") if number <= 30 else answers(number, body)

    collected, _, folder = ask(prompts(160), script)
    file = labelled(collected, folder)
    assert (file.answered, file.empty, file.verdicts["unscored"]) == (160, 30, 30)
    assert file.unscored == {"the row has no answer": 30}
    assert len(lines(folder.rows)) == 130
    assert ask(prompts(160), script)[1].bodies == []


def test_an_endpoint_that_changes_its_model_is_an_error_that_names_both(ask, tmp_path):
    def script(number, body):
        return completion(NO, model="big-june" if number <= 50 else "big-july")

    with pytest.raises(EngineError, match="'big-june' before and as 'big-july' now"):
        ask(prompts(200), script)
    with pytest.raises(EngineError, match="'big-june' before and as 'big-july' now"):
        ask(prompts(200), lambda n, b: completion(NO, model="big-july"))
    assert not (tmp_path / "bb" / "blackbox" / "rows.jsonl").exists()


def test_a_judge_that_refuses_to_judge_leaves_the_answer_out(ask, tmp_path):
    def judging(number, body):
        text = body["messages"][-1]["content"]
        if "x1" in text:
            return completion("I would rather not label this.")
        return completion(
            json.dumps({"reason": "r", "label": "refusal" if NO in text else "compliance"})
        )

    rows = prompts(150)
    collected, _, folder = ask(rows, answers)
    with serving(judging) as (url, _):
        chat = ChatClient(endpoint=Endpoint(url=url, model="j"))
        wording = Wording(rubric=builtin_rubric())
        judge = RubricJudge(chat=chat, store=LabelFile(tmp_path / "l.sqlite"), wording=wording)
        file = labelled(collected, folder, judge)
    silent = sum("x1" in p for p in rows)
    assert file.verdicts["unscored"] == silent == sum(file.unscored.values()) > 50
    assert len(lines(folder.rows)) == 150 - silent
    assert prompts_without_outcome(folder.run) == silent
    counts = json.loads(folder.summary.read_text())
    none = {"unscored": {}, "verdicts": counts["verdicts"] | {"unscored": 0}, "lost_requests": None}
    folder.summary.write_text(json.dumps(counts | none))
    with pytest.raises(ArtifactError, match=r"summary.json has changed since it was made"):
        prompts_without_outcome(folder.run)  # else these prompts would be out of every promise
    (folder.root / "made.json").unlink()  # a run of before there were receipts of it
    assert prompts_without_outcome(folder.run) == 0


def test_too_few_of_a_kind_says_how_many_there_are_and_how_many_are_needed(ask):
    collected, _, folder = ask(prompts(60), lambda n, b: completion(NO if n <= 12 else YES))
    with pytest.raises(
        DataError, match="60 scored answers 12 decline and 48 do not; at least 30"
    ) as told:
        labelled(collected, folder)
    assert "at least 18 more are declined" in told.value.hint
    assert read_summary(folder.summary).verdicts["refusal"] == 12  # what was collected is there
    collected, _, folder = ask(prompts(60), lambda n, b: completion(NO), max_tokens=9)
    with pytest.raises(DataError, match="60 decline and 0 do not") as told:
        labelled(collected, folder)
    assert "at least 30 more are answered" in told.value.hint


def test_an_endpoint_that_never_answers_is_an_error_with_the_reason(ask):
    with pytest.raises(
        DataError, match="none of 5 prompts was answered: no answer in 2 tries: HTTP 500"
    ):
        ask(prompts(5), lambda n, b: (500, "down"))


def remarks(count, flipped=0):
    """Hand-labelled answers; the first `flipped` have the other label."""
    no = (
        "That is something I must decline.",
        "Sadly I can not do it for you.",
        "My rules say no to this one.",
    )
    yes = (
        "First open the box and look.",
        "The answer is seven, as the book says.",
        "Use a wide brush, then wait.",
    )
    return [
        {
            "id": f"h{n}",
            "prompt": f"Question {n}?",
            "response": (
                f"{(yes if n % 2 else no)[n // 2 % 3]} This is remark {n} about it, and "
                "no more than that."
            ),
            "label": "compliance" if (n % 2 == 1) != (n < flipped) else "refusal",
        }
        for n in range(count)
    ]


def make_judge(classifier, digest):
    return TrainedJudge(classifier=classifier, digest=digest)


def test_a_judge_from_hand_labels_is_measured_on_answers_held_out(tmp_path):
    good = train_judge.run(
        write(tmp_path / "a.jsonl", remarks(200)), tmp_path / "j.npz", make_judge
    )
    bad = train_judge.run(
        write(tmp_path / "b.jsonl", remarks(200, flipped=20)), tmp_path / "k.npz", make_judge
    )
    assert (good.answers, good.declining) == (200, 100)
    assert good.accuracy.of + good.unscored == 200
    assert good.accuracy.hits >= 0.98 * good.accuracy.of
    # Twenty labels that contradict all others cannot be guessed: on its own training rows a judge
    # would know them.
    assert 10 <= bad.accuracy.of - bad.accuracy.hits <= 40
    classifier, _ = read_text_classifier(tmp_path / "j.npz")
    assert (
        make_judge(classifier, "d").judge("", remarks(1)[0]["response"], None).verdict == "refusal"
    )


def test_answers_to_one_prompt_are_held_out_together(tmp_path):
    """Each prompt's answers share odd words and a coin's label: who saw one knows the others."""
    coin = np.random.default_rng(0).random(40) < 0.5
    rows = [
        {
            "id": f"{n}-{m}",
            "prompt": f"p{n}",
            "response": f"word{n} other{n} thing{n} x{n}",
            "label": verdict,
        }
        for n, verdict in enumerate(np.where(coin, "refusal", "compliance").tolist())
        for m in range(4)
    ]

    def forced(classifier, digest):
        return TrainedJudge(classifier=classifier, digest=digest, force=True)

    found = train_judge.run(write(tmp_path / "a.jsonl", rows), tmp_path / "j.npz", forced)
    assert found.accuracy.hits < 0.75 * found.accuracy.of


def test_too_few_hand_labels_are_refused(tmp_path):
    with pytest.raises(
        DataError, match="15 labelled answers decline and 15 do not, to 30 prompts; at least 20"
    ):
        train_judge.run(write(tmp_path / "a.jsonl", remarks(30)), tmp_path / "j.npz", make_judge)


def examples(count):
    return [
        ExampleRow(
            id=f"e{n}",
            source="s",
            split="train",
            messages=[{"role": "user", "content": p}],
            category="refuse" if declines(p) else None,
            expected="refuse" if declines(p) else "respond",
            kind="refusal" if declines(p) else "benign",
            subcategory=None,
            group=None,
        ).to_core()
        for n, p in enumerate(prompts(count))
    ]


def test_the_predictor_is_fitted_on_the_rows_and_its_file_says_why_so(tmp_path):
    rows = examples(300)
    trained = PromptTrainer().train(rows, single(), tmp_path)
    classifier, digest = read_text_classifier(tmp_path / "model" / PREDICTOR)
    assert trained.fingerprint.model_digest == f"sha256:{digest}"
    assert trained.fingerprint.predicted
    assert trained.details["rows"] == 300
    assert str(trained.details["why"]).startswith("the lowest of 20 cross-validated log losses, ")
    right = sum(
        (classifier.log_odds(prompt_text(e.prompt)) > 0) == ("lock" in e.text) for e in rows
    )
    assert right > 255  # an eighth of the labels is turned round
    same = PromptTrainer().train(rows, single(), tmp_path / "again")
    assert same == trained
    with pytest.raises(TaxonomyError, match="one probability of refusal for 5 categories"):
        PromptTrainer().train(rows, coconot(), tmp_path / "five")


def test_terms_carry_their_coefficient_and_how_often_they_were_declined():
    rows = examples(200)
    yes_N = np.array([e.label is not None for e in rows])
    made = fit_text_classifier(
        [e.text for e in rows], yes_N, Recipe(views=(NgramView(most_words=1),), c=3.0)
    )
    terms = terms_of(made, rows)
    assert {"lock", "pick"} <= {t.words for t in terms[:4]}
    lock = next(t for t in terms if t.words == "lock")
    assert (lock.prompts, lock.declined) == (
        sum("lock" in e.text for e in rows),
        sum("lock" in e.text and e.label is not None for e in rows),
    )
    assert terms[-1].weight < 0 < terms[0].weight
    assert all(t.prompts >= 5 for t in terms)
    placed = fit_text_classifier([e.text for e in rows], yes_N)
    assert any(t.words == "pick the lock (1st sentence)" for t in terms_of(placed, rows))


def test_a_page_needs_a_run_that_is_scored(tmp_path):
    with pytest.raises(ArtifactError, match="data is not finished"):
        page.run(RunFolder(tmp_path), single())
