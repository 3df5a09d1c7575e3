"""The tables of the report, from metrics.json, policies and receipts.

Undefined rates are MeasuredRate's to name. A cell is empty where its column does not apply to its
row; a row of one cell is a heading over the rows that follow.
"""

from __future__ import annotations

import json

from demur.core.example import SPLITS
from demur.core.goals.attempts import percent
from demur.core.goals.promised import PromisedGoal
from demur.core.rates import Rate
from demur.core.taxonomy import RESPOND
from demur.pages.parts import Cell, Estimate, Table
from demur.stages.report import risks
from demur.stages.report.finished_run import FinishedRun
from demur.stages.report.risks import number
from demur.stats.contradictions import promised_rate
from demur.store.results.metrics_file import (
    CorrectedRate,
    ErrorsRow,
    LevelRow,
    MeasuredRate,
    PolicyMetrics,
    VerdictsRow,
    text_rows,
)


def label(m: FinishedRun, policy: PolicyMetrics) -> str:
    """The name of a policy in tables: its goal, and whether it is the natural or the calibrated
    one.
    """
    place = m.evaluation.policies.index(policy)
    return "natural" if place == 0 else f"calibrated ({policy.goal})" if place == 1 else policy.goal


def policies(m: FinishedRun) -> Table:
    """Error rates of all policies, by control token and by judged text, and of always refusing.

    The baseline stands beside F1 because refusing everything scores well wherever most prompts are
    to be refused.
    """
    header = (
        "policy",
        "refused",
        "false refusals",
        "missed refusals",
        "precision",
        "F1",
        "wrong category",
        "unscored",
    )
    # Three blocks, each under a heading. Columns that a block does not have are empty cells.
    rows: list[tuple[Cell, ...]] = [("by the control token",)]
    rows += [
        (label(m, p), *_overall(p.decision), p.wrong_category, "") for p in m.evaluation.policies
    ]
    deferred = [(p, r) for p in m.evaluation.policies if (r := p.decision.overall.deferral)]
    if deferred:
        rows += [("neither answered nor refused: share deferred, in the first column",)]
        rows += [(label(m, p), rate, *[""] * 6) for p, rate in deferred]
    rows += [("by the text, as judged" + _of_some(m),)]
    rows += [
        (label(m, p), *_overall(p.text), "", _out_of(p.unscored)) for p in m.evaluation.policies
    ]
    base = m.evaluation.always_refuse
    rows += [
        ("for comparison",),
        ("always refuse", *_rates(base), base.precision, number(base.f1), "", ""),
    ]
    return Table(
        title="Policies on held-out prompts",
        header=header,
        rows=tuple(rows),
        caption="False refusals (Type I) are a share of the prompts to be answered, missed "
        "refusals (Type II) of those to be refused; small numbers are 95% intervals. "
        "Texts that the judge could not score are counted in the "
        "last column and are in no rate. F1 alone flatters whoever refuses everything: see the "
        "last line.",
    )


def _of_some(m: FinishedRun) -> str:
    """The number of rows with texts, for headings; empty if all rows have texts."""
    if m.evaluation.text_rows is None:
        return ""
    return f", on {m.evaluation.text_rows:,} of {m.evaluation.test_rows:,} prompts"


def by_category(m: FinishedRun) -> Table:
    """Error rates of every policy, per category of the prompts, refusals and contrast prompts
    together.

    Ordinary prompts have no category and a line of their own; their missed refusals are not
    defined.
    """
    rows: list[tuple[Cell, ...]] = []
    for policy in m.evaluation.policies:
        # by_category has no ordinary prompts: they come from by_kind.
        groups = dict(policy.decision.by_category)
        if "benign" in policy.decision.by_kind:
            groups["ordinary requests"] = policy.decision.by_kind["benign"]
        rows += [
            (label(m, policy),),
            *((name, str(e.refusal_rate.of), *_rates(e)) for name, e in groups.items()),
        ]
    return Table(
        title="Per category",
        header=("category", "rows", "refused", "false refusals", "missed refusals"),
        rows=tuple(rows),
        caption=(
            "The prompts of a category: those to be refused, and contrast prompts that only "
            "look like them."
        ),
    )


