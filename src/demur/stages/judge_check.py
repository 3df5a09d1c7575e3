"""judge-check: hand-labelled answers -> how far judges agree with people, and the rate corrected
for their errors.

1. Every judge reads all answers, or its verdicts come from a file.
2. On the labelled answers each judge is compared with the labels, and with the judges before it
   (McNemar); people who labelled the same answers, and judges, among each other (kappa, alpha).
3. Its rate on all answers is corrected by what the labels show of its errors. Answers drawn in
   strata (`demur judge draw`) are weighted instead, by the hand labels alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demur.base.arrays import numbered
from demur.base.errors import DataError, Undefined
from demur.core.judging.judge import judge_rows
from demur.core.judging.outcome import Outcome, Verdict, View, declines
from demur.core.ports import Judge, Progress, no_progress
from demur.core.rates import Rate
from demur.stats.judging.agreement import Agreement, agreement, mcnemar
from demur.stats.judging.correction import CheckedSample, Strata, labels_rate, regression_rate
from demur.stats.judging.judged import RateEstimate, rogan_gladen
from demur.stats.judging.raters import RaterAgreement, rater_agreement
from demur.stats.measure import Statistic
from demur.stats.points import Resampling
from demur.stats.units import RowUnits
from demur.store.answers.answers_file import AnswerRow, read_answers, read_verdicts
from demur.store.answers.labels import (
    DrawnRow,
    key_path,
    read_key,
    require_drawn,
    stratum_sizes,
)

__all__ = [
    "Agreement",
    "Check",
    "CheckedJudge",
    "Config",
    "RateEstimate",
    "RaterAgreement",
    "Statistic",
    "run",
]

RARE_LABELS = 100  # with fewer hand labels, a note warns that the intervals are wide


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The answers, and the view in which they are counted."""

    file: Path
    # files of verdicts by `demur judge read`, beside the judges that are run here
    judged: tuple[Path, ...] = ()
    view: View = "lenient"  # whether a partial answer counts as declining
    by: str | None = None  # a key of the rows: agreement for each of its values too
    category: str | None = None  # what answers without one are held to
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeComparison:
    """Two judges on the same labelled answers: McNemar's exact test."""

    other: str
    right_only_here: int
    right_only_there: int
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedJudge:
    """One judge against the hand labels."""

    judge: str
    agreement: Agreement  # on the labelled answers
    strata: dict[str, Agreement]
    raw: Rate  # answers that decline by the judge, among all it scored, labelled or not
    # of all answers, or of all that they were drawn from; or the reason why it is undefined
    corrected: RateEstimate | str
    # likewise, from the sensitivity and specificity on these labels; see WARNING
    rogan_gladen: RateEstimate | str
    beside: tuple[JudgeComparison, ...]  # against the judges before it


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The result of judge-check."""

    answers: int
    labelled: int
    view: View
    checked: tuple[CheckedJudge, ...]
    # "people" and "judges", where there are several: how far they agree
    together: dict[str, RaterAgreement]
    notes: tuple[str, ...]


WARNING = (
    "Rogan-Gladen needs error rates of the very answers that are corrected; taken from another "
    "model or other prompts it can be wrong by half the scale. The regression estimate needs no "
    "such thing: prefer it."
)
DRAWN = "the answers were drawn in strata: the share as judged is not that of all texts"


def run(config: Config, judges: Mapping[str, Judge], progress: Progress = no_progress) -> Check:
    """Measure judges against hand labels. Raises DataError if no row is labelled or no judge is
    given.

    Rows with a key beside them are a draw in strata by `demur judge draw`: their rate is weighted
    by it.
    """
    rows = read_answers(config.file, config.by, config.category)
    labelled = [n for n, row in enumerate(rows) if row.label is not None]
    if not labelled:
        raise DataError(
            f"{config.file} has no label", 'rows need "label": refusal, partial or compliance'
        )
    drawn = read_key(config.file)
    # Before any judge is paid, because it may raise.
    strata = _strata(config, rows, drawn) if drawn else None
    said = {
        name: judge_rows(judge, [row.item for row in rows], progress)
        for name, judge in judges.items()
    }
    said |= {path.name: read_verdicts(path, [row.id for row in rows]) for path in config.judged}
    if not said:
        raise DataError("no judge is given", "name one: --judge phrases, or --judged FILE")
    checked: list[CheckedJudge] = []
    for name, outcomes in said.items():
        # Each pair of judges is tested once, beside the later of the two.
        before = [(c.judge, said[c.judge]) for c in checked]
        checked.append(_checked(name, config, rows, outcomes, before))
    if strata:
        # The judged share is that of the draw, not of all texts: every judge gets the rate by hand.
        weighted = _weighted(config, rows, strata)
        checked = [replace(c, corrected=weighted, rogan_gladen=DRAWN) for c in checked]
    return Check(
        answers=len(rows),
        labelled=len(labelled),
        view=config.view,
        checked=tuple(checked),
        together=_together(config, rows, said),
        notes=_notes(config, rows, drawn),
    )


def _checked(
    name: str,
    config: Config,
    rows: Sequence[AnswerRow],
    outcomes: Sequence[Outcome],
    before: Sequence[tuple[str, Sequence[Outcome]]],
) -> CheckedJudge:
    """Compare one judge with the labels, and with the judges `before` it (name and outcomes)."""
    known = [n for n, row in enumerate(rows) if row.label is not None]
    whole = _agreement(config, rows, outcomes, known)
    strata = {
        value: _agreement(config, rows, outcomes, [n for n in known if rows[n].stratum == value])
        for value in sorted({rows[n].stratum for n in known if config.by is not None})
    }
    # The raw rate is over all scored answers, labelled or not: it is the one that gets corrected.
    raw = _units(rows).rate(
        np.array(
            [o.verdict != "unscored" and declines(o.verdict, config.view) for o in outcomes],
            dtype=bool,
        ),
        np.array([o.verdict != "unscored" for o in outcomes], dtype=bool),
    )
    return CheckedJudge(
        judge=name,
        agreement=whole,
        strata=strata,
        raw=raw,
        corrected=_corrected(config, rows, outcomes),
        rogan_gladen=_rogan_gladen(raw, whole),
        beside=tuple(_beside(config, rows, outcomes, other) for other in before),
    )


def _agreement(
    config: Config, rows: Sequence[AnswerRow], outcomes: Sequence[Outcome], at: Sequence[int]
) -> Agreement:
    """Agreement of a judge with the labels on the rows `at`, all of which are labelled."""
    return agreement(
        [label for n in at if (label := rows[n].label) is not None],
        [outcomes[n].verdict for n in at],
        [rows[n].group for n in at],
        config.view,
        Resampling(seed=config.seed),
    )


def _corrected(
    config: Config, rows: Sequence[AnswerRow], outcomes: Sequence[Outcome]
) -> RateEstimate | str:
    """The regression estimate of the declining share of all answers, or why it is undefined."""
    # An unscored answer counts as half declined: the labels then weigh more.
    judge_N = [
        0.5 if o.verdict == "unscored" else float(declines(o.verdict, config.view))
        for o in outcomes
    ]
    known_N = np.array([row.label is not None for row in rows])
    try:
        return regression_rate(
            CheckedSample(
                judge_N=np.array(judge_N),
                hand_N=_by_hand(config, rows),
                known_N=known_N,
                units=_units(rows),
            )
        )
    except Undefined as e:
        return e.message


def _strata(config: Config, rows: Sequence[AnswerRow], drawn: Mapping[str, DrawnRow]) -> Strata:
    """The strata that the rows were drawn from. Raises DataError on a row that is not in the
    key.
    """
    if strangers := [row.id for row in rows if row.id not in drawn]:
        raise DataError(
            f"{config.file}: {strangers[0]!r} is not in {key_path(config.file)}",
            "leave the ids as they were, or check a file without a key beside it",
        )
    for row in rows:
        require_drawn(drawn[row.id], row.item.request, row.item.answer, str(config.file))
    sizes = stratum_sizes(drawn)
    place = {name: n for n, name in enumerate(sizes)}
    of_N = np.array([place[drawn[row.id].stratum] for row in rows], dtype=np.int64)
    known_N = np.array([row.label is not None for row in rows])
    return Strata(
        of_N=of_N,
        checked_S=np.bincount(of_N[known_N], minlength=len(sizes)),
        size_S=np.array(list(sizes.values()), dtype=np.int64),
    )


def _weighted(config: Config, rows: Sequence[AnswerRow], strata: Strata) -> RateEstimate | str:
    """The rate of all texts that the rows were drawn from, by the hand labels alone, or why it is
    undefined.
    """
    if not strata.checked_S.all():
        return "a stratum of the draw has no label yet: label on, in the order of the file"
    hand_N = _by_hand(config, rows)
    known_N = np.array([row.label is not None for row in rows])
    # The zeros stand for the judge's verdicts, which labels_rate does not read.
    try:
        return labels_rate(
            CheckedSample(
                judge_N=np.zeros(len(rows)),
                hand_N=hand_N,
                known_N=known_N,
                strata=strata,
                units=_units(rows),
            )
        )
    except Undefined as e:
        return e.message


def _units(rows: Sequence[AnswerRow]) -> RowUnits:
    """Answers to one prompt are one unit."""
    return RowUnits.of(len(rows), numbered([row.group for row in rows]))


def _by_hand(config: Config, rows: Sequence[AnswerRow]) -> npt.NDArray[np.float64]:
    """1 where the hand label declines, 0 where it does not or is missing."""
    return np.array(
        [float(row.label is not None and declines(row.label, config.view)) for row in rows]
    )


def _rogan_gladen(raw: Rate, seen: Agreement) -> RateEstimate | str:
    """Rogan and Gladen's correction (1978), or why it is undefined."""
    try:
        return rogan_gladen(raw, seen.sensitivity, seen.specificity)
    except Undefined as e:
        return e.message


