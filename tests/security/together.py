"""Two processes on one folder: what both write must all be there, and whoever reads meanwhile sees
a whole state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from demur.base.errors import DemurError
from demur.core.policy import Policy
from demur.engines.fake.backend import FakeBackend
from demur.stages.watch import LiveWatch, ScoredRequest, begin_watching, count_scores, live_path
from demur.store.locks import Journal
from demur.store.policies.folder import read_folder, reload
from demur.store.policies.keys import KeyProblem, authenticate
from demur.store.policies.policy_file import bind_promises, policy_digest, read_policy, write_policy
from demur.store.policies.tenants_file import key_block, read_tenants
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores
from tests.builders import promise
from tests.fake_run import engine_for, examples, prepare
from tests.security.site import tenants_toml
from tests.server.live_server import serving

Run = Callable[[Path], str | None]
PROMISE = promise(level=0.1, hits=1, of=100)


def both(
    works: Sequence[Callable[[], object]], meanwhile: Callable[[], str | None] = lambda: None
) -> str | None:
    """Do works at once, each in a process of its own, and look meanwhile. The first thing that is
    wrong, else None.
    """
    children = []
    for work in works:
        if (child := os.fork()) == 0:
            try:
                work()
            except BaseException:  # noqa: BLE001 - whatever it is: the parent sees it by the code
                os._exit(1)
            os._exit(0)
        children.append(child)
    found, running, codes = None, set(children), []
    while running:
        found = found or meanwhile()
        for child in list(running):
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                running.remove(child)
                codes.append(code)
        time.sleep(0.002)
    return found or ("a process failed" if any(codes) else None)


@cache
def certified_run() -> tuple[RunFolder, tuple[Policy, Policy]]:
    """A calibrated run, made once for all trials that only read it, and two certified policies of
    it.
    """
    rows = examples(every=12)
    folder = prepare(Path(mkdtemp(prefix="demur-together-")) / "run", rows, engine_for(rows))
    first = bind_promises(replace(read_policy(folder.policy), promises=(PROMISE,)))
    moved = {
        name: min(c.threshold, 1.0) * 0.9
        for name, c in zip(first.taxonomy.names, first.categories, strict=True)
    }
    return folder, (
        first,
        bind_promises(replace(first.with_thresholds(moved), promises=(PROMISE,))),
    )


def standing_in(folder: Path) -> LiveWatch:
    """A policy that is watched from a run of its own: this folder, its finished stages shared with
    the others'.
    """
    run, (policy, _) = certified_run()
    for stage in run.root.iterdir():
        if stage.name != "watch" and not (folder / stage.name).exists():
            (folder / stage.name).symlink_to(stage)
    found = begin_watching([RunFolder(folder)], policy)
    if found is None:
        raise RuntimeError("the run has no scores to watch from")
    return found


def watched(seed: int) -> Run:
    """Two servers count scores into one state: each score once, whatever the order."""

    def run(folder: Path) -> str | None:
        standing = standing_in(folder)
        logp_NC = read_scores(certified_run()[0].scores("test"))[0].logp_NC
        sizes = np.random.default_rng(seed).integers(1, 5, (2, 8))

        def serve(who: int) -> None:
            here = standing
            for at, size in enumerate(sizes[who]):
                rows = [
                    ScoredRequest(tenant=f"t{(who + at) % 3}", logp_C=logp_NC[n % len(logp_NC)])
                    for n in range(size)
                ]
                here = count_scores(here, rows)

        if what := both([lambda: serve(0), lambda: serve(1)]):
            return what
        steps = count_scores(standing, []).steps
        return None if steps == sizes.sum() else f"{steps} of {sizes.sum()} scores were counted"

    return run


def killed(seed: int) -> Run:
    """A server is killed with scores in its journal while another counts: none is lost, none
    counted twice.
    """

    def run(folder: Path) -> str | None:
        standing = standing_in(folder)
        path = live_path(standing.folder, standing.policy)
        row = read_scores(certified_run()[0].scores("test"))[0].logp_NC[0]
        number = 3 + seed

        def dies() -> None:
            journal = Journal(path)
            for _ in range(number):
                journal.append({"tenant": "a", "logp": [float(v) for v in row]})

        def counts() -> None:
            here = standing
            for _ in range(6):
                here = count_scores(here, [ScoredRequest(tenant="b", logp_C=row)])

        if what := both([dies, counts]):
            return what
        steps = [standing_in(folder).steps for _ in range(2)]  # each once, whoever begins
        return None if steps == [number + 6] * 2 else f"{steps} of {number + 6} scores were counted"

    return run


def keyed(seed: int) -> Run:
    """Two operators add keys to one tenants file: every key opens, and a reader meanwhile loses
    none.
    """

    def run(folder: Path) -> str | None:
        file = tenants_toml(folder / "tenants.toml")

        def add(who: int) -> None:
            for n in range(10):
                block = key_block("caller", f"{who} {n} {seed}", f"demur_{who}_{n}_{seed}")
                with file.open("ab", buffering=0) as out:
                    out.write(block.encode())

        def look() -> str | None:
            try:
                found = read_tenants(file)
            except DemurError:
                return None  # half of a block: the server keeps what was before
            return None if len(found.keys) >= 6 else "a key was lost"

        if what := both([lambda: add(0), lambda: add(1)], look):
            return what
        keys, now = read_tenants(file).keys, datetime.now(UTC)
        shut = [
            n
            for n in range(20)
            if isinstance(authenticate(keys, f"demur_{n % 2}_{n // 2}_{seed}", now), KeyProblem)
        ]
        return f"{len(shut)} keys open nothing" if shut else None

    return run


def calibrated(seed: int) -> Run:
    """Two calibrations write one run: a reader finds one policy or the other, whole, and never a
    receipt of another.
    """

    def run(folder: Path) -> str | None:
        both_policies = certified_run()[1]
        here = RunFolder(folder)
        known = {policy_digest(p) for p in both_policies}
        write_policy(here.policy, both_policies[0])

        def write(who: int) -> None:
            for _ in range(10 + seed):
                write_policy(here.policy, both_policies[who])
                here.finish("calibrate", {"who": who}, {}, [here.policy])

        def look() -> str | None:
            return (
                None
                if policy_digest(read_policy(here.policy)) in known
                else "a policy that nobody wrote"
            )

        if what := both([lambda: write(0), lambda: write(1)], look) or look():
            return what
        parts = [p.name for p in here.policy.parent.iterdir() if p.name.endswith(".part")]
        return f"left behind: {parts}" if parts else None

    return run


def reloaded(seed: int) -> Run:
    """Two processes replace policies in a folder that is reloaded: what is in force was written by
    one of them.
    """

    def run(folder: Path) -> str | None:
        one, two = (replace(p, name="p") for p in certified_run()[1])
        write_policy(folder / "p.json", one)
        known, state = {policy_digest(p) for p in (one, two)}, [read_folder(folder)]

        def write(policy: Policy) -> None:
            for _ in range(15 + seed):
                write_policy(folder / "p.json", policy)

        def look() -> str | None:
            state[0] = reload(state[0], ["p"])[0]
            live = state[0].policies.get("p")
            if live is None or live.digest not in known:
                return "a policy that nobody wrote" if live else "the policy is gone"
            return (
                None if any(p.status == "certified" for p in live.policy.promises) else "half of it"
            )

        return both([lambda: write(one), lambda: write(two)], look)

    return run


def served(seed: int) -> Run:
    """A run is calibrated while it is served: every answer is one policy's, and none fails."""

    def run(folder: Path) -> str | None:
        made, two = certified_run()
        known = {policy_digest(p) for p in two}
        file = folder / "policies" / "p.json"
        write_policy(file, two[0])
        rows = examples(every=12)
        seen: list[str] = []

        def write() -> None:
            for n in range(20 + seed):
                write_policy(file, two[n % 2])
                time.sleep(0.02)

        with serving(
            file.parent, backend=FakeBackend(engine=engine_for(rows)), watched_runs=[made]
        ) as server:

            def look() -> str | None:
                got = server.chat(stream=bool(len(seen) % 2))
                seen.append(got.text)
                if got.status_code != 200:
                    return f"status {got.status_code}: {got.text[:200]}"
                return (
                    None
                    if any(digest in got.text for digest in known)
                    else "another policy decided"
                )

            return both([write], look)

    return run


def trials() -> Iterator[tuple[str, Run]]:
    """Each way several times, with other lengths and orders."""
    ways = (watched, killed, keyed, calibrated, reloaded)
    for way in ways:
        for seed in range(10):
            yield f"{way.__name__} {seed}", way(seed)
    for seed in range(3):
        yield f"served {seed}", served(seed)
