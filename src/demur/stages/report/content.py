"""The chapters of the report, in order.

All sentences stand here and in the captions beside each table and figure; page.py adds only
headings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from demur.core.training.summary import made_lines, training_warnings
from demur.pages.parts import Code, Figure, Part, Section, Table
from demur.stages.report import cards, curves, figures, mixes, tables
from demur.stages.report.everyday import everyday_table
from demur.stages.report.explorer import explorer
from demur.stages.report.finished_run import FinishedRun
from demur.stages.report.stops import stopped

FEW = 2  # prompts of each kind at the top of the page

_TINY = (
    "A word of honesty: this is a tiny model trained from nothing in a few minutes. Its ordinary "
    "answers are poor prose, and it does not solve the hardest pairs of prompts. It is here to "
    "show the control working. All figures are whatever they are, on prompts that neither training "
    "nor calibration saw."
)


def headline(m: FinishedRun) -> str:
    """The result in a sentence or two: the rates of the calibrated policy and of the natural one
    ("left to itself"), by control token.

    Undefined rates are called so.
    """
    chosen, natural = m.measured.decision.overall, m.evaluation.policies[0].decision.overall
    return (
        f"{_against(m)}On {m.evaluation.test_rows:,} held-out prompts, the policy calibrated for "
        f"“{m.measured.goal}” declines {chosen.caught.words} of the prompts that should be "
        f"declined and, wrongly, {chosen.false_refusal.words} of those that should be answered. "
        f"Left to itself, the model declines {natural.caught.words} and "
        f"{natural.false_refusal.words}. In brackets: 95% intervals."
    )


def _against(m: FinishedRun) -> str:
    """The warning that test rows contradict a certificate, which must be read before anything else.
    Empty if they contradict none.
    """
    if not m.against:
        return ""
    return (
        f"THE TEST ROWS SPEAK AGAINST A CERTIFICATE: {'; '.join(a.text for a in m.against)}. "
        "Do not rely on it. "
    )


def sections(m: FinishedRun, run_name: str, most_examples: int) -> tuple[Section, ...]:
    """Write the chapters, each with an anchor that links may rely on.

    run_name: of the run folder, for commands. most_examples: prompts of each kind to show, 0 for
    none.
    """
    # The page begins with a few decided prompts, and has the rest of the prompts in later chapters.
    few = min(most_examples, FEW)
    return (
        Section(
            key="examples",
            title="What it decides",
            parts=(
                *([everyday_table(m.everyday)] if m.everyday else []),
                *cards.decided(m, few),
            ),
        ),
        Section(
            key="control",
            title="Setting the rate",
            parts=(explorer(m, run_name), *_drawn(m, curves.trade_off, figures.thresholds)),
        ),
        Section(
            key="policies",
            title="What the policies do",
            parts=(tables.policies(m), _folded(tables.by_category(m))),
            text=tuple(f"The goal “{u.goal}” has no line: {u.reason}." for u in m.evaluation.unmet),
        ),
        Section(
            key="promise",
            title="Promise and measurement",
            parts=(tables.promises(m), *mixes.slices(m), *mixes.kept(m)),
            text=(*mixes.warnings(m), *mixes.sentences(m)),
        ),
        *stopped(m),
        _scores(m),
        _errors(m, most_examples),
        _texts(m, most_examples),
        Section(key="model", title="What this model is", parts=(), text=_model(m)),
        _made(m, run_name),
    )


def _errors(m: FinishedRun, most_examples: int) -> Section:
    """The chapter on the calibrated policy's errors, by category, kind and subcategory."""
    parts: tuple[Part, ...] = (
        figures.confusion(m),
        _folded(tables.by_kind(m)),
        _folded(tables.by_subcategory(m)),
        cards.nearest(m, most_examples),
    )
    return Section(key="errors", title="Where it errs", parts=parts)


def _texts(m: FinishedRun, most_examples: int) -> Section:
    """The chapter on texts that agree with their control token, and on those that do not."""
    parts: tuple[Part, ...] = (
        tables.agreement(m),
        _folded(tables.kept_word(m)),
        _folded(tables.twins(m)),
        *tables.corrected(m),
        cards.disagreements(m, most_examples),
        cards.stuck(m, most_examples),
    )
    return Section(key="texts", title="Token and text", parts=parts)


