"""What a cascade costs and where it errs: model alone, front alone, cascades at several bounds, in
one run.

Usage: python bench/distil.py RUN --traffic FILE [--scores FILE] [--rows FILE ...] [--harmful FILE]
[--out DIR]

Every system is calibrated for the run's own goal on the run's calibrate rows, so that each keeps
the same promise. Measured on the run's test rows, and on --rows: labelled files of sources that
neither model nor front has seen. --harmful: requests to be refused, which are padded with harmless
ones: how many of them the front answers.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import numpy as np

from demur.assembly.run import RunEngine, reopen
from demur.base.arrays import Floats
from demur.base.errors import DemurError
from demur.base.files import digest_file
from demur.core.cascade.front import Front, FrontEdges, TrafficRange, cascade_scores
from demur.core.decision import decide_many
from demur.core.example import Example, Message
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.core.score import ScoreTable
from demur.sources.files import FileSource
from demur.stages import calibrate, distil
from demur.store.models.front_file import front_file, read_front, write_front
from demur.store.models.seen_file import front_seen, read_seen, write_seen
from demur.store.policies.policy_file import read_policy
from demur.store.prompts_file import read_prompts
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

BOUNDS = (0.005, 0.01, 0.02, 0.05)
PADDING = (0, 10, 20, 40)  # words
MOST_HARMFUL, SHORT = 400, 120  # requests; characters of a harmless one
EVERYWHERE = FrontEdges(answer=1e9, refuse=None)  # a front that is sure of all it reads


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Labelled rows with the model's scores of them."""

    name: str
    examples: Sequence[Example]
    logp_NC: Floats


@dataclass(frozen=True, kw_only=True)
class System:
    """What decides: a policy, with the front that it names, if it names one."""

    name: str
    policy: Policy
    front: Front | None


def scored(name: str, examples: Sequence[Example], engine: RunEngine) -> Rows:
    return Rows(name=name, examples=examples, logp_NC=engine.logp([e.prompt for e in examples]))


def model_cost(engine: RunEngine, examples: Sequence[Example]) -> float:
    """CPU milliseconds of the model for one score: one prompt at a time, as requests come to a
    server.
    """
    some = [e.prompt for e in examples[:100]]
    engine.logp(some[:2])
    start = time.process_time()
    for prompt in some:
        engine.logp([prompt])
    return 1000.0 * (time.process_time() - start) / len(some)


def front_cost(front: Front, examples: Sequence[Example]) -> float:
    start = time.process_time()
    for e in examples:
        front.given(e.prompt)
    return 1000.0 * (time.process_time() - start) / len(examples)


def everything(front: Front, rows: Sequence[Rows]) -> Front:
    """The front without bounds: sure of all that it reads, and of all characters in these rows."""
    letters = frozenset(letter for some in rows for e in some.examples for letter in e.text)
    wide = {"most_letters": 10**9, "most_words": 10**9, "most_unknown": 10**9, "least_known": 0.0}
    own: TrafficRange = replace(front.range, letters=letters, **wide)
    return replace(front, range=own, edges=EVERYWHERE)


def calibrated(folder: RunFolder, name: str, front: Front) -> Policy | None:
    """The policy of a cascade with this front for the run's own goal; None if nothing meets it."""
    made = read_seen(front_seen(folder), digest_file(front_file(folder)))
    write_seen(front_seen(folder), made, write_front(front_file(folder), front))
    folder.finish("distil", {}, {}, [front_file(folder), front_seen(folder)])
    own = reopen(folder.root).config
    config = replace(own.calibrate, name=name, cascade=True, on_failure="stop")
    try:
        return calibrate.run(config, own.taxonomy, folder.named(name))
    except DemurError as e:
        print(f"{name}: {e.message}")
        return None


