"""Promises about somebody else's model: a stub that declines with known probability is asked over
HTTP, and what was certified on its answers is held against what it does to thousands of prompts
that nobody asked it."""

import json
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from demur.core.decision import decide_many
from demur.core.policy import CategoryPolicy, Policy
from demur.core.predictor import predictor_scores
from demur.core.taxonomy import single
from demur.stats.measure import auroc
from demur.store.models.text_model_file import PREDICTOR, read_text_classifier
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder
from tests.engines.chat_stub import completion, serving
from tests.stages.blackbox_parts import NO, YES, write
from tests.validity.population import Case, keeps_its_word, scored, tally

ASKED, FRESH, DRAWS = 1200, 4000, 500
LEVEL = 0.2
WORDS = tuple(
    a + b + c
    for a in ("ba", "de", "fi", "go")
    for b in ("ka", "lo", "mu")
    for c in ("n", "rd", "st", "x", "z")
)
WEIGHT = dict(zip(WORDS, np.random.default_rng(0).normal(size=len(WORDS)).tolist(), strict=True))


def prompts(count):
    """Different prompts of 8 to 15 words."""
    rng, made = np.random.default_rng(1), {}
    while len(made) < count:
        made[" ".join(rng.choice(WORDS, size=int(rng.integers(8, 16))))] = None
    return list(made)


def probability(prompt):
    """P(the stub declines); each word makes it more or less likely."""
    return 1 / (1 + np.exp(0.5 - sum(WEIGHT[w] for w in prompt.split())))


def declines(prompt):
    """What the stub does: always the same of the same prompt."""
    return int(sha256(prompt.encode()).hexdigest()[:12], 16) / 16**12 < probability(prompt)


def answers(number, body):
    return completion(NO if declines(body["messages"][-1]["content"]) else YES)


def demur(*arguments):
    command = [sys.executable, "-m", "demur", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run made from the stub's answers."""
    folder = tmp_path_factory.mktemp("stub")
    file = write(folder / "prompts.jsonl", prompts(ASKED + FRESH)[:ASKED])
    with serving(answers) as (url, _):
        demur("blackbox", file, "--url", url, "--model", "m", "--out", folder / "run")
    return RunFolder(folder / "run")


@pytest.fixture(scope="module")
def fresh(run):
    """(scores, labels) of prompts that were never asked: what the gate sees, and what the stub
    does.
    """
    held = prompts(ASKED + FRESH)[ASKED:]
    classifier, _ = read_text_classifier(run.model / PREDICTOR)
    return predictor_scores([classifier.probability(p) for p in held]), np.array(
        [int(declines(p)) for p in held]
    )


@pytest.mark.parametrize("kind", ["missed_refusal", "false_refusal"])
def test_the_rate_that_a_run_is_certified_for_holds_on_fresh_prompts(run, fresh, kind):
    told = demur("calibrate", run.root, "--goal", f"{kind} <= {LEVEL}", "--json")
    assert json.loads(told.stdout)["promises"][0]["status"] == "certified"
    logp_NC, label_N = fresh
    refused_N = decide_many(read_policy(run.policy), logp_NC).choice_N > 0
    missed, false = (~refused_N[label_N == 1]).mean(), refused_N[label_N == 0].mean()
    kept, other = (missed, false) if kind == "missed_refusal" else (false, missed)
    assert kept <= LEVEL
    assert other < 1 - LEVEL - 0.1  # and it tells something: no coin keeps both


@pytest.mark.parametrize("goal", [f"missed_refusal <= {LEVEL}", f"false_refusal <= {LEVEL}"])
def test_promises_about_the_stub_are_broken_in_at_most_delta_of_the_draws(fresh, goal):
    template = Policy(
        name="stub", taxonomy=single(), rule="heaviest", categories=(CategoryPolicy(),)
    )
    case = Case(goals=goal, method="shared", rows=(200, 160))
    keeps_its_word(case, tally(case, DRAWS, people=scored(*fresh, template)))


def test_the_predictor_is_nearly_as_good_on_fresh_prompts_as_the_known_probabilities(fresh):
    logp_NC, label_N = fresh
    p_N = np.exp(logp_NC[:, 1])
    known_N = np.array([probability(p) for p in prompts(ASKED + FRESH)[ASKED:]])
    assert auroc(label_N == 1, p_N).value >= auroc(label_N == 1, known_N).value - 0.05
    assert ((p_N - label_N) ** 2).mean() <= ((known_N - label_N) ** 2).mean() + 0.03
    assert abs(p_N.mean() - label_N.mean()) <= 0.03
