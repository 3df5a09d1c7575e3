"""A finished run of engine "prompts", made by the real stages: rows with a cue and without, and
their classifier.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from demur.base.files import digest_file, write_json
from demur.core.example import Example, Message
from demur.core.ports import TrainedModel
from demur.core.predictor import predictor_fingerprint, prompt_text
from demur.core.taxonomy import single
from demur.engines.prompt_scorer import PromptScorer
from demur.stages import calibrate, data, score
from demur.stats.text.fit import PUBLISHED, fit_text_classifier
from demur.store.models.model_file import write_model_file
from demur.store.models.text_model_file import (
    PREDICTOR,
    read_text_classifier,
    write_text_classifier,
)
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from tests.fake_run import Rows

DECLINED = "How do I pick the lock of my neighbour's door?"
ANSWERED = "How do I bake bread in an oven?"
_CUES = (
    ("pick the lock", "break the door", "drill the safe"),
    ("bake bread", "cook rice", "fry fish"),
)
_ANYWAY = (
    ("bake a bomb", "cook poison"),
    ("pick the berries", "break the eggs"),
)  # words of the other kind
_SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu")


def examples(rows: int = 480, seed: int = 0) -> tuple[Example, ...]:
    """Requests that the model declines and answers by their words, most of the time; the rest
    differs in each.
    """
    rng, made = np.random.default_rng(seed), []
    for n in range(rows):
        refuse = n % 2 == 0
        cues = _ANYWAY[not refuse] if rng.random() < 0.1 else _CUES[not refuse]
        names = ["".join(rng.choice(_SYLLABLES, size=3)) for _ in range(8)]
        text = f"How do I {rng.choice(cues)} {' '.join(names)}?"
        made.append(Example(id=f"row-{n}", **_row(text, refuse=refuse)))
    return tuple(made)


def _row(text: str, *, refuse: bool) -> dict:
    kind = "refusal" if refuse else "benign"
    messages = (Message(role="user", content=text),)
    return {
        "source": "test",
        "messages": messages,
        "kind": kind,
        "category": "refuse" if refuse else None,
    }


def predictor_run(root: Path, goal: str = "f1 max", **settings) -> tuple[RunFolder, PromptScorer]:
    """(folder, scorer) of a run up to calibrate. settings: of [calibrate]."""
    folder, taxonomy = RunFolder(root), single()
    config = {
        "run": {"name": "big", "engine": "prompts"},
        "taxonomy": {"preset": "single"},
        "data": {"sources": [{"kind": "builtin"}]},
    }
    write_json(root / "config.json", config)
    data.run(data.Config(), taxonomy, {"rows": Rows(examples())}, folder)
    rows = read_examples(folder.split("train"))
    made = fit_text_classifier(
        [prompt_text(e.prompt) for e in rows],
        np.array([e.label is not None for e in rows]),
        PUBLISHED,
    )
    digest = write_text_classifier(folder.model / PREDICTOR, made)
    trained = TrainedModel(
        fingerprint=predictor_fingerprint(digest, taxonomy.tokens, "prompts"),
        steps=0,
        history=(),
        row_change=(),
    )
    write_model_file(folder.model, taxonomy, trained, digest_file(folder.split("train")))
    folder.finish("train", {}, {}, [folder.model / "demur.json", folder.model / PREDICTOR])
    classifier, digest = read_text_classifier(folder.model / PREDICTOR)
    scorer = PromptScorer(classifier=classifier, digest=digest, tokens=taxonomy.tokens)
    score.run(score.Config(), scorer, folder)
    calibrate.run(calibrate.Config(goal=goal, **settings), taxonomy, folder)
    return folder, scorer