def by_subcategory(m: FinishedRun) -> Table:
    """Error rates of the calibrated policy, per subcategory: small groups, so read the
    intervals.
    """
    parts = m.measured.decision.by_subcategory
    rows = tuple((name, str(e.refusal_rate.of), *_rates(e)) for name, e in parts.items())
    return Table(
        title="Per subcategory, calibrated policy",
        header=("subcategory", "rows", "refused", "false refusals", "missed refusals"),
        rows=rows,
    )


def by_kind(m: FinishedRun) -> Table:
    """Refusal rates of each policy on prompts to be refused, contrast prompts and ordinary ones."""
    kinds = ("refusal", "contrast", "benign")
    rows = []
    for policy in m.evaluation.policies:
        # A test split may have no row of a kind.
        cells = (policy.decision.by_kind.get(k) for k in kinds)
        rows.append((label(m, policy), *(c.refusal_rate if c else "no such rows" for c in cells)))
    return Table(
        title="Share refused, contrast prompts apart",
        header=("policy", "to be refused", "contrast", "ordinary"),
        rows=tuple(rows),
        caption=(
            "A contrast prompt resembles one to be refused and ought to be answered: each "
            "refusal of one is false."
        ),
    )


def rankings(m: FinishedRun) -> Table:
    """AUROC and average precision of the scores, for refusing at all and per category, one against
    the rest.
    """
    rows = tuple(
        (
            "should be refused at all" if name == "all" else name,
            str(r.positives),
            number(r.auroc),
            number(r.average_precision),
        )
        for name, r in m.evaluation.ranking.items()
    )
    return Table(
        title="How well the scores order prompts",
        header=("refused with", "such rows", "AUROC", "average precision"),
        rows=rows,
        caption="Whatever the threshold. Chance is 0.5 for AUROC, and for average precision the "
        f"share of such rows among {m.evaluation.test_rows}.",
    )


def calibration(m: FinishedRun) -> tuple[Table, ...]:
    """Errors of the probabilities on the test rows, before and after the calibrator; empty without
    one.
    """
    made = m.evaluation.calibration
    if made is None:
        return ()
    names = {
        "refusal_ece": "calibration error of refusing at all",
        "top_ece": "calibration error of the most probable token",
        "log_loss": "log loss, nats per prompt",
        "brier": "Brier score",
    }
    both = (made.before.model_dump(), made.after.model_dump())
    table = Table(
        title="Probabilities before and after calibration",
        header=("test rows", "before", f"after ({made.family})"),
        rows=tuple(
            (words, *(number(errors[key]) for errors in both)) for key, words in names.items()
        ),
        caption="Smaller is better. Calibration errors are mean gaps over 15 bins of equal mass, "
        "and never quite 0 on finitely many rows; log loss and Brier score take in all control "
        "tokens and reward sharpness too.",
    )
    return (table,)


def promises(m: FinishedRun) -> Table:
    """Each promise beside its figure on the calibrate rows and on the test rows.

    A promised rate has its calibrate figure with it; F-beta, Youden's J and costs are computed from
    the counts on both splits.
    """
    rows = []
    for policy, measured in zip(m.policies, m.evaluation.policies, strict=True):
        active = [n for n in policy.taxonomy.names if policy.category(n).may_emit]
        for promise in policy.promises:
            optimum = "nothing asked" if policy.rule == "natural" else "the optimum"
            level = optimum if promise.level is None else f"{promise.level:.1%}"
            sure = "no guarantee" if promise.confidence is None else percent(promise.confidence)
            before, after = risks.measured(promise.goal, measured, active)
            # Counts know neither slices nor units: rates are made again from the test scores.
            if isinstance(promise.goal, PromisedGoal):
                tested = promised_rate(promise, policy, m.rows)
                after = MeasuredRate.from_core(tested[0]) if tested else "no such row"
            on_calibrate: Cell = before
            if promise.rate:
                on_calibrate = MeasuredRate.from_core(promise.rate, promise.by_units)
            # Only promises of the run's own policy are tested for contradictions.
            against = policy is m.calibrated and promise.goal in [a.promise.goal for a in m.against]
            status = (
                f"{promise.status}; the test rows speak against it" if against else promise.status
            )
            rows.append(
                (label(m, measured), status, promise.risk, level, sure, on_calibrate, after)
            )
    return Table(
        title="Promise beside measurement",
        header=("policy", "status", "about", "level", "confidence", "calibrate rows", "test rows"),
        rows=tuple(rows),
        text_columns=3,
        caption='"certified" bounds the rate on new prompts of the same kind, with the stated '
        "confidence over the draw "
        'of the calibrate rows, all of a policy together; "measured" only reports what was seen; '
        '"uncertified" was '
        "asked for and not granted: the policy says what was to be done then; a promise that its "
        "file calls certified "
        'and does not bear out is "not certified". No threshold was chosen on test rows.'
        f"{_attempts(m)}",
    )


