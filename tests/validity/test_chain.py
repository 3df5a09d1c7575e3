"""No certificate rests on rows that the weights were made from: 200 runs that try, each in its own
way.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from demur.base.errors import DemurError
from demur.core.example import SPLITS
from demur.core.training.seen import Seen
from demur.store.models.model_file import read_model_file, seal_model_file
from demur.store.models.seen_file import SEEN, write_seen
from demur.store.rows import read_examples, write_examples
from demur.store.run import RunFolder, Stage
from tests.validity.chain import GOAL, Twist, World, copied, rows, said_again

COUNT = 160  # rows of a run
WORLDS = 200


def honest(world: World) -> RunFolder:
    """Nothing is wrong: this one must be certified, or the test shows nothing."""
    return world.trained("run", rows(COUNT, world.seed))


def split_again(world: World) -> RunFolder:
    """Another share, under the same weights."""
    some = rows(COUNT, world.seed)
    run = world.trained("run", some)
    return world.split("run", some, again=True, calibrate_share=0.5) and run


def split_by_another_seed(world: World) -> RunFolder:
    some = rows(COUNT, world.seed)
    run = world.trained("run", some)
    world.split("run", some, again=True, seed=world.seed + 1)
    return run


def split_again_in_a_copy_without_record(world: World) -> RunFolder:
    """As an earlier version left its runs: no record, and the split that could vouch for it is
    gone.
    """
    some = rows(COUNT, world.seed)
    run = copied(world.trained("run", some), "copy")
    (run.model / SEEN).unlink()
    reseal(run)
    world.split("copy", some, again=True, calibrate_share=0.5)
    return run


def another_runs_model_folder(world: World) -> RunFolder:
    """Trained on the rows that this run holds out."""
    some = rows(COUNT, world.seed)
    run, other = world.trained("run", some), world.trained("other", some, seed=world.seed + 7)
    shutil.rmtree(run.model)
    shutil.copytree(other.model, run.model)
    return run


def another_runs_train_stage(world: World) -> RunFolder:
    """With its receipt."""
    some = rows(COUNT, world.seed)
    run, other = world.trained("run", some), world.trained("other", some, seed=world.seed + 7)
    shutil.rmtree(run.stage("train"))
    shutil.copytree(other.stage("train"), run.stage("train"))
    return run


def another_runs_weights_beside_our_record(world: World) -> RunFolder:
    some = rows(COUNT, world.seed)
    run, other = world.trained("run", some), world.trained("other", some, seed=world.seed + 7)
    for name in ("model.safetensors", "demur.json"):
        shutil.copy(other.model / name, run.model / name)
    reseal(run)
    return run


def train_rows_written_into_the_split(world: World) -> RunFolder:
    run = world.trained("run", rows(COUNT, world.seed))
    both = [read_examples(run.split(s)) for s in ("calibrate", "train")]
    write_examples(
        run.split("calibrate"), [*both[0], *(replace(e, split="calibrate") for e in both[1])]
    )
    return run


def train_rows_written_into_the_split_with_a_receipt(world: World) -> RunFolder:
    run = train_rows_written_into_the_split(world)
    refinish(run, "data")
    return run


def train_split_emptied_to_hide_them(world: World) -> RunFolder:
    run = train_rows_written_into_the_split(world)
    write_examples(run.split("train"), read_examples(run.split("train"))[:2])
    refinish(run, "data")
    return run


def new_rows_of_old_groups(world: World) -> RunFolder:
    """Other requests, made from the same seeds as those trained on."""
    some = rows(COUNT, world.seed)
    run = world.trained("run", some)
    new = [
        replace(n, group=o.group)
        for n, o in zip(rows(COUNT, world.seed + 500, tag="new"), some, strict=True)
    ]
    world.split("run", new, again=True, seed=world.seed + 3)
    return run


def copies(how: str) -> Twist:
    def twist(world: World) -> RunFolder:
        some = rows(COUNT, world.seed)
        run = world.trained("run", some)
        again = [said_again(e, how, id=f"copy-{e.id}") for e in some]
        world.split("run", again, again=True, seed=world.seed + 3)
        return run

    twist.__name__ = f"copies_by_{how}"
    return twist


def continued_from_another_run(world: World) -> RunFolder:
    some = rows(COUNT, world.seed)
    first = world.trained("first", some)
    return world.train(world.split("run", some, seed=world.seed + 5), base=str(first.model))


def continued_twice(world: World) -> RunFolder:
    """What the grandparent saw is held out here."""
    some = rows(COUNT, world.seed)
    first = world.trained("first", some)
    fresh = rows(COUNT, world.seed + 900, tag="fresh")
    second = world.train(world.split("second", fresh), base=str(first.model))
    return world.train(world.split("run", some, seed=world.seed + 5), base=str(second.model))


def continued_from_a_folder_on_its_own(world: World) -> RunFolder:
    some = rows(COUNT, world.seed)
    first, alone = world.trained("first", some), world.root / "models" / "alone"
    shutil.copytree(first.model, alone)
    world.engines[str(alone)] = world.engines[str(first.model)]
    return world.train(world.split("run", some, seed=world.seed + 5), base=str(alone))


def continued_from_a_folder_without_its_record(world: World) -> RunFolder:
    some = rows(COUNT, world.seed)
    first, alone = world.trained("first", some), world.root / "models" / "alone"
    shutil.copytree(first.model, alone)
    world.engines[str(alone)] = world.engines[str(first.model)]
    (alone / SEEN).unlink()
    seal_model_file(alone)
    return world.train(world.split("run", some, seed=world.seed + 5), base=str(alone))


def continued_from_a_folder_with_an_emptied_record(world: World) -> RunFolder:
    some = rows(COUNT, world.seed)
    first, alone = world.trained("first", some), world.root / "models" / "alone"
    shutil.copytree(first.model, alone)
    world.engines[str(alone)] = world.engines[str(first.model)]
    write_seen(alone / SEEN, Seen(), world.engines[str(alone)])
    return world.train(world.split("run", some, seed=world.seed + 5), base=str(alone))


def trained_elsewhere_and_said_so(world: World) -> RunFolder:
    """A base of nobody we know, and its rows as a file: they are ours."""
    some, base = rows(COUNT, world.seed), world.root / "foreign"
    base.mkdir(parents=True)
    write_examples(base / "rows.jsonl", [replace(e, split="train") for e in some])
    world.engines[str(base)] = "foreign"
    world.forbidden["foreign"] = [replace(e, group=None) for e in some]
    return world.train(world.split("run", some), base=str(base), seen=(base / "rows.jsonl",))


def record_emptied(world: World) -> RunFolder:
    run = split_again(world)
    write_seen(run.model / SEEN, Seen(), read_model_file(run.model).fingerprint.model_digest)
    return run


TWISTS: tuple[Twist, ...] = (
    split_again,
    split_by_another_seed,
    split_again_in_a_copy_without_record,
    another_runs_model_folder,
    another_runs_train_stage,
    another_runs_weights_beside_our_record,
    train_rows_written_into_the_split,
    train_rows_written_into_the_split_with_a_receipt,
    train_split_emptied_to_hide_them,
    new_rows_of_old_groups,
    *(copies(how) for how in ("case", "space", "order", "word")),
    continued_from_another_run,
    continued_twice,
    continued_from_a_folder_on_its_own,
    continued_from_a_folder_without_its_record,
    continued_from_a_folder_with_an_emptied_record,
    trained_elsewhere_and_said_so,
    record_emptied,
)


def reseal(run: RunFolder) -> None:
    """Make the train receipt fit what lies there, as a hand that means well might."""
    refinish(run, "train")


def refinish(run: RunFolder, stage: Stage) -> None:
    receipt = run.receipt(stage)
    assert receipt is not None
    files = sorted(p for p in run.stage(stage).rglob("*") if p.is_file() and p.name != "made.json")
    run.finish(stage, receipt.settings, receipt.made_from, files)


def test_a_run_without_a_twist_is_certified(tmp_path):
    world = World(tmp_path, seed=1)
    run = honest(world)
    assert world.certify(run) is None
    assert world.counted_wrongly(run) == []


def test_rows_that_were_only_added_are_certified(tmp_path):
    """More calibrate rows under the same model: what it has not seen counts."""
    world = World(tmp_path, seed=2)
    run = world.trained("run", rows(COUNT, 2))
    before = len(read_examples(run.split("calibrate")))
    placed = [replace(e, group=None) for split in SPLITS for e in read_examples(run.split(split))]
    more = [replace(e, split="calibrate") for e in rows(COUNT, 77, tag="more")]
    world.split("run", [*placed, *more], again=True)
    assert world.certify(run) is None
    assert len(read_examples(run.split("calibrate"))) > before
    assert world.counted_wrongly(run) == []


def outcome(twist: Twist, world: World) -> str:
    """How an attempt to certify ends: "certified", or the class of the error, which is the user's
    to mend.
    """
    error: DemurError | None = None
    try:
        run = twist(world)
    except DemurError as e:
        error = e
    else:
        error = world.certify(run)
    if error is not None:
        assert error.exit_code == 2, error
        assert error.hint
        return f"refused by {type(error).__name__}"
    assert world.counted_wrongly(run) == []
    return "certified"


@pytest.mark.parametrize("twist", TWISTS, ids=lambda t: t.__name__)
def test_no_certificate_rests_on_rows_that_were_trained_on(tmp_path: Path, twist: Twist):
    """Every twist, in as many worlds as make WORLDS together."""
    seeds = range(-(-WORLDS // len(TWISTS)))
    outcomes = Counter(outcome(twist, World(tmp_path / str(seed), seed=seed)) for seed in seeds)
    assert "certified" not in outcomes, outcomes


def test_a_twist_is_a_lie_without_the_record(tmp_path, monkeypatch):
    """What the stages would certify if nobody asked what the weights have seen: the oracle finds
    the rows.
    """
    monkeypatch.setattr("demur.stages.score.require_unseen_splits", lambda *_: Seen())
    monkeypatch.setattr("demur.stages.calibrate.inputs.require_unseen_splits", lambda *_: Seen())
    world = World(tmp_path, seed=3)
    run = split_again(world)
    assert world.certify(run, GOAL) is None
    assert world.counted_wrongly(run)
