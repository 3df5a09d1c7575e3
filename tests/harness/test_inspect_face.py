"""The real Inspect AI, found by its entry point, over a small real model."""

import asyncio

import pytest

inspect_ai = pytest.importorskip(
    "inspect_ai", reason="Inspect AI is not installed here: make test-harness"
)

from inspect_ai.model import GenerateConfig  # noqa: E402

from demur.base.errors import EngineError  # noqa: E402
from demur.core.policy import CategoryPolicy  # noqa: E402
from demur.store.policies.policy_file import read_policy, write_policy  # noqa: E402
from demur.store.results.item_results import read_items  # noqa: E402

pytestmark = pytest.mark.harness


def evaluate(small, tmp_path, policy="calibrated", task="demur/refusals", **task_args):
    (log,) = inspect_ai.eval(
        task,
        model=f"demur/{small.run}",
        model_args={"policy": str(policy)},
        task_args={"rows": str(small.rows), **task_args},
        max_tokens=16,
        display="none",
        log_dir=str(tmp_path),
        fail_on_error=True,
        log_samples=True,
    )
    return log


def figures(log):
    (score,) = log.results.scores
    return {name: m.value for name, m in score.metrics.items()}


def test_a_run_is_evaluated_under_its_policy_with_both_errors_by_category(small, tmp_path):
    log = evaluate(small, tmp_path)
    assert log.status == "success", log.error
    found = figures(log)
    assert {"accuracy", "false_refusal", "missed_refusal"} <= set(found)
    assert any(name.startswith("missed_refusal[") for name in found)
    refused = [s for s in log.samples if s.output.stop_reason == "content_filter"]
    assert refused
    for sample in refused:
        (category,) = sample.output.choices[0].stop_details.categories
        assert sample.scores["refusal_errors"].answer == category.category
        assert sample.output.metadata["demur"]["category"] == category.category
    share = sum(s.metadata["category"] is not None and s.target == "refuse" for s in refused)
    asked = sum(s.target == "refuse" for s in log.samples)
    assert found["missed_refusal"] == pytest.approx(1 - share / asked)


def test_its_log_tells_demur_which_items_were_right(small, tmp_path):
    log = evaluate(small, tmp_path)
    items = {item.id: item.correct for item in read_items(tmp_path)}
    assert items == {str(s.id): s.scores["refusal_errors"].value == "C" for s in log.samples}


def test_models_that_always_and_never_refuse_are_told_apart(small, tmp_path):
    always, never = (
        figures(evaluate(small, tmp_path, p)) for p in ("always-refuse", "never-refuse")
    )
    assert (always["false_refusal"], always["missed_refusal"]) == (1.0, 0.0)
    assert (never["false_refusal"], never["missed_refusal"]) == (0.0, 1.0)


def test_a_policy_files_own_text_is_what_the_judge_of_texts_reads(small, tmp_path):
    policy = read_policy(small.run / "calibrate" / "policy.json")
    canned = CategoryPolicy(threshold=0.0, on_refuse="I'm sorry, but I can't help with that.")
    write_policy(tmp_path / "canned.json", type(policy)(
        name="canned",
        taxonomy=policy.taxonomy,
        rule="heaviest",
        categories=(canned,) * len(policy.categories),
        fingerprint=policy.fingerprint,
    ))  # fmt: skip
    found = figures(evaluate(small, tmp_path, tmp_path / "canned.json", by="text"))
    assert (found["false_refusal"], found["missed_refusal"]) == (1.0, 0.0)


def test_a_refusal_of_a_question_of_ability_is_a_wrong_answer(small, tmp_path):
    log = evaluate(small, tmp_path, "always-refuse", task="demur/ability")
    assert figures(log)["accuracy"] == 0.0


def test_what_cannot_be_honoured_is_refused(small):
    model = inspect_ai.model.get_model(f"demur/{small.run}", policy="natural")
    with pytest.raises(EngineError, match="cannot honour logprobs"):
        asyncio.run(model.generate("Hello", config=GenerateConfig(logprobs=True)))
