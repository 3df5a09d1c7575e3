"""Hand-labelled answers -> a response classifier, and how often it is right on answers that it was
not fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from demur.base.errors import DataError
from demur.core.classifiers.text import TextClassifier
from demur.core.ports import Judge
from demur.core.rates import Outcome, declines
from demur.stats.text.fit import fit_text_classifier
from demur.store.answers.answers_file import AnswerRow, read_answers
from demur.store.answers.blackbox_file import HandRow
from demur.store.models.text_model_file import write_text_classifier
from demur.store.policies.policy_file import RateRow

FOLDS = 5
FEWEST = 20  # of either kind

MakeJudge = Callable[[TextClassifier, str], Judge]  # (classifier, digest of its file)


def run(hand: Path, out: Path, make_judge: MakeJudge) -> HandRow:
    """Fit on all labelled answers and write the classifier to `out`; measure the judge on each
    answer held out once.

    make_judge: the judge that a classifier becomes; it is measured as it will be used. Answers to
    one prompt are held out together. A partial answer counts as declined, rows without a label or
    an answer are left out. Raises DataError with fewer than FEWEST labelled answers of either kind.
    """
    rows = [r for r in read_answers(hand) if r.label is not None and r.item.answer.strip()]
    yes_N = np.array(
        [r.label is not None and declines(r.label, "lenient") for r in rows], dtype=bool
    )
    declining = int(yes_N.sum())
    prompts = len({r.group for r in rows})
    if min(declining, len(rows) - declining, prompts) < FEWEST:
        raise DataError(
            f"{hand}: {declining} labelled answers decline and {len(rows) - declining} do not, to "
            f"{prompts} prompts; at least {FEWEST} of each are needed",
            'label more: {"id", "request", "answer", "label": refusal, partial or compliance}',
        )
    outcomes = _held_out(rows, yes_N, make_judge)
    scored = [(o, yes) for o, yes in zip(outcomes, yes_N, strict=True) if o.verdict != "unscored"]
    right = sum(declines(o.verdict, "lenient") == yes for o, yes in scored)
    write_text_classifier(out, fit_text_classifier([r.item.answer for r in rows], yes_N))
    return HandRow(
        answers=len(rows),
        declining=declining,
        accuracy=RateRow(hits=right, of=len(scored)),
        unscored=len(rows) - len(scored),
    )


def _held_out(rows: Sequence[AnswerRow], yes_N: np.ndarray, make_judge: MakeJudge) -> list[Outcome]:
    """What a judge that was fitted without an answer and its prompt says of it, for each answer."""
    answers, outcomes = [r.item.answer for r in rows], dict[int, Outcome]()
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train_M, held_M in folds.split(answers, yes_N, [r.group for r in rows]):
        judge = make_judge(
            fit_text_classifier([answers[n] for n in train_M], yes_N[train_M]), "held out"
        )
        for n in held_M.tolist():
            # no category: as it will be asked
            outcomes[n] = judge.judge(rows[n].item.request, answers[n], None)
    return [outcomes[n] for n in range(len(rows))]
