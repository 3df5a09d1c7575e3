"""demur bench refusals: a model under a policy, public benchmarks -> both error directions, with
exact intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.assembly.checks import SUBJECTS
from demur.assembly.endpoints import chat_client
from demur.assembly.judges import CostReport, build_judge, cost_lines, read_judge_settings
from demur.base.boundary import read_toml
from demur.base.errors import ConfigError, DataError
from demur.cli import options
from demur.cli.policies import open_policy
from demur.cli.terminal import note, notes, print_json, print_table, progress_bar, top_reasons
from demur.core.judging.cached_chat import CachedChat
from demur.core.policy import natural
from demur.core.ports import Judge
from demur.core.taxonomy import coconot
from demur.store.answers.reply_file import ReplyFile
from demur.store.results.bench_file import BenchFile

if TYPE_CHECKING:
    from demur.assembly import sources
    from demur.assembly.run import Workspace
    from demur.stages.bench_refusals import Candidate, Endpoint


JudgeName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Also write the answers, for this judge. Default: decisions only."
    ),
]
JudgeSettings = Annotated[
    Path | None,
    typer.Option(
        "--settings", metavar="FILE", help="Settings of the judge, as for demur judge read."
    ),
]


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=(
            "Run folder; TOML file of an endpoint (url, model, ...); or a test subject: "
            f"{', '.join(SUBJECTS)}."
        ),
    ),
]
BenchmarkFlag = Annotated[
    list[str],
    typer.Option(
        metavar="NAME[:PART][=FILE]", help="By name from the hub, or a local file. Repeatable."
    ),
]
PolicyFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A policy file. Default: the run's calibrated policy."),
]
LimitFlag = Annotated[
    int | None, typer.Option(min=1, help="Use so many rows of each benchmark only.")
]
OutFlag = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where to write bench.*. Default: RUN/bench, or bench/."
    ),
]
CardFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write both rates as .eval_results for a model card."),
]


def command(
    model: ModelArgument,
    *,
    benchmark: BenchmarkFlag,
    policy: PolicyFlag = None,
    judge: JudgeName = None,
    settings: JudgeSettings = None,
    limit: LimitFlag = None,
    out: OutFlag = None,
    card: CardFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure false and missed refusals side by side. A direction without rows is named, never
    shown as 0.
    """
    from demur.assembly import sources

    wanted = [sources.parse_selection(text) for text in benchmark]
    # all that can be wrong with the flags, before a model is loaded or an endpoint asked
    _require_once(benchmark, wanted)
    _require_card(card, wanted)
    # only a run is a folder that results can go to
    beside_a_run = Path(model).suffix != ".toml" and model not in SUBJECTS
    target = out or (Path(model) if beside_a_run else Path()) / "bench"
    # without a judge decisions are measured, and no text is written
    built, spent = (
        build_judge(judge, read_judge_settings(settings, (), target / "labels.sqlite"))
        if judge
        else (None, None)
    )
    measure, spent_asking = _measure(model, policy, built, target, limit)
    # hub_rows imports the package `datasets`, for benchmarks without a file only
    sets = [sources.load_benchmark(one, sources.hub_rows) for one in wanted]
    # costs are told also where measuring fails or is interrupted: they were paid
    try:
        with progress_bar("benchmark") as progress:
            bench = measure(sets, target, progress)
    finally:
        for lines in filter(None, (spent_asking, spent)):
            notes(lines())
    if as_json:
        print_json(bench.model_dump(mode="json"))
    else:
        _print(bench)
        note(f"written: {target / 'bench.md'}")
    if card:
        _write_card(
            card,
            bench,
            {s.name: d for s, w in zip(sets, wanted, strict=True) if (d := w.benchmark.dataset)},
        )
    _require_measured(bench)


def _measure(
    model: str, policy: Path | None, judge: Judge | None, target: Path, limit: int | None
) -> tuple[Callable[..., BenchFile], CostReport | None]:
    """The stage to run for MODEL (of rows, folder and progress), and the costs of its endpoint.

    model: an endpoint's TOML file, the name of a test subject, or a run folder.
    """
    from demur.assembly.run import reopen
    from demur.stages import bench_refusals

    config = bench_refusals.Config(limit=limit)
    # An endpoint shows no decisions: its texts are measured. A subject and a run have both.
    if Path(model).suffix == ".toml":
        endpoint, spent = _endpoint(Path(model), policy, judge, target)
        return partial(bench_refusals.run_endpoint, config, endpoint), spent
    found = _subject(model, policy) if model in SUBJECTS else _trained(reopen(Path(model)), policy)
    return partial(bench_refusals.run, config, replace(found, judge=judge)), None


