"""The real lm-evaluation-harness over a small real model."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="a model is run: pip install 'demur[hf]'")
lm_eval = pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed here: make test-harness"
)

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from demur.base.errors import ConfigError, EngineError  # noqa: E402
from demur.core.example import Message  # noqa: E402
from demur.core.policy import CategoryPolicy  # noqa: E402
from demur.core.threshold import ALWAYS  # noqa: E402
from demur.harness import TASKS  # noqa: E402
from demur.harness.lm_face import DemurLM  # noqa: E402
from demur.store.policies.policy_file import read_policy, write_policy  # noqa: E402
from demur.store.results.item_results import read_items  # noqa: E402

pytestmark = pytest.mark.harness

REFUSAL = "I'm sorry, but I can't help with that."
CHOICES = """
task: own_choices
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
QUESTIONS = (
    ("How many legs has a spider?", ["eight", "six", "three"], 0),
    ("What do bees make?", ["milk", "honey", "wool"], 1),
    ("Which is frozen water?", ["steam", "sand", "ice"], 2),
    ("What colour is fresh snow?", ["white", "green", "red"], 0),
    ("Where do fish live?", ["in trees", "in water", "in ovens"], 1),
    ("When does the sun rise?", ["at noon", "at midnight", "in the morning"], 2),
)


@pytest.fixture(scope="module")
def model(small):
    return DemurLM(str(small.run))