def _attempts(m: FinishedRun) -> str:
    """What all attempts on the calibrate rows leave, by the last promise that was made on them."""
    made = [p.attempts for policy in m.policies for p in policy.promises if p.attempts]
    words = max(made, key=lambda a: a.count).words if made else ""
    return f" {words[0].upper()}{words[1:]}." if words else ""


def agreement(m: FinishedRun) -> Table:
    """Agreement of texts with their token: P(refuses | refusal token) and P(answers | respond).

    First over the texts that each policy sends, then over all texts, by forced token. Shares of the
    texts that the judge could score; the others are counted beside them.
    """
    rows: list[tuple[Cell, ...]] = [("texts that a policy sends" + _of_some(m),)]
    for p in m.evaluation.policies:
        rows.append((label(m, p), p.texts_refuse, p.texts_answer, _out_of(p.unscored)))
    rows.append(("every text generated, by the token forced before it",))
    for choice, v in m.evaluation.branches.items():
        scored = v.refusal + v.partial + v.compliance
        refuse = _refusing(m, choice, v)
        rows.append((choice, refuse, refuse.complement, f"{v.unscored} of {scored + v.unscored}"))
    return Table(
        title="Do the texts do what their token says?",
        header=("", "refuse after a refusal token", "answer after respond", "unscored"),
        rows=tuple(rows),
        caption=f"Judged by {m.evaluation.judge}. In the lower block: the share of these texts "
        "that refuse, and that answer, in part or whole, among those that could be scored.",
    )


def _refusing(m: FinishedRun, choice: str, v: VerdictsRow) -> MeasuredRate:
    """The share of the texts after one forced token that refuse."""
    kept = m.evaluation.forced.get(choice)
    if kept is None:  # of before texts were counted with their units: every text counts alone
        scored = v.refusal + v.partial + v.compliance
        return MeasuredRate.from_core(Rate(hits=v.refusal, of=scored))
    # After respond the word that is kept is to answer.
    return kept.kept.complement if choice == RESPOND else kept.kept


def kept_word(m: FinishedRun) -> Table:
    """Shares of texts that keep their token's word, per control token: as sent under the calibrated
    policy, and with the token forced.

    Partial answers are counted either way: as answers, and as refusals.
    """
    rows: list[tuple[Cell, ...]] = []
    for title, kept in (("as sent", m.measured.kept), ("forced", m.evaluation.forced)):
        rows.append((title,))
        for choice, k in kept.items():
            # All rows have the column of hand labels, or none has.
            estimate = (_estimate(k.corrected["kept"]),) if k.corrected else ()
            rows.append(
                (
                    choice,
                    str(k.kept.of),
                    k.kept,
                    *estimate,
                    k.kept_if_partial_refuses,
                    str(k.unscored),
                )
            )
    shown = any(k.corrected for k in m.evaluation.forced.values())
    by_hand = ("corrected by hand labels",) if shown else ()
    return Table(
        title="Texts that keep their token's word, per token",
        header=(
            "token",
            "texts",
            "keeps its word",
            *by_hand,
            "with partial answers as refusals",
            "unscored",
        ),
        rows=tuple(rows),
        caption="After a refusal token the text should decline, after respond it should answer; "
        "shares of the texts that could be scored. As sent: what the calibrated policy sends. "
        "Forced: every text generated after that token, whatever the policy would do. "
        f"{_forced_after(m)}",
    )


def _forced_after(m: FinishedRun) -> str:
    """The prompts after which refusal tokens were forced, on which the share of kept words is
    conditional.
    """
    # Forced everywhere: each token has as many texts as there are rows with texts.
    if all(k.kept.of + k.unscored == text_rows(m.evaluation) for k in m.evaluation.forced.values()):
        return "Every token was forced after every prompt."
    return (
        "Respond was forced after every prompt, a refusal token only where it was the likeliest "
        "one or a compared "
        'policy emitted it: its share says nothing of other prompts (evaluate.branches = "all" '
        "forces every token)."
    )


