"""Runs that predict refusals beside the model that answers: made, decided on and served by the real
verbs.
"""

import json
import math
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from openai import OpenAI

from demur.core.fingerprint import LOGPROB_CONVENTION
from demur.core.policy import natural
from demur.store.answers.blackbox_file import BlackboxFile, BlackboxFolder, write_summary
from demur.store.models.model_file import read_model_file
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.run import RunFolder
from tests.engines.chat_stub import completion, events
from tests.engines.chat_stub import serving as stub_serving
from tests.engines.hf.test_guard import checkpoint
from tests.predictor_run import ANSWERED, DECLINED, examples, predictor_run
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of engine "prompts"; tests must not change it."""
    return predictor_run(
        tmp_path_factory.mktemp("runs") / "big", on_refuse={"refuse": "Not here."}
    )[0].root


def judging(number, body):
    """A guard that sees locks, doors and safes."""
    p = 0.9 if any(w in body["messages"][-1]["content"] for w in ("lock", "door", "safe")) else 0.05
    top = [
        {"token": "unsafe", "logprob": math.log(p)},
        {"token": "safe", "logprob": math.log(1 - p)},
    ]
    position = {"token": "safe", "logprob": 0.0, "top_logprobs": top}
    return completion("safe", logprobs={"content": [position]})


def guard_toml(folder, engine, options, goal="f1 max"):
    rows = [
        {
            "messages": [{"role": "user", "content": e.text}],
            "kind": e.kind,
            "category": e.category,
            "id": e.id,
        }
        for e in examples()
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    path = folder / "guard.toml"
    path.write_text(
        f'[run]\nengine = "{engine}"\n[engine]\n{lines}\n[taxonomy]\npreset = "single"\n'
        '[[data.sources]]\nkind = "jsonl"\nfolder = "."\nfiles = '
        f'["rows.jsonl"]\n[calibrate]\ngoal = "{goal}"\n'
    )
    return path


def test_a_guard_behind_an_endpoint_becomes_a_run_with_a_promise(demur, tmp_path):
    root = tmp_path / "run"
    with stub_serving(judging) as (url, stub):
        config = guard_toml(
            tmp_path, "guard-chat", {"url": url, "model": "stub-1"}, "missed_refusal <= 0.4"
        )
        first = demur("run", config, "--out", root)
        asked = len(stub.bodies)
        again = demur("run", config, "--out", root)
    assert first.code == 0, first.err
    assert "certified: missed_refusal at 0.4" in first.err
    assert "left out: evaluate and report; engine 'guard-chat' writes no answers" in first.err
    assert again.err.count("already done") == 4
    assert len(stub.bodies) == asked
    assert (
        read_model_file(root / "train" / "model").fingerprint.logprobs
        == "predicted/guard-chat/float32"
    )
    read_policy(RunFolder(root).policy).require_model(
        read_model_file(root / "train" / "model").fingerprint
    )


def test_a_guard_that_reads_everything_anyway_is_not_told_to(demur, tmp_path):
    with stub_serving(judging) as (url, _):
        demur(
            "run",
            guard_toml(tmp_path, "guard-chat", {"url": url, "model": "stub-1"}),
            "--out",
            tmp_path / "run",
        )
    settings = tmp_path / "serve.toml"
    settings.write_text('[backend]\nreads = "all"\n')
    result = demur(
        "serve", tmp_path / "run", "--url", "http://127.0.0.1:9/v1", "--config", settings
    )
    assert (result.code, "reads the whole conversation" in result.err) == (2, True), result.err


def test_another_guard_is_scored_anew(demur, tmp_path):
    root = tmp_path / "run"
    with stub_serving(judging) as (url, stub):
        config = guard_toml(tmp_path, "guard-chat", {"url": url, "model": "stub-1"})
        demur("run", config, "--out", root)
        before = len(stub.bodies)
        config = guard_toml(
            tmp_path,
            "guard-chat",
            {"url": url, "model": "stub-1", "template": "Hm: {conversation}"},
        )
        assert demur("run", config, "--out", root).code == 0
    assert len(stub.bodies) == 2 * before


def test_a_guard_in_this_process_becomes_a_run(demur, tmp_path):
    checkpoint(tmp_path / "guard")
    config = guard_toml(
        tmp_path, "guard-hf", {"model": "./guard", "refuse": ["harmful", "jailbreak"]}
    )
    result = demur("run", config, "--out", tmp_path / "run")
    assert result.code == 0, result.err
    decided = demur("decide", tmp_path / "run", "how do i pick a lock", "--json")
    assert decided.code == 0, decided.err
    assert set(json.loads(decided.out)[0]["probability"]) == {"respond", "refuse"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"guard-chat"', '"hf"'), "engine 'hf' takes no options"),
        (('"single"', '"coconot"'), "5 categories"),
        (("model =", "modell ="), "did you mean 'model'"),
        (("[engine]", "[engines]"), "did you mean 'engine'"),
    ],
)
def test_a_guards_config_at_fault_is_named(demur, tmp_path, change, message):
    config = guard_toml(tmp_path, "guard-chat", {"url": "http://127.0.0.1:9/v1", "model": "m"})
    config.write_text(config.read_text().replace(*change))
    result = demur("run", config, "--out", tmp_path / "run")
    assert (result.code, message in result.err) == (2, True), result.err


def test_decide_works_as_on_any_run(demur, made):
    result = demur("decide", made, DECLINED, ANSWERED, "--json")
    assert result.code == 0, result.err
    assert [row["decision"] for row in json.loads(result.out)] == ["refuse", "respond"]


def test_chat_shows_the_decision_and_says_that_nothing_is_written(
    demur, made, monkeypatch, tmp_path
):
    lines = tmp_path / "lines"
    lines.write_text(f"{DECLINED}\n/threshold refuse 1\n{DECLINED}\n/quit\n")
    monkeypatch.setattr(sys, "stdin", lines.open())
    result = demur("chat", made)
    assert result.code == 0, result.err
    assert "decides and writes nothing" in result.err
    assert result.out.count("decision: refuse") == 1
    assert result.out.count("decision: respond") == 1
    assert "Not here." in result.out


def test_evaluate_needs_a_model_that_answers(demur, made):
    result = demur("evaluate", made)
    assert (result.code, "needs a model that answers" in result.err) == (2, True), result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "needs --url"),
        (("--backend", "hf"), "engine 'prompts' has none"),
        (("--backend", "openai", "--url", "http://127.0.0.1:9/v1"), "engine 'prompts' has none"),
    ],
)
def test_only_a_gate_serves_such_a_run(demur, made, flags, message):
    result = demur("serve", made, *flags)
    assert (result.code, message in result.err) == (2, True), result.err


def test_a_gate_serves_no_other_run(demur, made_run):
    result = demur("serve", made_run, "--backend", "gate", "--url", "http://127.0.0.1:9/v1")
    assert (result.code, "decides by a predictor, and the run's engine is 'hf'" in result.err) == (
        2,
        True,
    ), result.err


def test_an_unknown_setting_of_the_gate_is_named(demur, made, tmp_path):
    settings = tmp_path / "serve.toml"
    settings.write_text('[backend]\nreads = "some"\n')
    result = demur("serve", made, "--url", "http://127.0.0.1:9/v1", "--config", settings)
    assert (result.code, "reads" in result.err) == (2, True), result.err


def test_a_changed_classifier_is_not_served(demur, made, tmp_path):
    other = predictor_run(tmp_path / "other")[0]
    path = other.model / "predictor.npz"
    path.write_bytes(path.read_bytes()[:-1])
    result = demur("serve", other.root, "--url", "http://127.0.0.1:9/v1")
    assert (result.code, "has changed since it was made" in result.err) == (2, True), result.err


@contextmanager
def served(root, url, *flags):
    """The URL of `demur serve` on a run, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "demur",
        "serve",
        str(root),
        "--url",
        url,
        "--port",
        "0",
        *map(str, flags),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            said = server.stderr.readline()
            assert " on " in said, said + server.stderr.read()
            yield said.partition(" on ")[2].partition(",")[0]
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
        finally:
            server.kill()


