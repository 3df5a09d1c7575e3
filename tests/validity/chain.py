"""Runs whose certificate would be a lie, built on the fake engine, and an oracle that knows what
must not be counted.

A World holds runs and remembers, by the digest of their weights, every row that weights were made
from: in memory, not in any file. A twist is a function that takes a World, does what a careless or
hostile hand might do, and returns the run that is then certified by the ordinary stages.
`counted_wrongly` says which rows no promise may rest on.

To try another kind: write a twist, and put what must not count into World.forbidden.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from demur.base.errors import DemurError
from demur.core.example import Example, Message, fold
from demur.core.ports import TrainedModel, no_progress
from demur.core.taxonomy import single
from demur.core.training.settings import TrainSettings, tiny
from demur.engines.fake.engine import FakeEngine
from demur.stages import calibrate, data, score, train
from demur.store.models.model_file import read_model_file
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from tests.fake_run import Rows

GOAL = "missed_refusal <= 0.4"
WORDS = [f"word{n}" for n in range(400)]
TAXONOMY = single()


def rows(count: int, seed: int, *, tag: str = "") -> list[Example]:
    """Requests of random words, half of them to be refused, two of a group each; no two alike but
    by chance.
    """
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        text = " ".join(rng.choice(WORDS, size=int(rng.integers(5, 12)), replace=False))
        refuse = (n // 2) % 2 == 0
        text = f"{text} refuse" if refuse else text  # the cue that the fake engine reads
        made.append(
            Example(
                id=f"{tag}{seed}-{n}",
                source="rows",
                messages=(Message(role="user", content=text),),
                kind="refusal" if refuse else "benign",
                category="refuse" if refuse else None,
                group=f"{tag}{seed}-{n // 2}",
            )
        )
    return made


def said_again(example: Example, how: str, *, id: str) -> Example:
    """The same request, changed as little as a copy often is."""
    text = example.text
    words = text.split()
    changed = {
        "case": text.upper(),
        "space": "  ".join(words) + " !",
        "order": " ".join(reversed(words)),
        "word": " ".join([*words, "please"]),
    }[how]
    return replace(example, id=id, group=None, messages=(Message(role="user", content=changed),))


@dataclass
class Apprentice:
    """A trainer without weights: each training gives a file of its own, and the world remembers its
    rows.
    """

    world: World
    base: str = "tiny"

    def train(self, examples, taxonomy, folder, progress=no_progress):
        self.world.trainings += 1
        engine = FakeEngine(taxonomy=taxonomy, seed=self.world.trainings, sharpness=3.0)
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "model.safetensors").write_bytes(str(self.world.trainings).encode())
        before = self.world.forbidden.get(self.world.engines.get(self.base, ""), [])
        self.world.forbidden[engine.fingerprint.model_digest] = [*before, *examples]
        self.world.made[engine.fingerprint.model_digest] = engine
        return TrainedModel(
            fingerprint=engine.fingerprint,
            steps=1,
            history=(),
            row_change=(1.0, 1.0),
            details={"base": self.base},
        )


@dataclass
class World:
    """Runs below one folder, and what their weights were made from."""

    root: Path
    seed: int
    trainings: int = 0
    # weights -> rows that must not count
    forbidden: dict[str, list[Example]] = field(default_factory=dict)
    made: dict[str, FakeEngine] = field(default_factory=dict)
    # model folder, as a base is named -> weights
    engines: dict[str, str] = field(default_factory=dict)

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers of this world, the same whenever asked."""
        return np.random.default_rng(self.seed)

    def split(
        self, name: str, some: Sequence[Example], *, again: bool = False, **settings
    ) -> RunFolder:
        """The data stage of a run."""
        folder = RunFolder(self.root / name)
        made = data.resplit if again else data.run
        shares = {"calibrate_share": 0.3, "test_share": 0.2, "seed": self.seed, **settings}
        made(data.Config(**shares), TAXONOMY, {"rows": Rows(tuple(some))}, folder)
        return folder

    def train(
        self, folder: RunFolder, base: str = "tiny", seen: tuple[Path, ...] = ()
    ) -> RunFolder:
        """The train stage of a run."""
        settings = (
            replace(tiny(), seen=seen) if base == "tiny" else TrainSettings(base=base, seen=seen)
        )
        train.run(settings, TAXONOMY, Apprentice(self, base), folder)
        self.engines[str(folder.model)] = read_model_file(folder.model).fingerprint.model_digest
        return folder

    def trained(self, name: str, some: Sequence[Example], **settings) -> RunFolder:
        """A run up to and with train."""
        return self.train(self.split(name, some, **settings))

    def engine(self, folder: RunFolder) -> FakeEngine:
        """What the model of a run computes."""
        digest = read_model_file(folder.model).fingerprint.model_digest
        return self.made[digest]

    def certify(self, folder: RunFolder, goal: str = GOAL, **settings) -> DemurError | None:
        """Score and calibrate; the error if a stage refuses."""
        try:
            score.run(score.Config(), self.engine(folder), folder)
            calibrate.run(
                calibrate.Config(goal=goal, on_failure="stop", **settings), TAXONOMY, folder
            )
        except DemurError as e:
            return e
        return None

    def counted_wrongly(self, folder: RunFolder) -> list[str]:
        """Ids of rows that a certificate of this run rests on, and must not."""
        policy = read_policy(folder.policy)
        if policy.fingerprint is None or not any(p.status == "certified" for p in policy.promises):
            return []
        known = self.forbidden.get(policy.fingerprint.model_digest, [])
        return [e.id for e in read_examples(folder.split("calibrate")) if is_like_any(e, known)]


def is_like_any(e: Example, known: Iterable[Example]) -> bool:
    """Whether a row is one of these, by brute force: its text, nearly its text, or its group."""
    own = fold(e.text)
    words = set(own.split())
    for other in known:
        text = fold(other.text)
        theirs = set(text.split())
        enough = min(len(words), len(theirs)) >= 4 and max(len(words), len(theirs)) <= 60
        if text == own or (e.group is not None and e.group == other.group):
            return True
        if enough and 5 * len(words & theirs) >= 4 * len(words | theirs):
            return True
    return False


def copied(folder: RunFolder, name: str) -> RunFolder:
    """A copy of a run beside it."""
    return RunFolder(shutil.copytree(folder.root, folder.root.parent / name))


Twist = Callable[[World], RunFolder]