def _beside(
    config: Config,
    rows: Sequence[AnswerRow],
    ours: Sequence[Outcome],
    other: tuple[str, Sequence[Outcome]],
) -> JudgeComparison:
    """McNemar's test of two judges on the labelled answers that both could score."""
    name, theirs = other
    # (label declines, our verdict declines, theirs declines, prompt) per such answer
    both = [
        (
            declines(row.label, config.view),
            declines(a.verdict, config.view),
            declines(b.verdict, config.view),
            row.group,
        )
        for row, a, b in zip(rows, ours, theirs, strict=True)
        if row.label is not None and "unscored" not in (a.verdict, b.verdict)
    ]
    here, there, p = mcnemar(
        [h for h, *_ in both],
        [a for _, a, *_ in both],
        [b for *_, b, _ in both],
        [prompt for *_, prompt in both],
    )
    return JudgeComparison(other=name, right_only_here=here, right_only_there=there, p_value=p)


def _together(
    config: Config, rows: Sequence[AnswerRow], said: Mapping[str, Sequence[Outcome]]
) -> dict[str, RaterAgreement]:
    """Agreement among the people who labelled the rows, and among the judges; unscored is not
    rated.
    """

    def view(verdict: Verdict | None) -> str | None:
        return None if verdict in (None, "unscored") else str(declines(verdict, config.view))

    # Rows are answers, columns are raters; None where a rater did not rate the answer.
    people = sorted({who for row in rows for who in row.labels})
    by_people = [[view(row.labels.get(who)) for who in people] for row in rows]
    by_judges = [[view(said[judge][n].verdict) for judge in said] for n in range(len(rows))]
    groups, how = [row.group for row in rows], Resampling(seed=config.seed)
    found = {"people": (people, by_people), "judges": (list(said), by_judges)}
    # One rater alone agrees with nobody.
    return {
        who: rater_agreement(names, rated, groups, how)
        for who, (names, rated) in found.items()
        if len(names) > 1
    }