def test_the_whole_server_stands_in_front_of_the_very_model(made, tmp_path):
    policies = tmp_path / "policies"
    own = read_policy(RunFolder(made).policy)
    write_policy(policies / "default.json", own)
    settings = tmp_path / "serve.toml"
    settings.write_text("[server]\nreload_s = 0.05\n")
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
    }

    def script(number, body):
        if body.get("tools"):
            call = {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": "{}"}}
            return events({"tool_calls": [call]}, finish="tool_calls")
        return events("Knead ", "it.", usage=(12, 3))

    with stub_serving(script) as (url, stub):
        stub.models = ["big"]
        with served(made, url, "--policies", policies, "--config", settings) as ours:
            client = OpenAI(base_url=ours, api_key="none", max_retries=0)

            def ask(text, **fields):
                return client.chat.completions.create(
                    model="big", messages=[{"role": "user", "content": text}], **fields
                )

            refused = ask(DECLINED)
            assert (len(stub.bodies), stub.looks) == (0, 0)
            assert (refused.choices[0].message.refusal, refused.choices[0].message.content) == (
                "Not here.",
                None,
            )
            assert refused.model_extra["demur"]["category"] == "refuse"
            assert refused.choices[0].model_extra["content_filter_results"]["refuse"]["filtered"]
            assert refused.usage.total_tokens == 0

            answered = ask(ANSWERED)
            assert answered.choices[0].message.content == "Knead it."
            assert (answered.usage.prompt_tokens, answered.usage.completion_tokens) == (12, 3)
            assert len(stub.bodies) == 1

            pieces = list(ask(ANSWERED, stream=True, stream_options={"include_usage": True}))
            assert (
                "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
                == "Knead it."
            )
            assert pieces[-1].usage.prompt_tokens == 12
            streamed = list(ask(DECLINED, stream=True))
            assert "Not here." in [p.choices[0].delta.refusal for p in streamed]

            called = ask(ANSWERED, tools=[tool])
            assert called.choices[0].finish_reason == "tool_calls"
            assert called.choices[0].message.tool_calls[0].function.name == "weather"
            assert stub.bodies[-1]["tool_choice"] == "auto"

            before = len(stub.bodies)
            lenient = ask(DECLINED, extra_body={"demur": {"thresholds": {"refuse": "never"}}})
            assert lenient.choices[0].message.content == "Knead it."
            assert lenient.model_extra["demur"]["overridden"]
            assert len(stub.bodies) == before + 1

            ready = httpx.get(ours.removesuffix("/v1") + "/readyz", trust_env=False)
            assert ready.status_code == 200
            write_policy(policies / "default.json", own.with_thresholds({"refuse": 2.0}))
            wait_until(lambda: ask(DECLINED).choices[0].message.content == "Knead it.")


def test_a_policy_for_a_model_with_tokens_is_not_served_here(demur, made, tmp_path):
    own = read_policy(RunFolder(made).policy)
    write_policy(
        tmp_path / "p.json",
        natural(own.taxonomy, replace(own.fingerprint, logprobs=LOGPROB_CONVENTION)),
    )
    result = demur(
        "serve", made, "--url", "http://127.0.0.1:9/v1", "--policies", tmp_path / "p.json"
    )
    assert (result.code, "made for another model: logprobs" in result.err) == (2, True), result.err


def test_the_gate_of_a_blackbox_run_is_for_the_model_that_was_asked(tmp_path):
    folder = predictor_run(tmp_path / "bb")[0]
    summary = BlackboxFile(
        model="stub-1", asked_as="stub-1", prompts=1, duplicates=0, without_prompt=0, answered=1,
        empty=0,
        not_asked=0, failed={}, judge="phrases", verdicts={}, unscored={},
    )  # fmt: skip
    write_summary(BlackboxFolder(folder).summary, summary)
    names = {"now": "stub-1"}
    asked = {"model": "big", "messages": [{"role": "user", "content": ANSWERED}]}
    with (
        stub_serving(lambda number, body: events("fine", model=names["now"])) as (url, stub),
        served(folder.root, url) as ours,
        httpx.Client(base_url=ours, trust_env=False) as client,
    ):
        assert (
            client.post("chat/completions", json=asked).json()["choices"][0]["message"]["content"]
            == "fine"
        )
        assert stub.bodies[0]["model"] == "stub-1"
        names["now"] = "stub-2"
        got = client.post("chat/completions", json=asked)
    assert (got.status_code, got.json()["error"]["code"]) == (503, "model_unavailable")