def _require_once(texts: Sequence[str], wanted: Sequence[sources.BenchmarkSelection]) -> None:
    """Raise ConfigError, naming both flags, if rows of a benchmark are asked for twice."""
    # a benchmark without a part is all of its parts
    for (text, one), (other, two) in combinations(zip(texts, wanted, strict=True), 2):
        same_part = None in (one.part, two.part) or one.part == two.part
        if one.benchmark.name == two.benchmark.name and same_part:
            raise ConfigError(
                f"--benchmark {other} asks for rows of --benchmark {text} again",
                "name each part once; measure another file of it in a call of its own, with --out",
            )


def _require_card(card: Path | None, wanted: Sequence[sources.BenchmarkSelection]) -> None:
    """Raise ConfigError if a card is asked for and none of the benchmarks could stand on it."""
    if card and not any(w.benchmark.dataset for w in wanted):
        raise ConfigError(
            "--card: no benchmark given has a dataset on the hub",
            "docs/benchmarking.md: which have",
        )


def _write_card(file: Path, bench: BenchFile, datasets: Mapping[str, str]) -> None:
    """Write both rates as results of a model card. datasets: benchmark -> dataset on the hub."""
    from demur.stages.bench_refusals.model_card import card_entries
    from demur.store.results.item_results import write_card

    entries = card_entries(bench, datasets)
    # A card names results by their dataset on the hub; benchmarks without one cannot stand there.
    for row in bench.benchmarks:
        if row.name not in datasets:
            note(f"{row.name} has no dataset on the hub and is not in {file}")
    if entries:
        write_card(file, entries)
        note(
            f"{file}: {len(entries)} results; put it into .eval_results/ of the model's repository"
        )


def _require_measured(bench: BenchFile) -> None:
    """Raise DataError if no row was measured, or none of the texts that were asked for. By then
    bench.* is written.
    """
    if not any(row.rows for row in bench.benchmarks):
        reasons = sum((Counter(row.left_out) for row in bench.benchmarks), Counter[str]())
        raise DataError(
            f"no row could be measured: {top_reasons(reasons)}",
            "bench.json has the counts; mend it, run again",
        )
    # every text of every benchmark is unscored
    texts = [row.text for row in bench.benchmarks if row.text]
    if texts and sum(t.unscored for t in texts) == sum(row.rows for row in bench.benchmarks):
        reasons = sum((Counter(t.unscored_reasons) for t in texts), Counter[str]())
        raise DataError(
            f"none of the texts was scored by {bench.judge}: {top_reasons(reasons)}",
            "mend that, run it again",
        )


def _endpoint(
    file: Path, policy: Path | None, judge: Judge | None, target: Path
) -> tuple[Endpoint, CostReport]:
    """Open an endpoint and its stored replies, with the function that puts its costs into words.
    Raises ConfigError with a policy or without a judge.
    """
    from demur.stages.bench_refusals import Endpoint

    if policy or judge is None:
        raise ConfigError(
            f"{file} names an endpoint: it has no control tokens, and only its texts can be "
            "measured",
            "leave --policy out, and name what reads the texts: --judge phrases",
        )
    chat = chat_client(read_toml(file), str(file))
    asker = CachedChat(chat=chat, replies=ReplyFile(target / "replies.sqlite"))
    return Endpoint(asker=asker, judge=judge), lambda: cost_lines(chat)


def _subject(name: str, policy: Path | None) -> Candidate:
    """A test subject under the natural policy. Raises ConfigError with a policy."""
    from demur.stages.bench_refusals import Candidate

    if policy:
        raise ConfigError(
            f"{name!r} is no trained model, and {policy} was made for one", "leave --policy out"
        )
    # subjects know the tokens of coconot, and have no thresholds of their own
    subject = SUBJECTS[name](coconot())
    return Candidate(
        policy=natural(coconot(), subject.fingerprint), scorer=subject, generator=subject
    )


def _trained(workspace: Workspace, policy: Path | None) -> Candidate:
    """The model of a run under a policy file, or under the run's own policy."""
    from demur.assembly.run import RunEngine
    from demur.core.training.seen import merge_records, seen_of
    from demur.stages.bench_refusals import Candidate
    from demur.store.models.seen_file import seen_by_run
    from demur.store.rows import read_examples

    folder, engine = workspace.folder, RunEngine(workspace)
    # rows that thresholds were chosen on count as seen, like those of training
    seen = merge_records([seen_by_run(folder), seen_of(read_examples(folder.split("calibrate")))])
    return Candidate(
        policy=open_policy(policy or folder.policy),
        scorer=engine,
        generator=engine,
        settings=f"max_new_tokens={workspace.config.evaluate.max_new_tokens}",
        seen=seen,
    )


def _print(bench: BenchFile) -> None:
    """Print a table for each measured benchmark, and notes on all of them."""
    from demur.stages.bench_refusals import HEADER, table_rows
    from demur.stages.bench_refusals.content import facts

    for row in bench.benchmarks:
        # a benchmark of which no row could be measured has facts only, which say why
        if row.rows:
            for title, lines in table_rows(row):
                print_table([HEADER, *lines], title=title)
        for fact in facts(row):
            note(f"{row.name}: {fact}")
