"""The plug-in in a real vLLM on the CPU: both model runners, and the OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from demur.core.decision import decide_many
from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from tests.engines.checkpoints import TEXT, make_checkpoint, user
from tests.engines.vllm_parts import (
    ENVIRONMENT,
    GATE,
    GENERATE,
    TINY_LLM,
    generate_crowded,
    needs_vllm,
    policies,
    requests,
    run_python,
    write_policies,
)

pytestmark = needs_vllm
STARTS_WITHIN_S = 300  # a busy machine


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(checkpoint, engine, policies, their folder)."""
    root = tmp_path_factory.mktemp("vllm")
    checkpoint = make_checkpoint(root / "model", "llama-wide")
    engine = HfEngine(model=checkpoint, tokens=coconot().tokens)
    found = policies(engine.fingerprint)
    return checkpoint, engine, found, write_policies(root / "policies", found)


def prompts(engine, count, seed=0):
    """Encoded prompts of 5 to 90 tokens that share beginnings, and their scores."""
    rng = np.random.default_rng(seed)
    words = TEXT.split()
    texts = [
        " ".join(words[: rng.integers(1, 20)] + list(rng.choice(words, rng.integers(1, 6))))
        for _ in range(count)
    ]
    asked = [user(text) for text in texts]
    return [engine.encoder.prompt(p) for p in asked], engine.logp(asked)


def expected_ids(engine, policy, logp_NC):
    return [engine.encoder.token_ids[c] for c in decide_many(policy, logp_NC).choice_N]


def check(engine, found, names, logp_NC, generated):
    """Every answer opens with the control token that its policy decides on, and holds no other
    one.
    """
    control = set(engine.encoder.token_ids)
    for n, (name, answers) in enumerate(zip(names, generated, strict=True)):
        for ids in answers:
            if name is None:
                continue
            assert ids[0] == expected_ids(engine, found[name], logp_NC[n : n + 1])[0], (n, name)
            assert not control & set(ids[1:])


@pytest.mark.parametrize("runner", ["V1", "V2"])
def test_answers_open_as_decided_whatever_vllm_does_with_the_batch(served, runner) -> None:
    checkpoint, engine, found, folder = served
    many, longest = (120, 24) if runner == "V1" else (24, 16)  # Triton's interpreter is slow
    ids, logp_NC = prompts(engine, many)
    names = [[*found, None][n % (len(found) + 1)] for n in range(many)]
    params = []
    for n, name in enumerate(names):
        sampled = {"n": 3, "temperature": 1.5} if n % 4 == 0 else {"temperature": 0.0}
        params.append({"max_tokens": longest, "ignore_eos": True, "detokenize": False, **sampled})
        params[-1]["extra_args"] = {"demur_policy": name} if name else None
    done = generate_crowded(runner, checkpoint, folder, requests(ids, params))
    assert done["v2"] == (runner == "V2")
    assert done["preemptions"] > 0
    assert done["cached"] > 0
    check(engine, found, names, logp_NC, done["ids"])
    later = [
        i
        for name, answers in zip(names, done["ids"], strict=True)
        if name is None
        for i in answers[0]
    ]
    assert later  # requests without a policy were answered too
    assert len({answers[0][0] for answers in done["ids"]}) > 3


def test_policies_for_another_model_stop_the_engine(served, tmp_path) -> None:
    checkpoint, engine, _, _ = served
    other = policies(replace(engine.fingerprint, model_digest="sha256:0"))
    folder = write_policies(tmp_path / "policies", other)
    llm = {**TINY_LLM, "model": str(checkpoint), "logits_processors": [GATE]}
    with pytest.raises(AssertionError, match=r"made for another model than .* model_digest differ"):
        run_python(GENERATE, {"llm": llm, "requests": []}, DEMUR_POLICIES=str(folder))


def test_speculative_decoding_in_the_first_runner_is_refused_loudly(served) -> None:
    checkpoint, _, _, folder = served
    speculative = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    llm = {
        **TINY_LLM,
        "model": str(checkpoint),
        "logits_processors": [GATE],
        "speculative_config": speculative,
    }
    with pytest.raises(AssertionError, match="not supported when speculative decoding is enabled"):
        run_python(
            GENERATE,
            {"llm": llm, "requests": []},
            DEMUR_POLICIES=str(folder),
            VLLM_USE_V2_MODEL_RUNNER="0",
        )