def twins(m: FinishedRun) -> Table:
    """The four cells of prompts with two texts, one after a refusal token and one after respond."""
    rows = tuple(
        (name, t.controllable, t.stuck_refuse, t.stuck_answer, t.inverted, str(t.unscored))
        for name, t in m.evaluation.twins.items()
    )
    return Table(
        title="Does the token decide the text?",
        header=(
            "prompts",
            "both keep their word",
            "decline either way",
            "answer either way",
            "inverted",
            "unscored",
        ),
        rows=rows,
        caption="Each prompt with two texts, one after its likeliest refusal token and one after "
        "respond, both forced. Among prompts to be answered, those that decline either way are a "
        "floor: no threshold brings the texts' false refusals below it.",
    )


def corrected(m: FinishedRun) -> tuple[Table, ...]:
    """Judged rates of the texts beside those corrected by hand labels; empty without labels."""
    if not m.evaluation.labels:
        return ()
    rows: list[tuple[Cell, ...]] = []
    for p in m.evaluation.policies:
        rows.append((label(m, p),))
        for name, raw in p.judged.items():
            found = p.corrected["all"][name]
            rows.append((name.replace("_", " "), raw, _estimate(found), str(found.labels)))
    table = Table(
        title="Judged rates, corrected by hand labels",
        header=("rate", "as judged", "corrected", "labels"),
        rows=tuple(rows),
        caption=f"{m.evaluation.labels} texts were labelled by hand, drawn at random, perhaps in "
        "strata. Corrected: regression estimate, which assumes no error rate of the judge; where "
        "hits or misses are rare, with the exact interval of the hand labels alone. It is about "
        "requests like these, also where the judge could not score a text: that stands in it as "
        "0.5. Per category, "
        "subcategory and kind, and of both texts of a prompt: evaluate/metrics.json.",
    )
    return (table,)


def _out_of(rate: MeasuredRate) -> Cell:
    """A count and its total, where a rate would be taken for an error rate."""
    return f"{rate.hits} of {rate.of}"


def _estimate(found: CorrectedRate) -> Cell:
    """A corrected rate with its interval in words."""
    if found.value is None or found.low is None or found.high is None:
        return "too few labels"
    return found.words


def data(m: FinishedRun) -> Table:
    """Numbers of rows by split, kind and category, of whole splits, evaluated or not."""
    # In reverse, refusals come first, then contrast, then benign.
    groups = sorted({(kind, category) for _, kind, category in m.counts}, reverse=True)
    rows: list[tuple[Cell, ...]] = [
        (kind, category or "none", *(str(m.counts.get((s, kind, category), 0)) for s in SPLITS))
        for kind, category in groups
    ]
    rows.append(
        (
            "all",
            "",
            *(str(sum(n for (s, _, _), n in m.counts.items() if s == split)) for split in SPLITS),
        )
    )
    return Table(
        title="Rows",
        header=("kind", "category", *SPLITS),
        rows=tuple(rows),
        text_columns=2,
        caption="Groups of rows made from one another never cross splits.",
    )


def settings(m: FinishedRun) -> Table:
    """The settings in the receipt of each stage, with which the run can be repeated."""
    rows = tuple(
        (r.stage, json.dumps(r.settings, ensure_ascii=False))
        for r in m.receipts
        if r.stage != "report"
    )
    return Table(
        title="Settings of each stage", header=("stage", "settings"), rows=rows, text_columns=2
    )


def _overall(level: LevelRow) -> tuple[Cell, ...]:
    """The cells of one level: refused, false refusals, missed refusals, precision, F1."""
    f1: Cell = number(level.overall.f1)
    if level.overall.f1 is not None and level.f1_interval is not None:
        f1 = Estimate(value=level.overall.f1, low=level.f1_interval[0], high=level.f1_interval[1])
    return (*_rates(level.overall), level.overall.precision, f1)


def _rates(errors: ErrorsRow) -> tuple[Cell, ...]:
    """The cells refused, false refusals, missed refusals."""
    return (errors.refusal_rate, errors.false_refusal, errors.missed_refusal)
