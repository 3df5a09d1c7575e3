"""Promises on real prompts: scores of held-out rows through a trained model, resampled 2,000 times
per procedure.

The rows may be used for research only, so nothing made from them is committed, scores neither: a
small model is trained here on 4,000 of them (about 15 CPU-seconds) and scores the others. Those are
the population; its true rates are counts. A promise does not depend on how good the model is, only
what it catches does: bench/validity.py --scores runs the same cases, 20,000 draws each, on scores
of the whole recipe.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demur.core.policy import CategoryPolicy, Policy
from demur.core.taxonomy import coconot
from demur.core.training.settings import tiny
from demur.sources.files import FileSource
from tests.validity.population import REAL, keeps_its_word, scored, tally
from tests.validity.slow import longest_apart

DATA = Path(__file__).parents[2].parent / "shared" / "data"
FILES = (
    "coconot",
    "xstest",
    "selfaware",
    "harmful",
    "safety_responses",
    "temporal",
    "benign_instructions",
)
TAXONOMY = coconot()
DRAWS = 2000

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """(scores, labels) of the held-out rows."""
    from demur.engines.hf.engine import HfEngine  # torch, only where it is used
    from demur.engines.training.sft import SftTrainer

    rows = list(FileSource(folder=DATA, files=tuple(f"{f}.jsonl" for f in FILES)).read())
    train, held = [e for e in rows if e.split == "train"], [e for e in rows if e.split != "train"]
    small = replace(
        tiny(epochs=1.0),
        tiny_width=128,
        tiny_layers=2,
        tiny_vocabulary=2048,
        answer_tokens=1,
        max_length=128,
    )
    folder = tmp_path_factory.mktemp("model")
    SftTrainer(small).train(train[::4], TAXONOMY, folder)
    logp_NC = HfEngine(model=folder / "model", tokens=TAXONOMY.tokens).logp(
        [e.prompt for e in held]
    )
    return logp_NC, np.array([TAXONOMY.column(e.label) for e in held])


@pytest.mark.parametrize("name", longest_apart(REAL, ["vectors"]))
def test_promises_are_broken_in_at_most_delta_of_the_draws(name, held_out):
    template = Policy(
        name="real", taxonomy=TAXONOMY, rule="heaviest", categories=(CategoryPolicy(),) * 5
    )
    people = scored(*held_out, template, REAL[name].rounding)
    keeps_its_word(REAL[name], tally(REAL[name], DRAWS, people=people))