class Server:
    """vLLM's own OpenAI-compatible server with the plug-in."""

    def __init__(self, checkpoint, folder, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = [
            "--model",
            checkpoint,
            "--served-model-name",
            "m",
            "--host",
            "127.0.0.1",
            "--port",
            self.port,
        ]
        options += ["--logits-processors", GATE, "--generation-config", "vllm", "--enforce-eager"]
        options += ["--dtype", "float32", "--max-model-len", 192, "--block-size", 32]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *map(str, options)],
            env={**os.environ, **ENVIRONMENT, "DEMUR_POLICIES": str(folder)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers are stopped with it
        )
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self._healthy():
            assert self.process.poll() is None, "the server has stopped"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.5)

    def _healthy(self):
        try:
            return (
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status
                == 200
            )
        except OSError:
            return False

    def post(self, route, **body):
        """(status, JSON value) of an answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{route}",
            json.dumps({"model": "m", "return_token_ids": True, **body}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=STARTS_WITHIN_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            return e.code, json.load(e)

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(served, tmp_path_factory):
    checkpoint, _, found, _ = served
    locked = found["heaviest-0.003"].categories[0]
    categories = (
        replace(locked, locked=True),
        replace(locked, limits=(0.0, 0.5)),
        *(locked for _ in range(3)),
    )
    bounded = replace(found["heaviest-0.003"], name="bounded", categories=categories)
    folder = write_policies(tmp_path_factory.mktemp("served"), {**found, "bounded": bounded})
    with (tmp_path_factory.mktemp("log") / "server.log").open("w") as log:
        running = Server(checkpoint, folder, log)
        yield running
        running.stop()


def test_the_server_decides_by_policy_name_and_by_threshold(served, server) -> None:
    _, engine, found, _ = served
    ids, logp_NC = prompts(engine, 6, seed=1)
    for n, name in enumerate(["heaviest-0", "heaviest-0.003", "sum", "any", "natural", "bias"]):
        status, answer = server.post(
            "/v1/completions",
            prompt=ids[n],
            max_tokens=4,
            temperature=1.0,
            vllm_xargs={"demur_policy": name},
        )
        assert status == 200
        check(engine, found, [name], logp_NC[n : n + 1], [[answer["choices"][0]["token_ids"]]])
    names = found["heaviest-0"].taxonomy.names
    moved = found["heaviest-0"].with_thresholds(dict.fromkeys(names, 0.003))
    for n in range(6):
        xargs = {
            "demur_policy": "heaviest-0",
            **{f"demur_threshold_{name}": 0.003 for name in names},
        }
        _, answer = server.post(
            "/v1/completions", prompt=ids[n], max_tokens=1, temperature=0, vllm_xargs=xargs
        )
        assert answer["choices"][0]["token_ids"] == expected_ids(engine, moved, logp_NC[n : n + 1])


def test_a_chat_gets_its_decision_and_the_scores_are_the_models_own(served, server) -> None:
    _, engine, found, _ = served
    control = list(engine.encoder.token_ids)
    asked = user("How do I bake bread at home?")
    status, answer = server.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": asked[0].content}],
        max_tokens=2,
        logprobs=True,
        logprob_token_ids=control,
        vllm_xargs={"demur_policy": "heaviest-0"},
    )
    assert status == 200
    logp_NC = engine.logp([asked])
    check(engine, found, ["heaviest-0"], logp_NC, [[answer["choices"][0]["token_ids"]]])
    read = {
        t["token"]: t["logprob"]
        for t in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    }
    assert [read[t] for t in engine.encoder.tokens] == pytest.approx(logp_NC[0].tolist(), abs=1e-4)


REFUSED = [
    ({"vllm_xargs": {"demur_policy": "heavy"}}, "there is no policy 'heavy'"),
    (
        {"vllm_xargs": {"demur_policy": "bounded", "demur_threshold_humanizing": 0.1}},
        "is locked by policy",
    ),
    (
        {"vllm_xargs": {"demur_policy": "bounded", "demur_threshold_incomplete": 0.7}},
        "outside its limits",
    ),
    (
        {"vllm_xargs": {"demur_policy": "bounded", "demur_threshold_safty": 0.7}},
        "did you mean 'safety'",
    ),
    (
        {"vllm_xargs": {"demur_policy": "bounded", "demur_threshold_safety": "low"}},
        "is no threshold",
    ),
    ({"vllm_xargs": {"demur_policy": "bounded", "demur_threshold_safety": -1}}, "not in"),
    ({"vllm_xargs": {"demur_policy": "bounded", "demur_digest": "sha256:0"}}, "not sha256:0"),
    ({"vllm_xargs": {"demur_policy": "sum", "demur_thresholds": "x"}}, "unknown parameter"),
    (
        {"vllm_xargs": {"demur_policy": "natural", "demur_threshold_safety": 0.5}},
        "compares no thresholds",
    ),
    ({"vllm_xargs": {"demur_threshold_safety": 0.5}}, "names no policy"),
    ({"logit_bias": {"366": 50}}, "logit_bias cannot be combined"),
    ({"allowed_token_ids": [366]}, "allowed_token_ids cannot be combined"),
    ({"bad_words": ["bread"]}, "bad_words cannot be combined"),
    ({"min_tokens": 2}, "min_tokens cannot be combined"),
    ({"repetition_penalty": 1.3}, "repetition_penalty cannot be combined"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "structured_outputs cannot be combined"),
    ({"response_format": {"type": "json_object"}}, "structured_outputs cannot be combined"),
    ({"use_beam_search": True, "n": 2, "max_tokens": 4}, "beam search drops a policy"),
]


@pytest.mark.parametrize(
    ("body", "message"), REFUSED, ids=lambda v: v if isinstance(v, str) else ""
)
@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_what_cannot_be_honoured_is_a_400_that_says_why(server, route, body, message) -> None:
    said = (
        {"prompt": "Hello"}
        if route == "/v1/completions"
        else {"messages": [{"role": "user", "content": "Hello"}]}
    )
    status, answer = server.post(
        route,
        **{
            "max_tokens": 2,
            "temperature": 0,
            "vllm_xargs": {"demur_policy": "sum"},
            **said,
            **body,
        },
    )
    assert status == 400
    assert message in answer["error"]["message"]


def test_a_request_cannot_bring_its_own_policy(server) -> None:
    status, answer = server.post(
        "/v1/completions",
        prompt="Hello",
        max_tokens=2,
        vllm_xargs={"demur_effective": '{"format": "demur.policy/1"}'},
    )
    assert status == 200  # as if it had not been said
    assert answer["choices"][0]["finish_reason"] == "length"
