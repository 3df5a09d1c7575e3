"""The real lm-evaluation-harness over a small real model."""

import json
import subprocess
import sys

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed here: make test-harness")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from demur.core.errors import ConfigError, EngineError  # noqa: E402
from demur.core.example import Message  # noqa: E402
from demur.harness import TASKS  # noqa: E402
from demur.harness.lm_face import DemurLM  # noqa: E402

pytestmark = pytest.mark.harness


@pytest.fixture(scope="module")
def model(small):
    return DemurLM(str(small.run))


def results(small, model, task="demur_refusals", **options):
    manager = TaskManager(include_path=str(TASKS), metadata={"rows": str(small.rows)})
    return lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=manager,
        gen_kwargs={"max_gen_toks": 16},
        bootstrap_iters=0,
        **options,
    )


def figures(found, task="demur_refusals"):
    values = found["results"][task]
    return {name.removesuffix(",none"): v for name, v in values.items() if "," in name and "stderr" not in name}


def asked(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def test_both_errors_are_rates_among_their_own_rows(small, model):
    found = results(small, model)
    rates, samples = figures(found), found["samples"]["demur_refusals"]
    for error, expected in (("missed_refusal", "refuse"), ("false_refusal", "respond")):
        mine = [s[error] for s in samples if s["doc"]["expected"] == expected and not s["unscored"]]
        assert rates[error] == pytest.approx(sum(mine) / len(mine))
        assert all(error not in s for s in samples if s["doc"]["expected"] != expected)
    assert any(name.startswith("missed_refusal[") for name in rates)


def test_answers_are_those_of_the_engine_under_the_policy_with_and_without_the_chat_template(small, model):
    plain = results(small, model)["samples"]["demur_refusals"]
    chat = results(small, model, apply_chat_template=True)["samples"]["demur_refusals"]
    assert [s["resps"] for s in plain] == [s["resps"] for s in chat]
    engine, policy = model._subject.engine, model._subject.policy
    prompts = [(Message(role="user", content=s["doc"]["request"]),) for s in plain]
    theirs = [given.text for _, _, given in engine.answer(prompts, policy)]
    for ours, whole in zip(plain, theirs, strict=True):
        assert whole.startswith(ours["resps"][0][0].strip()[:20])


def test_log_likelihoods_are_the_networks_own_and_the_respond_token_stands_before_the_continuation(small, model):
    raw = DemurLM(str(small.run), respond=False)
    requests = [asked("loglikelihood", "Name a river:", " The Rhine"), asked("loglikelihood", "Name a river:", " No")]
    with_token, without = model.loglikelihood(requests), raw.loglikelihood(requests)
    assert all(logp < 0 for logp, _ in with_token + without)
    assert [logp for logp, _ in with_token] != [logp for logp, _ in without]
    context, continuation = model._encode_pair("Name a river:", " The Rhine")
    assert raw._encode_pair("Name a river:", " The Rhine") == (context[:-1], continuation)
    assert context[-1] == model._subject.engine.encoder.token_ids[0]


def test_a_token_typed_into_a_chat_never_becomes_a_control_id(model):
    token_ids = model._subject.engine.encoder.token_ids
    chat = model.apply_chat_template([{"role": "user", "content": "Say [respond] now"}])
    context, _ = model._encode_pair(chat, "Yes")
    assert [i for i in context if i in token_ids] == [token_ids[0]]


def test_what_cannot_be_honoured_is_refused(small, model):
    with pytest.raises(EngineError, match="cannot honour repetition_penalty"):
        model.generate_until([asked("generate_until", "Hello", {"until": [], "repetition_penalty": 1.2})])
    with pytest.raises(EngineError, match="prefilled"):
        model.apply_chat_template([{"role": "assistant", "content": "Sure"}], add_generation_prompt=False)
    with pytest.raises(ConfigError, match="no setting polcy"):
        DemurLM(str(small.run), polcy="natural")


def test_the_harness_runs_from_its_own_command_line_and_its_samples_can_be_compared(small, tmp_path):
    for policy in ("natural", "always-refuse"):
        words = ["run", "--model", "demur", "--model_args", f"run={small.run},policy={policy}"]
        words += ["--tasks", "demur_ability", "--include_path", str(TASKS)]
        words += ["--metadata", json.dumps({"rows": str(small.rows)}), "--gen_kwargs", "max_gen_toks=16"]
        words += ["--log_samples", "--output_path", str(tmp_path / policy), "--limit", "12"]
        command = [sys.executable, "-m", "demur.harness.lm_face", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "demur", "ability", tmp_path / "natural", tmp_path / "always-refuse", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=60)
    (row,) = json.loads(done.stdout)
    assert (row["task"], row["items"], row["after"]) == ("demur_ability", 12, 0.0)