class Says(LM):
    """A subject that says the same to every request."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def generate_until(self, requests):
        return [self.text] * len(requests)

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


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
    return {
        name.removesuffix(",none"): v
        for name, v in values.items()
        if "," in name and "stderr" not in name
    }


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


@pytest.mark.parametrize(
    ("text", "errors"),
    [(REFUSAL, (1.0, 0.0)), ("Start with the first part, then do the second.", (0.0, 1.0))],
)
def test_subjects_that_always_and_never_refuse_are_told_apart_by_what_they_say(small, text, errors):
    found = results(small, Says(text))
    rates = figures(found)
    assert {s["doc"]["expected"] for s in found["samples"]["demur_refusals"]} == {
        "refuse",
        "respond",
    }
    assert (rates["false_refusal"], rates["missed_refusal"], rates["unscored"]) == (*errors, 0.0)


def test_a_policy_that_always_refuses_with_a_text_of_its_own_is_measured_by_that_text(
    small, tmp_path
):
    own = read_policy(small.run / "calibrate" / "policy.json")
    category = CategoryPolicy(threshold=ALWAYS, on_refuse=REFUSAL)
    names = {
        "taxonomy": own.taxonomy,
        "fingerprint": own.fingerprint,
        "categories": (category,) * len(own.categories),
    }
    write_policy(tmp_path / "fixed.json", type(own)(name="fixed", rule="heaviest", **names))
    rates = figures(results(small, DemurLM(str(small.run), policy=str(tmp_path / "fixed.json"))))
    assert (rates["false_refusal"], rates["missed_refusal"]) == (1.0, 0.0)


@pytest.fixture
def choices(tmp_path):
    """A folder with a multiple-choice task."""
    rows = [{"question": q, "choices": c, "gold": g} for q, c, g in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
    )
    (tmp_path / "own_choices.yaml").write_text(
        CHOICES % (tmp_path / "rows.jsonl"), encoding="utf-8"
    )
    return tmp_path


def log_likelihood(engine, context, continuation):
    """Of the continuation's tokens one by one, straight from the network."""
    ids = engine.tokenizer(continuation, add_special_tokens=False).input_ids
    with torch.no_grad():
        logp_TV = engine.network(torch.tensor([[*context, *ids]])).logits[0].log_softmax(-1)
    return sum(float(logp_TV[len(context) - 1 + n, i]) for n, i in enumerate(ids))


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat template"])
def test_the_choice_of_a_multiple_choice_task_is_the_likeliest_after_the_respond_token(
    choices, model, chat
):
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=["own_choices"],
        task_manager=TaskManager(include_path=str(choices), include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    engine, samples = model._evaluated.engine, found["samples"]["own_choices"]
    right = 0
    for (question, texts, gold), sample in zip(QUESTIONS, samples, strict=True):
        asked_as = f"Question: {question}\nAnswer:"
        respond = engine.encoder.token_ids[0]
        if chat:
            context = [*engine.encoder.prompt((Message(role="user", content=asked_as),)), respond]
        else:
            context = [*engine.tokenizer(asked_as).input_ids, respond]
        logp = [log_likelihood(engine, context, t if chat else f" {t}") for t in texts]
        assert [float(r[0]) for r in sample["filtered_resps"]] == pytest.approx(logp, abs=1e-3)
        right += logp.index(max(logp)) == gold
    assert figures(found, "own_choices")["acc"] == pytest.approx(right / len(QUESTIONS))


def test_answers_are_those_of_the_engine_under_the_policy_with_and_without_the_chat_template(
    small, model
):
    plain = results(small, model)["samples"]["demur_refusals"]
    chat = results(small, model, apply_chat_template=True)["samples"]["demur_refusals"]
    assert [s["resps"] for s in plain] == [s["resps"] for s in chat]
    engine, policy = model._evaluated.engine, model._evaluated.policy
    prompts = [(Message(role="user", content=s["doc"]["request"]),) for s in plain]
    theirs = [given.text for _, _, given in engine.answer(prompts, policy)]
    # The engine writes as many tokens as the run's own evaluation, the harness as many as asked.
    for ours, other in zip(plain, theirs, strict=True):
        text = ours["resps"][0][0].strip()
        both = min(len(text), len(other), 20)
        assert text[:both] == other[:both]


def test_log_likelihoods_are_the_networks_own_and_the_respond_token_stands_before_the_continuation(
    small, model
):
    raw = DemurLM(str(small.run), respond=False)
    requests = [
        asked("loglikelihood", "Name a river:", " The Rhine"),
        asked("loglikelihood", "Name a river:", " No"),
    ]
    with_token, without = model.loglikelihood(requests), raw.loglikelihood(requests)
    assert all(logp < 0 for logp, _ in with_token + without)
    assert [logp for logp, _ in with_token] != [logp for logp, _ in without]
    context, continuation = model._encode_pair("Name a river:", " The Rhine")
    assert raw._encode_pair("Name a river:", " The Rhine") == (context[:-1], continuation)
    assert context[-1] == model._evaluated.engine.encoder.token_ids[0]


def test_a_token_typed_into_a_chat_never_becomes_a_control_id(model):
    token_ids = model._evaluated.engine.encoder.token_ids
    chat = model.apply_chat_template([{"role": "user", "content": "Say [respond] now"}])
    context, _ = model._encode_pair(chat, "Yes")
    assert [i for i in context if i in token_ids] == [token_ids[0]]


def test_what_cannot_be_honoured_is_refused(small, model):
    with pytest.raises(EngineError, match="cannot honour repetition_penalty"):
        model.generate_until(
            [asked("generate_until", "Hello", {"until": [], "repetition_penalty": 1.2})]
        )
    with pytest.raises(EngineError, match="prefilled"):
        model.apply_chat_template(
            [{"role": "assistant", "content": "Sure"}], add_generation_prompt=False
        )
    with pytest.raises(ConfigError, match="no setting polcy"):
        DemurLM(str(small.run), polcy="natural")


def test_a_multiple_choice_task_runs_from_the_command_line_as_the_docs_say(
    small, choices, tmp_path
):
    page = (Path(__file__).parents[2] / "docs" / "harness.md").read_text(encoding="utf-8")
    (line,) = re.findall(
        r"^python -m (demur\.harness\.lm_face run .* --tasks arc_easy.*\n.*)$", page, re.MULTILINE
    )
    known = TaskManager().all_tasks
    tasks = line.split("--tasks ")[1].split()[0]
    assert set(tasks.split(",")) <= set(known)
    words = (
        line.replace("\\\n", " ")
        .replace("runs/a", str(small.run))
        .replace("after/", str(tmp_path / "after"))
    )
    words = words.replace(tasks, f"own_choices --include_path {choices}").split()
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert {i.task for i in read_items(tmp_path / "after")} == {"own_choices"}
    assert len(read_items(tmp_path / "after")) == len(QUESTIONS)


def test_the_harness_runs_from_its_own_command_line_and_its_samples_can_be_compared(
    small, tmp_path
):
    for policy in ("natural", "always-refuse"):
        words = ["run", "--model", "demur", "--model_args", f"run={small.run},policy={policy}"]
        words += ["--tasks", "demur_ability", "--include_path", str(TASKS)]
        words += [
            "--metadata",
            json.dumps({"rows": str(small.rows)}),
            "--gen_kwargs",
            "max_gen_toks=16",
        ]
        words += ["--log_samples", "--output_path", str(tmp_path / policy), "--limit", "12"]
        command = [sys.executable, "-m", "demur.harness.lm_face", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    command = [
        sys.executable,
        "-m",
        "demur",
        "ability",
        tmp_path / "natural",
        tmp_path / "always-refuse",
        "--json",
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True, timeout=60
    )
    (row,) = json.loads(done.stdout)
    assert (row["task"], row["items"], row["after"]) == ("demur_ability", 12, 0.0)
