"""Hand-labelled answers -> a response classifier, and its accuracy on answers that it was not
fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from demur.base.arrays import numbered
from demur.base.errors import DataError
from demur.core.classifiers.text import TextClassifier
from demur.core.judging.outcome import Outcome, declines
from demur.core.ports import Judge
from demur.core.rates import stored
from demur.stats.text.fit import fit_text_classifier
from demur.stats.units import unit_rate
from demur.store.answers.answers_file import AnswerRow, read_answers
from demur.store.answers.blackbox_file import HandRow
from demur.store.models.text_model_file import write_text_classifier

FOLDS = 5
FEWEST = 20  # of either kind

MakeJudge = Callable[[TextClassifier, str], Judge]  # (classifier, digest of its file)


def run(hand: Path, out: Path, make_judge: MakeJudge) -> HandRow:
    """Fit a classifier on all labelled answers and write it to `out`; measure the judge made of it
    on each answer, held out once.

    make_judge: makes the judge of a classifier, so that it is measured as it will be used. Answers
    to one prompt are held out together. A partial answer counts as declined, rows without a label
    or an answer are left out. Raises DataError with fewer than FEWEST labelled answers of either
    kind.
    """
    rows = [r for r in read_answers(hand) if r.label is not None and r.item.answer.strip()]
    yes_N = np.array(
        [r.label is not None and declines(r.label, "lenient") for r in rows], dtype=bool
    )
    declining = int(yes_N.sum())
    prompts = len({r.group for r in rows})
    # Each of the folds needs both labels, and prompts of its own.
    if min(declining, len(rows) - declining, prompts) < FEWEST:
        raise DataError(
            f"{hand}: {declining} labelled answers decline and {len(rows) - declining} do not, to "
            f"{prompts} prompts; at least {FEWEST} of each are needed",
            'label more: {"id", "request", "answer", "label": refusal, partial or compliance}',
        )
    outcomes = _held_out(rows, yes_N, make_judge)
    scored = [(o, yes) for o, yes in zip(outcomes, yes_N, strict=True) if o.verdict != "unscored"]
    right_M = np.array([declines(o.verdict, "lenient") == yes for o, yes in scored], dtype=bool)
    groups = [r.group for r, o in zip(rows, outcomes, strict=True) if o.verdict != "unscored"]
    everything_M = np.ones(len(scored), dtype=bool)
    accuracy, by_units = stored(unit_rate(right_M, everything_M, numbered(groups), None))
    write_text_classifier(out, fit_text_classifier([r.item.answer for r in rows], yes_N))
    return HandRow(
        answers=len(rows),
        declining=declining,
        accuracy=accuracy,
        by_units=by_units,
        unscored=len(rows) - len(scored),
    )


def _held_out(rows: Sequence[AnswerRow], yes_N: np.ndarray, make_judge: MakeJudge) -> list[Outcome]:
    """The outcome of each answer by a judge that was fitted without that answer and its prompt."""
    # Folds keep the share of declining answers and never split the answers to one prompt.
    answers, outcomes = [r.item.answer for r in rows], dict[int, Outcome]()
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train_M, held_M in folds.split(answers, yes_N, [r.group for r in rows]):
        judge = make_judge(
            fit_text_classifier([answers[n] for n in train_M], yes_N[train_M]), "held out"
        )
        for n in held_M.tolist():
            # No category: black-box answers are judged without one.
            outcomes[n] = judge.judge(rows[n].item.request, answers[n], None)
    return [outcomes[n] for n in range(len(rows))]
