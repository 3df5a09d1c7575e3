"""VllmEngine against HfEngine on one checkpoint."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from demur.store.rows import read_examples
from demur.store.scores.tables import read_branches, read_scores
from tests.engines.checkpoints import make_checkpoint, user
from tests.engines.tiny_run import tiny_run
from tests.engines.vllm_parts import TINY_LLM, needs_vllm, run_python

pytestmark = needs_vllm
TEXTS = [
    "What is the capital of France?",
    "How do I bake bread? " * 6,
    "Hi",
    "What is the capital of France?",
]
COLUMNS = [[0, 3], [5], [], [0, 1, 2]]

# Everything that the stages ask of an engine, and two prompts that do not fit.
ASK = """
from dataclasses import asdict
from demur.base.errors import EngineError
from demur.core.example import Message
from demur.engines.vllm.engine import VllmEngine
def user(text):
    return (Message(role="user", content=text),)
options = {k: v for k, v in argument["llm"].items() if k != "dtype"}
engine = VllmEngine(
    model=argument["model"],
    tokens=argument["tokens"],
    max_new_tokens=20,
    prompts_at_once=2,
    options={"distributed_executor_backend": "uni", **options},
)
prompts, seen = [user(t) for t in argument["texts"]], []
result = {
    "fingerprint": asdict(engine.fingerprint),
    "logp": engine.logp(prompts, lambda *progress: seen.append(progress)).tolist(),
    "empty": [engine.logp([]).shape, engine.branches([], [])],
    "branches": [
        {column: asdict(answer) for column, answer in branches.items()}
        for branches in engine.branches(prompts, argument["columns"])
    ],
    "progress": seen,
}
try:
    engine.logp([user("Hi"), user("bread " * 400)])
except EngineError as e:
    result["error"] = str(e)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(HfEngine, what VllmEngine says)."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("vllm") / "model", "llama-wide")
    tokens = coconot().tokens
    argument = {
        "llm": TINY_LLM,
        "model": str(checkpoint),
        "tokens": tokens,
        "texts": TEXTS,
        "columns": COLUMNS,
    }
    return HfEngine(model=checkpoint, tokens=tokens, max_new_tokens=20), run_python(ASK, argument)


def test_the_fingerprint_is_that_of_transformers(both) -> None:
    hf, said = both
    assert {f: tuple(v) if isinstance(v, list) else v for f, v in said["fingerprint"].items()} == {
        f: getattr(hf.fingerprint, f) for f in hf.fingerprint.__dataclass_fields__
    }


def test_scores_are_those_of_transformers(both) -> None:
    hf, said = both
    np.testing.assert_allclose(np.array(said["logp"]), hf.logp([user(t) for t in TEXTS]), atol=1e-4)
    assert said["empty"] == [[0, 6], []]
    assert said["progress"][-1] == [len(TEXTS), len(TEXTS)]


def test_branches_are_those_of_transformers(both) -> None:
    hf, said = both
    expected = hf.branches([user(t) for t in TEXTS], COLUMNS)
    for theirs, ours in zip(said["branches"], expected, strict=True):
        assert {int(c): a["text"] for c, a in theirs.items()} == {
            c: a.text for c, a in ours.items()
        }
        assert {int(c): (a["finished"], a["tokens"]) for c, a in theirs.items()} == {
            c: (a.finished, a.tokens) for c, a in ours.items()
        }


def test_a_prompt_that_does_not_fit_is_named(both) -> None:
    assert "prompt 1 has" in both[1]["error"]


# The stages as `demur run` calls them, with the engine that config.json names.
STAGES = """
from pathlib import Path
from demur.assembly.steps import Steps
from demur.assembly.run import reopen
steps = Steps(reopen(Path(argument)))
for stage in ("score", "calibrate", "evaluate"):
    steps.perform(stage)
result = type(steps.engine.loaded).__name__
"""


def test_the_stages_score_and_evaluate_a_run_through_it(tmp_path) -> None:
    hf, folder = tiny_run(tmp_path / "run", "llama-wide", engine="vllm")
    expected, _ = read_scores(folder.scores("test"))
    shutil.rmtree(folder.stage("score"))
    assert run_python(STAGES, str(folder.root)) == "VllmEngine"
    table, fingerprint = read_scores(folder.scores("test"))
    assert fingerprint == hf.fingerprint
    np.testing.assert_allclose(table.select(expected.ids).logp_NC, expected.logp_NC, atol=1e-4)
    prompts = {e.id: e.prompt for e in read_examples(folder.split("test"))}
    branches = read_branches(folder.branches, hf.encoder.tokens)[:40]
    theirs = hf.branches([prompts[b.id] for b in branches], [[b.column] for b in branches])
    assert branches
    assert [b.answer for b in branches] == [
        made[b.column] for b, made in zip(branches, theirs, strict=True)
    ]