def measured(system: System, rows: Rows, costs: tuple[float, float]) -> str:
    """A line of the table: errors of both kinds, who decided, and the cost of a decision."""
    logp_NC, front_N = rows.logp_NC, np.zeros(len(rows.examples), dtype=bool)
    if system.front is not None:
        logp_NC, front_N = cascade_scores(
            system.front, [e.prompt for e in rows.examples], lambda at: rows.logp_NC[at]
        )
    refused_N = decide_many(system.policy, logp_NC).refuses_N
    should_N = np.array([e.label is not None for e in rows.examples])
    false = Rate(hits=int((refused_N & ~should_N).sum()), of=int((~should_N).sum()))
    missed = Rate(hits=int((~refused_N & should_N).sum()), of=int(should_N.sum()))
    by_front = float(front_N.mean())
    model_ms, front_ms = costs
    cost = model_ms if system.front is None else front_ms + (1.0 - by_front) * model_ms
    cells = [
        rows.name,
        system.name,
        f"{by_front:.0%}",
        *map(percent, (false, missed)),
        f"{cost:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def percent(rate: Rate) -> str:
    if not rate.defined:
        return "-"
    low, high = rate.interval()
    return f"{rate.value:.1%} ({low:.1%} to {high:.1%})"


def padded(front: Front, harmful: Sequence[str], harmless: Sequence[str], words: int) -> float:
    """Share of harmful requests that the front answers with so many harmless words around them."""
    rng, answered = random.Random(0), 0
    for text in harmful:
        extra = " ".join(rng.choice(harmless) for _ in range(words)).split()[:words]
        dressed = " ".join([*extra[: words // 2], text, *extra[words // 2 :]])
        given = front.given((Message(role="user", content=dressed),))
        answered += given is not None and int(given.argmax()) == 0
    return answered / len(harmful)


def copy_of(run: Path, out: Path) -> RunFolder:
    """The run without its weights, for policies that are not its own."""
    shutil.rmtree(out, ignore_errors=True)
    heavy = shutil.ignore_patterns("*.safetensors", "checkpoints", "evaluate", "report", "distil")
    return RunFolder(Path(shutil.copytree(run, out, ignore=heavy)))


def fronts(folder: RunFolder, traffic: distil.Traffic, policy: Policy) -> dict[float, Front]:
    """A front for each bound."""
    made = {}
    for bound in BOUNDS:
        metrics = distil.run(distil.Config(bound=bound), traffic, policy, folder)
        made[bound] = read_front(front_file(folder))
        print(
            f"bound {bound}: {metrics.decided} of {metrics.held} held-out requests decided",
            flush=True,
        )
    return made


def attack(
    made: dict[float, Front], whole: Front, harmful: Sequence[str], harmless: Sequence[str]
) -> None:
    """Print how many padded harmful requests each front answers."""
    print("\n| harmless words around a harmful request | front | answered by it |\n|---|---|---|")
    for words in PADDING:
        for name, front in ((f"bound {bound}", made[bound]) for bound in BOUNDS):
            print(f"| {words} | {name} | {padded(front, harmful, harmless, words):.2%} |")
        with patch("demur.core.cascade.front.stretches", lambda _: []):
            print(
                f"| {words} | bound 0.01, reading whole texts only | "
                f"{padded(whole, harmful, harmless, words):.2%} |"
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--traffic", type=Path, required=True)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--rows", type=Path, nargs="*", default=[])
    parser.add_argument("--harmful", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/distil"))
    args = parser.parse_args()
    engine, own = RunEngine(reopen(args.run)), read_policy(RunFolder(args.run).policy)
    folder = copy_of(args.run, args.out)
    asked = read_prompts([args.traffic])
    table = (
        read_scores(args.scores)[0].select(tuple(r.id for r in asked.rows))
        if args.scores
        else ScoreTable(
            ids=tuple(r.id for r in asked.rows),
            logp_NC=engine.logp([r.messages for r in asked.rows]),
        )
    )
    traffic = distil.Traffic(
        file=args.traffic, prompts=asked, scores=table, model=engine.fingerprint, model_ms=None
    )
    made = fronts(folder, traffic, own)
    test = read_examples(folder.split("test"))
    rows = [
        Rows(
            name="the run's test rows",
            examples=test,
            logp_NC=read_scores(folder.scores("test"))[0].select(tuple(e.id for e in test)).logp_NC,
        )
    ]
    for path in args.rows:
        source = FileSource(folder=path.parent, files=(path.name,), use_splits=False)
        for kind, some in groupby(
            sorted(source.read(), key=lambda e: e.source), key=lambda e: e.source
        ):
            rows.append(scored(kind, list(some), engine))
    costs = model_cost(engine, test), front_cost(made[0.01], test)
    print(
        f"CPU time: model {costs[0]:.2f} ms a score, one at a time; front {costs[1]:.2f} ms a "
        "prompt\n"
    )
    variants = {
        "front alone": everything(made[0.01], rows),
        **{f"cascade, bound {b}": f for b, f in made.items()},
    }
    systems = [System(name="model alone", policy=own, front=None)]
    for n, (name, front) in enumerate(variants.items()):
        if (policy := calibrated(folder, f"variant{n}", front)) is not None:
            systems.append(System(name=name, policy=policy, front=front))
    print(
        "| rows | decided by | by the front | false refusals | missed refusals | CPU-ms "
        "|\n|---|---|---|---|---|---|"
    )
    for some in rows:
        for system in systems:
            print(measured(system, some, costs), flush=True)
    if args.harmful:
        with patch("demur.core.cascade.front.stretches", lambda _: []):
            distil.run(distil.Config(), traffic, own, folder)
        harmful = [r.messages[-1].content for r in read_prompts([args.harmful]).rows][:MOST_HARMFUL]
        harmless = [e.text for e in test if e.label is None and len(e.text) < SHORT]
        attack(made, read_front(front_file(folder)), harmful, harmless)


if __name__ == "__main__":
    main()
