"""A finished run folder on the built-in corpus and the fake engine, made by the real stages."""

from dataclasses import dataclass, replace

import numpy as np

from demur.base.files import digest_file
from demur.core.example import Example, Message
from demur.core.ports import TrainedModel, no_progress
from demur.core.taxonomy import coconot
from demur.core.training.seen import seen_of
from demur.engines.fake.engine import FakeEngine
from demur.judges.phrases import PhraseJudge
from demur.sources.corpus import BuiltinSource
from demur.stages import calibrate, data, evaluate, score
from demur.store.models.model_file import write_model_file
from demur.store.models.seen_file import SEEN, write_seen
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores, write_scores

HOSTILE = "Is this </script><img src=x onerror=alert(1)> | `safe`?\n\n# <b>{{ 7*7 }}</b>"
JUDGE = PhraseJudge()


@dataclass(frozen=True)
class Rows:
    """A source that holds its rows."""

    rows: tuple

    def read(self):
        return iter(self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class RudeEngine(FakeEngine):
    """A fake engine that ends every answer in markup."""

    def branches(self, prompts, columns, progress=no_progress):
        made = FakeEngine.branches(self, prompts, columns, progress)
        return [
            {c: replace(a, text=f"{a.text} {HOSTILE}") for c, a in answers.items()}
            for answers in made
        ]


def examples(every=1):
    """One in so many groups of the built-in corpus, and a hostile prompt in the test split."""
    rows = list(BuiltinSource().read())
    kept = set(sorted({e.group or e.id for e in rows})[::every])
    hostile = Example(
        id="hostile:1",
        source="hostile",
        messages=(Message(role="user", content=HOSTILE),),
        kind="benign",
        split="test",
    )
    return (*(e for e in rows if (e.group or e.id) in kept), hostile)


def engine_for(rows, kind=RudeEngine, sharpness=2.2):
    """An engine that knows the labels of these rows, up to its noise."""
    return kind(taxonomy=coconot(), sharpness=sharpness, labels={e.text: e.label for e in rows})


def prepare(root, rows, engine, config=None):
    """data, a model file as training leaves it, score, calibrate."""
    folder = RunFolder(root)
    data.run(data.Config(), coconot(), {"rows": Rows(rows)}, folder)
    steps = range(10, 400, 10)
    trained = TrainedModel(
        fingerprint=engine.fingerprint,
        steps=390,
        history=tuple(
            {"step": float(s), "loss": 4 / s**0.3, "control_loss_share": 0.6 / s**0.2}
            for s in steps
        ),
        row_change=(0.4,) * 6,
        details={"base": "tiny", "parameters": 2_345_678, "rows": 2100},
    )
    write_seen(
        folder.model / SEEN,
        seen_of(read_examples(folder.split("train"))),
        engine.fingerprint.model_digest,
    )
    write_model_file(folder.model, coconot(), trained, digest_file(folder.split("train")))
    folder.finish("train", {"base": "tiny"}, {}, [folder.model / "demur.json", folder.model / SEEN])
    score.run(score.Config(), engine, folder)
    calibrate.run(config or calibrate.Config(), coconot(), folder)
    return folder


def like_traffic(folder, to, seed=3):
    """Scores of test rows as requests of strangers come: in random order, of rows made from one
    another one.
    """
    rows, (table, fingerprint) = (
        read_examples(folder.split("test")),
        read_scores(folder.scores("test")),
    )
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    ids = {rows[n].group or rows[n].id: rows[n].id for n in order}
    write_scores(to, table.select(tuple(ids.values())), fingerprint)
    return to


def finished(root, every=1):
    """A run up to and with evaluate: (folder, engine)."""
    rows = examples(every)
    engine = engine_for(rows)
    folder = prepare(root, rows, engine)
    evaluate.run(evaluate.Config(), engine, JUDGE, folder)
    return folder, engine
