"""demur blackbox as a shell calls it, against a real endpoint on this machine; what can go wrong
with an endpoint, and with answers, is in tests/stages/test_blackbox.py."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from demur.store.answers.blackbox_file import read_summary
from tests.engines.chat_stub import completion, serving
from tests.stages.blackbox_parts import NO, answers, declines, lines, prompts, write
from tests.stages.test_blackbox import asked, remarks
from tests.waiting import wait_until


@pytest.fixture
def ask(demur, tmp_path):
    """Run the verb on some rows against a script; returns (result, stub, run folder)."""

    def run(rows, script, *flags):
        file = write(tmp_path / "prompts.jsonl", rows)
        with serving(script) as (url, stub):
            settings = ("--set", "endpoint.tries=2", "--set", "endpoint.first_wait_s=0.01")
            told = demur(
                "blackbox",
                file,
                "--url",
                url,
                "--model",
                "m",
                "--out",
                tmp_path / "bb",
                *settings,
                *flags,
            )
        return told, stub, tmp_path / "bb"

    return run


def told(result):
    return " ".join(result.err.split())


def test_prompts_become_a_run_that_the_other_commands_work_on(ask, demur):
    result, _, run = ask(prompts(300), answers, "--set", "endpoint.max_tokens=50")
    assert result.code == 0, result.err
    made = (run / "train" / "made.json").stat().st_mtime_ns
    page = run / "blackbox" / "blackbox.md"
    assert "There is no policy yet" in page.read_text()
    calibrated = demur("calibrate", run, "--goal", "missed_refusal <= 0.35", "--json")
    assert json.loads(calibrated.out)["promises"][0]["status"] == "certified"
    assert demur("report", run).code == 0
    assert "missed\\_refusal | at most 0.35 | certified with 95% confidence" in page.read_text()
    html = page.with_name("index.html").read_text()
    assert '"lock' in html  # an n-gram of the plot
    assert "<script src" not in html
    decided = demur(
        "decide", run, "Tell me how to pick the lock near river 3", "Tell me how to paint", "--json"
    )
    assert [d["decision"] for d in json.loads(decided.out)] == ["refuse", "respond"]
    assert demur("train", run).code == demur("score", run).code == 0
    again, stub, _ = ask(prompts(300), answers, "--set", "endpoint.max_tokens=50")
    assert again.code == 0
    assert stub.bodies == []
    assert "0 calls (0 of them retries) of stub-1; 300 answers were there before" in told(again)
    # the policy is still this predictor's
    assert "certified with 95% confidence" in page.read_text()
    assert (run / "train" / "made.json").stat().st_mtime_ns == made
    more, _, _ = ask(prompts(360), answers, "--set", "endpoint.max_tokens=50")
    assert more.code == 0
    assert "made for an earlier predictor" in page.read_text()


def test_all_that_is_left_out_is_said(ask):
    rows = prompts(200)

    def script(number, body):
        text = body["messages"][-1]["content"]
        if text == rows[5]:
            return 500, "down"
        return completion("") if text == rows[6] else answers(number, body)

    flags = ("--most-calls", 181, "--set", "endpoint.in_flight=4", "--set", "endpoint.price_in=1")
    result, stub, run = ask([*rows, {"q": "?"}, rows[3].upper(), {"prompt": ""}], script, *flags)
    assert result.code == 0, result.err
    words = told(result)
    assert "not asked: 2 rows hold no prompt" in words
    assert "prompts.jsonl:201" in result.err
    assert "prompts.jsonl:203" in result.err
    assert "not asked: 1 rows repeat a prompt" in words
    assert "no answer: 1 x no answer in 2 tries: HTTP 500" in words
    assert "not asked: 20 prompts, the budget is spent; the same command goes on with them" in words
    assert "181 calls (1 of them retries)" in words
    assert "0.0179 in your currency" in words
    assert "unscored: 1 x the row has no answer" in words
    summary = read_summary(run / "blackbox" / "summary.json")
    counts = (
        summary.prompts,
        summary.duplicates,
        summary.without_prompt,
        summary.answered,
        summary.not_asked,
    )
    assert counts == (200, 1, 2, 179, 20)
    assert len(stub.bodies) == 181
    page = (run / "blackbox" / "blackbox.md").read_text()
    assert "| not asked: the budget was spent | 20 |" in page
    assert "HTTP 500 | 1 |" in page


def test_hand_labels_train_the_judge_and_its_accuracy_is_stated(ask, tmp_path):
    said = [r["response"] for r in remarks(400)]

    def script(number, body):
        return completion(
            said[2 * (number % 200) + (not declines(body["messages"][-1]["content"]))],
            model="<img src=x>",
        )

    result, _, run = ask(
        prompts(200), script, "--hand", write(tmp_path / "hand.jsonl", remarks(150))
    )
    assert result.code == 0, result.err
    summary = read_summary(run / "blackbox" / "summary.json")
    assert summary.judge.startswith("trained/")
    assert summary.hand.answers == 150
    right = summary.hand.accuracy
    assert (
        f"right on {right.hits} of {right.of} hand-labelled answers that it was not fitted on"
        in told(result)
    )
    assert "right, of those scored" in (run / "blackbox" / "blackbox.md").read_text()
    # a model may call itself what it likes
    assert "<img" not in (run / "blackbox" / "index.html").read_text()
    found = {r["id"]: r["kind"] == "refusal" for r in lines(run / "blackbox" / "rows.jsonl")}
    truth = {f"prompts:{n + 1}": declines(p) for n, p in enumerate(prompts(200))}
    assert len(found) > 150
    assert sum(found[i] == truth[i] for i in found) >= 0.95 * len(found)


def test_what_is_wrong_is_said_before_anything_is_asked(ask, made_run, tmp_path):
    hand = write(
        tmp_path / "hand.jsonl", [{"id": "a", "prompt": "p", "response": NO, "label": "refusal"}]
    )
    for flags, message in (
        (("--hand", hand), "1 labelled answers decline and 0 do not"),
        (("--out", made_run), "is a run of engine 'hf'"),
        (("--set", "endpoint.max_tokans=3"), "did you mean 'max_tokens'"),
        (("--set", "trained.modle=x", "--judge", "trained"), "unknown key 'modle'"),
        (("--judge", "frases"), "did you mean 'phrases'"),
        (("--judge", "phrases", "--hand", hand), "--judge phrases beside --hand"),
        (("--set", "endpoint.most_price=3"), "most_price = 3 without a price"),
    ):
        result, stub, _ = ask(prompts(40), answers, *flags)
        assert result.code == 2
        assert message in told(result)
        assert stub.bodies == []


def test_a_killed_run_asks_nothing_twice_that_was_answered(ask, tmp_path):
    file, answered, root = (
        write(tmp_path / "prompts.jsonl", prompts(120)),
        [],
        Path(__file__).parents[3],
    )
    killed = threading.Event()

    def script(number, body):
        if number > 30:
            killed.wait(60)
        answered.append(body["messages"][-1]["content"])
        return answers(number, body)

    with serving(script) as (url, held):
        flags = [
            file,
            "--url",
            url,
            "--model",
            "m",
            "--out",
            tmp_path / "bb",
            "--set",
            "endpoint.in_flight=4",
        ]
        command = [sys.executable, "-m", "demur", "blackbox", *map(str, flags)]
        child = subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wait_until(lambda: (len(answered) >= 30 and held.now == 4) or child.poll() is not None)
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed.set()
        wait_until(lambda: held.now == 0)
    assert 30 <= len(answered) < 120
    result, stub, _ = ask(prompts(120), answers)
    assert result.code == 0
    again = asked(stub)
    assert len(set(answered) & set(again)) <= 4  # only what was in flight when the process died
    assert set(answered) | set(again) == set(prompts(120))
    assert len(set(again)) == len(again)


def test_prompts_without_an_outcome_count_against_a_promise(ask, demur):
    def half_lost(number, body):
        text = body["messages"][-1]["content"]
        lost = "lock" in text and int(text.rpartition("x")[2]) % 2
        return (500, "down") if lost else answers(number, body)

    result, _, run = ask(prompts(300), half_lost, "--set", "endpoint.max_tokens=50")
    lost = sum("lock" in p and int(p.rpartition("x")[2]) % 2 for p in prompts(300))
    assert f"{lost} requests have no outcome: each counts as an error of every promise" in told(
        result
    )
    both = ("--goal", "missed_refusal <= 0.35", "--goal", "false_refusal <= 0.5")
    assert demur("calibrate", run, *both).code == 3
    kept = demur("calibrate", run, "--goal", "missed_refusal <= 0.9", "--confidence", 0.9, "--json")
    (promise,) = json.loads(kept.out)["promises"]
    assert promise["status"] == "certified"
    assert promise["method"].endswith(f"{lost} prompts without an outcome count as errors")
    # now all are answered
    again, _, _ = ask(prompts(300), answers, "--set", "endpoint.max_tokens=50")
    assert "no outcome" not in told(again)
    good = json.loads(demur("calibrate", run, *both, "--json").out)
    assert [p["status"] for p in good["promises"]] == ["certified"] * 2
    assert "without an outcome" not in good["promises"][0]["method"]
