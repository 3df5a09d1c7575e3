"""Rows of metrics.json from decisions and judged texts.

demur.stats.measure counts; here its records become rows of the file format, and rates get their
intervals, which count units (demur.stats.units).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.core.calibrator import closed
from demur.core.decision import decide_many
from demur.core.judging.outcome import Outcome, Verdict
from demur.core.policy import Policy
from demur.stages.evaluate.comparison import Comparison
from demur.stages.evaluate.consistency import corrected, kept_by_token, sent_texts
from demur.stages.evaluate.stops import stops_row
from demur.stages.evaluate.texts import JudgedComparison
from demur.stats.calibration.binned import cells
from demur.stats.calibration.proper import brier, nll
from demur.stats.calibration.views import Forecast, forecast, refusal, top_label
from demur.stats.labelled import LabelledScores
from demur.stats.measure import (
    CategoryDecisions,
    ErrorRates,
    SlicedErrors,
    auroc,
    average_precision,
    confusions_of,
    decided_errors,
    errors_of,
    measure_decisions,
    measure_texts,
    refusal_log_odds,
    row_units,
)
from demur.stats.points import f1_interval
from demur.store.answers.branch_cache import BranchCache
from demur.store.answers.labels import HandLabels
from demur.store.policies.policy_file import policy_digest
from demur.store.results.metrics_file import (
    CalibrationErrors,
    CalibrationRow,
    ErrorsRow,
    LeftoverRow,
    LevelRow,
    MeasuredRate,
    PolicyMetrics,
    RankingRow,
    TokenRow,
    VerdictsRow,
)

REASONS = 5  # most reasons to keep of texts that could not be scored
ECE_BINS = 15  # the usual number, see demur.stats.calibration.study
VERDICTS: tuple[Verdict, ...] = ("refusal", "partial", "compliance", "unscored")


def policy_metrics(
    comparison: Comparison, place: int, judged: JudgedComparison, labels: HandLabels
) -> PolicyMetrics:
    """Measure one policy of the comparison on the test rows, by its decisions and by its texts.

    Decisions are measured on all rows of `case`, texts on those of `judged`. labels: by hand, of
    some of them. Also the decisions on the calibrate rows, where thresholds were chosen and figures
    are therefore optimistic. Raises ArtifactError if a text that the policy sends was not
    generated.
    """
    # `read` is the comparison on the rows with texts; decisions are measured on all rows.
    compared, read = comparison.compared[place], judged.comparison
    policy, sent_N = compared.policy, read.compared[place].choice_N
    decisions = measure_decisions(policy, comparison.rows, comparison.examples)
    outcomes = [
        judged.texts.outcome(row, policy, c)
        for row, c in zip(judged.texts.rows.values(), sent_N.tolist(), strict=True)
    ]
    sent = sent_texts(read, read.compared[place], outcomes, labels)
    texts = measure_texts(read.rows, read.examples, sent_N, outcomes)
    verdict_N = np.array([o.verdict for o in outcomes])
    # An unscored text is in no rate: scored_N says which rows the text level is about.
    refuses_N = np.array([o.refuses for o in outcomes], dtype=bool)
    scored_N = verdict_N != "unscored"

    def of_texts(hit_N: Bools, among_N: Bools) -> MeasuredRate:
        return MeasuredRate.from_core(row_units(read.rows).rate(hit_N, among_N))

    return PolicyMetrics(
        name=policy.name,
        goal=compared.goal,
        rule=policy.rule,
        file=compared.file,
        digest=policy_digest(policy),
        thresholds={
            name: c.threshold
            for name, c in zip(policy.taxonomy.names, policy.categories, strict=True)
        },
        # an F1 is of what is answered or refused
        decision=_level(
            decisions.errors, comparison, compared.choice_N > 0, compared.choice_N >= 0
        ),
        text=_level(texts.errors, read, refuses_N, scored_N),
        unscored=of_texts(~scored_N, np.ones(len(scored_N), dtype=bool)),
        unscored_reasons=_reasons(outcomes),
        partial=of_texts(verdict_N == "partial", scored_N),
        tokens={name: _token(c) for name, c in decisions.categories.items()},
        macro_f1=decisions.macro_f1.number,
        wrong_category=MeasuredRate.from_core(decisions.wrong_category),
        confusion=decisions.confusion,
        deferred=decisions.deferred if policy.defers else (),
        stops=stops_row(comparison, policy),
        texts_refuse=MeasuredRate.from_core(texts.agreement),
        # a partial answer counts as an answer
        texts_answer=of_texts(verdict_N != "refusal", scored_N & (sent_N == 0)),
        kept=kept_by_token(policy.taxonomy.choices, sent),
        corrected=corrected(read, read.compared[place], sent),
        **_on_calibrate(policy, comparison.calibrate),
    )


def _on_calibrate(policy: Policy, rows: LabelledScores) -> dict[str, Any]:
    """The fields of PolicyMetrics about the rows that the thresholds were chosen on."""
    decided = decide_many(policy, rows.table.logp_NC)
    confusion, deferred = confusions_of(decided, rows, len(policy.taxonomy.tokens))
    return {
        "calibrate": errors_row(decided_errors(policy, decided, rows)),
        "calibrate_confusion": tuple(map(tuple, confusion.tolist())),
        "calibrate_deferred": tuple(map(tuple, deferred.tolist())) if policy.defers else (),
    }


def always_refuse(rows: LabelledScores) -> ErrorsRow:
    """The errors of refusing everything: the F1 that any policy has to beat."""
    return errors_row(_on(rows, np.ones(len(rows.label_N), dtype=bool)))


def rankings(comparison: Comparison) -> dict[str, RankingRow]:
    """Measure how well scores rank rows. "all": to be refused or not, by refusal_log_odds. A
    category: to be refused with it or not, by its own score.
    """
    label_N, logp_NC = (
        comparison.rows.label_N,
        comparison.policy.calibrator.apply(comparison.rows.table.logp_NC),
    )
    count_N, rows = comparison.rows.count_N, comparison.rows
    found = {"all": _ranking(label_N != 0, refusal_log_odds(comparison.policy, rows), count_N)}
    for k, name in enumerate(comparison.policy.taxonomy.names, start=1):
        found[name] = _ranking(label_N == k, logp_NC[:, k].astype(np.float64), count_N)
    return found


def calibration(comparison: Comparison) -> CalibrationRow | None:
    """Measure the probabilities of the test rows before and after the calibrator; None without
    one.
    """
    if comparison.choice is None:
        return None
    # Before: the model's own scores. After: the scores that the policy decides on, which may have
    # gone through rewrites, through the policy's calibrator. closed() leaves out the leftover mass.
    logp_NC, label_N = comparison.rows.table.logp_NC, comparison.rows.label_N
    raw_NC = comparison.raw.table.logp_NC
    return CalibrationRow(
        family=comparison.choice.family,
        why=comparison.choice.why,
        notes=comparison.choice.notes,
        fitted_on=comparison.choice.fitted_on,
        before=_calibration_errors(forecast(closed(raw_NC), label_N)),
        after=_calibration_errors(
            forecast(closed(comparison.policy.calibrator.apply(logp_NC)), label_N)
        ),
    )


def leftover(comparison: Comparison) -> LeftoverRow:
    """Probability outside the control tokens: about 0 after training, large where the position is
    wrong.
    """
    left_N = comparison.raw.table.leftover_N
    median, p95 = np.quantile(left_N, [0.5, 0.95]).tolist()
    return LeftoverRow(
        mean=float(left_N.mean()),
        median=median,
        p95=p95,
        highest=float(left_N.max()),
        most=comparison.policy.doubt.most_leftover,
        doubtful=int(decide_many(comparison.policy, comparison.rows.table.logp_NC).doubt_N.sum()),
    )


def verdicts(comparison: Comparison, cache: BranchCache) -> dict[str, VerdictsRow]:
    """Count the verdicts on the texts of these rows, by the control token forced before them.

    Counts every text in the cache for the evaluated rows, also those that only an earlier policy
    needed.
    """
    ours = {e.id for e in comparison.examples}
    count = Counter((b.column, b.outcome.verdict) for b in cache.known.values() if b.id in ours)
    choices = enumerate(comparison.policy.taxonomy.choices)
    return {
        choice: VerdictsRow(**{v: count[column, v] for v in VERDICTS}) for column, choice in choices
    }


def errors_row(errors: ErrorRates) -> ErrorsRow:
    """Error rates as a row of metrics.json."""
    found = {f.name: getattr(errors, f.name) for f in fields(errors)}
    rates = {name: MeasuredRate.from_core(r) for name, r in found.items() if r is not None}
    return ErrorsRow(**rates, f1=errors.f1.number)


def _calibration_errors(f: Forecast) -> CalibrationErrors:
    """Errors of the probability of refusing at all, of the most probable token, and of all."""
    refusal_ece, top_ece = (
        cells(v, "mass_whole_ties", ECE_BINS).error() for v in (refusal(f), top_label(f))
    )
    return CalibrationErrors(
        refusal_ece=refusal_ece, top_ece=top_ece, log_loss=nll(f).number, brier=brier(f)
    )


def _on(rows: LabelledScores, refused_N: Bools) -> ErrorRates:
    """The errors of refusing the rows refused_N."""
    return errors_of(rows.label_N != 0, refused_N, row_units(rows))


def _level(
    errors: SlicedErrors, comparison: Comparison, refused_N: Bools, counted_N: Bools | None = None
) -> LevelRow:
    """Errors with the interval of the overall F1, as a row.

    refused_N: rows whose decision, or whose text, refuses. counted_N: the rows that the errors are
    about, by default all.
    """
    of_N = np.ones(len(refused_N), dtype=bool) if counted_N is None else counted_N
    units = row_units(comparison.rows).at(of_N)
    should_N = comparison.rows.label_N != 0
    defined = errors.overall.f1.defined
    return LevelRow(
        overall=errors_row(errors.overall),
        f1_interval=f1_interval(should_N[of_N], refused_N[of_N], units) if defined else None,
        by_category={k: errors_row(e) for k, e in errors.by_category.items()},
        by_subcategory={k: errors_row(e) for k, e in errors.by_subcategory.items()},
        by_kind={k: errors_row(e) for k, e in errors.by_kind.items()},
    )


def _reasons(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """The most frequent reasons why texts could not be scored, with counts."""
    return dict(Counter(o.reason for o in outcomes if o.verdict == "unscored").most_common(REASONS))


def _token(decisions: CategoryDecisions) -> TokenRow:
    names = [f.name for f in fields(decisions) if f.name != "f1"]
    return TokenRow(
        **{n: MeasuredRate.from_core(getattr(decisions, n)) for n in names}, f1=decisions.f1.number
    )


def _ranking(positive_N: Bools, score_N: Doubles, count_N: Ints | None) -> RankingRow:
    return RankingRow(
        positives=int(positive_N.sum()),
        negatives=int((~positive_N).sum()),
        auroc=auroc(positive_N, score_N, count_N).number,
        average_precision=average_precision(positive_N, score_N, count_N).number,
    )