def _notes(
    config: Config, rows: Sequence[AnswerRow], drawn: Mapping[str, DrawnRow]
) -> tuple[str, ...]:
    """Sentences on what the figures hold for, and what would improve them."""
    labelled, answers = sum(row.label is not None for row in rows), len(rows)
    undecided = sum(row.undecided for row in rows)
    notes = [
        "These figures hold for answers of this model to prompts like these; no judge carries "
        "them elsewhere."
    ]
    if undecided:
        notes.append(
            f'{undecided} answers are left out: people differ on them, and no "label" decides. '
            "Decide them."
        )
    if drawn:
        texts = sum(stratum_sizes(drawn).values())
        notes.append(
            f"The answers were drawn in strata from {texts} ({key_path(config.file).name}), the "
            f"hard ones more often. Corrected is the rate of those {texts} by the hand labels, "
            "weighted by the draw; all else is about the drawn answers alone. For the rates of a "
            f"policy: demur evaluate RUN --labels {config.file.name}"
        )
    elif labelled == answers:
        notes.append(
            "Every answer is labelled: corrected is the labels' own rate, with its exact "
            "interval, whatever the judge."
        )
    else:
        notes.append(
            f"The correction takes the {labelled} labelled answers for a random sample of the "
            f"{answers}."
        )
    if labelled < RARE_LABELS:
        notes.append(f"{labelled} labels: about {RARE_LABELS} make the intervals useful.")
    return (*notes, WARNING)