def _made(m: FinishedRun, run_name: str) -> Section:
    """The chapter on training, rows, commands and settings. run_name: of the run folder."""
    stages = ("train", "score", "calibrate", "evaluate", "report")
    commands = Code(
        title="How to reproduce",
        caption="Each stage reads what the one before it wrote; a stage that is up to date does "
        "nothing. The settings are in the table below and in each stage's made.json.",
        lines=(
            f"demur data CONFIG.toml --out {run_name}",
            *(f"demur {stage} {run_name}" for stage in stages),
        ),
    )
    parts: tuple[Part, ...] = (
        *_drawn(m, figures.training),
        _folded(tables.data(m)),
        commands,
        _folded(tables.settings(m)),
    )
    return Section(key="made", title="How it was made", parts=parts)


def _folded(table: Table) -> Table:
    """The table, shown as its title until somebody opens it."""
    return replace(table, folded=True)


def _scores(m: FinishedRun) -> Section:
    """The chapter on ranking, calibration and leftover mass, which no threshold can improve."""
    left = m.evaluation.leftover
    text = (
        "Leftover mass, the probability of anything but a control token at the first position: "
        f"{left.mean:.2%} on average, {left.p95:.2%} or less on 95% of the prompts, "
        f"{left.highest:.2%} at most. It should be near zero.",
        *_doubt(m),
        *_calibrator(m),
        *_cascade(m),
    )
    parts: tuple[Part, ...] = (
        *_drawn(m, curves.roc, curves.precision_recall, curves.reliability),
        *map(_folded, tables.calibration(m)),
        figures.histograms(m),
        _folded(tables.rankings(m)),
    )
    return Section(key="scores", title="How good the scores are", parts=parts, text=text)


def _doubt(m: FinishedRun) -> tuple[str, ...]:
    """The number of rows in doubt; empty for evaluations from before there was a bound."""
    left = m.evaluation.leftover
    if left.most is None or left.doubtful is None:
        return ()
    return (
        f"In doubt, and refused at every threshold: {left.doubtful:,} of "
        f"{m.evaluation.test_rows:,} test rows put more than {left.most:.2%} of their probability "
        "outside the control tokens.",
    )


def _calibrator(m: FinishedRun) -> tuple[str, ...]:
    """The calibrator between scores and thresholds, and why it was chosen; empty without one."""
    made = m.evaluation.calibration
    if made is None:
        return ()
    notes = f" To know: {'; '.join(made.notes)}." if made.notes else ""
    return (
        f"Calibrator: {made.why}. It was fitted on {made.fitted_on:,} calibrate rows of its own; "
        f"thresholds were chosen on {m.evaluation.calibrate_rows:,} others.{notes}",
    )


def _cascade(m: FinishedRun) -> tuple[str, ...]:
    """The share of rows that a cascade's front decided, and its costs; empty without a front."""
    if m.by_front is None:
        return ()
    rows, made = m.by_front
    return (
        f"This is a cascade: {rows:,} of {m.evaluation.test_rows:,} test rows were decided by the "
        "front model, the others by the model. Thresholds were chosen, and promises made, on "
        f"both together. On {made.held:,} requests of traffic held out from the front it decided "
        f"{made.share:.0%}. CPU time of a decision: {made.cost}.",
    )


def _drawn(m: FinishedRun, *draw: Callable[[FinishedRun], Figure | None]) -> tuple[Figure, ...]:
    """The figures that can be drawn from these rows."""
    return tuple(figure for f in draw if (figure := f(m)) is not None)


def _model(m: FinishedRun) -> tuple[str, ...]:
    """Base, size and fingerprints of the model; for the tiny recipe, its limits."""
    # The first 12 hex digits of a digest are enough to tell two of them apart by eye.
    short = m.evaluation.model.model_digest.removeprefix("sha256:")[:12]
    policy = m.evaluation.policies[1].digest.removeprefix("sha256:")[:12]
    marks = (
        f"Model fingerprint {short} ({m.evaluation.model.dtype}), policy fingerprint {policy}. "
        f"Decisions are made on the probabilities of {len(m.evaluation.choices)} control tokens at "
        f"the first position of the answer; texts of at most {m.evaluation.max_new_tokens} tokens "
        f"were judged by {m.evaluation.judge}."
    )
    if m.model is None:
        return ("This checkpoint was not trained in this run.", marks)
    details = m.model.details
    base = str(details.get("base", "unknown"))
    made = (
        f"Base “{base}”, {_count(details.get('parameters'))} parameters, trained for "
        f"{m.model.steps:,} steps on {_count(details.get('rows'))} rows."
    )
    origin = m.model.to_core().origin
    if origin is not None:
        made += f" The base: {origin.text}."
    said = [line[0].upper() + line[1:] + "." for line in made_lines(details)]
    said += [f"Warning: {text}." for text in training_warnings(details)]
    return (made, *said, *([_TINY] if base == "tiny" else []), marks)


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"
